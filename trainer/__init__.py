"""The generative click model: pre-training, fine-tuning, evaluation."""

from preprocessing.environment import require

require()
del require
