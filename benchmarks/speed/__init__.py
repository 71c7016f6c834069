"""The arms of `benchmarks.training_speed`, each a process of its own, and the click log that all of them train on."""

from preprocessing.environment import require

require()
del require
