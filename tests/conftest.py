"""Selects Keras 2 before a test module imports TensorFlow."""

import preprocessing  # noqa: F401
