"""What the process that forks workers imports before the first of them: TensorFlow, without its notes, and the worker."""

from preprocessing.environment import start_tensorflow

start_tensorflow()

import benchmarks.accuracy.worker  # noqa: F401 - only now, as it imports TensorFlow
