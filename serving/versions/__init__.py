"""Versions under a model base path: publishing, labels, the pin, rolling back: `python -m serving.versions`."""
