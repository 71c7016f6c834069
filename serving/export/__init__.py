"""A trained model to a SavedModel: written, checked against the trainer in a new process, published: `python -m serving.export`."""
