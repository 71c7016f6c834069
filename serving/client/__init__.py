"""Clients of TensorFlow Serving's gRPC protocol, for programs and, as `python -m serving.client`, for files."""
