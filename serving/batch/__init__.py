"""Offline scoring: a log through a SavedModel, without a server, on any Beam runner: `python -m serving.batch`."""
