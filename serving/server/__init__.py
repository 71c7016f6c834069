"""The embedded model server: TensorFlow Serving's gRPC and REST protocols for machines without its binary: `python -m serving.server`."""
