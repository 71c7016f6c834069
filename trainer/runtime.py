"""How TensorFlow computes training steps: precision of matrix products, deterministic kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from trainer.config import RuntimeConfig

BFLOAT16_MATMUL = "auto_mixed_precision_onednn_bfloat16"


def require_determinism(settings: RuntimeConfig) -> None:
    """Selects deterministic kernels where there are others: on GPUs. All kernels of a step are deterministic on CPUs."""
    if settings.deterministic and tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


@contextmanager
def training_precision(settings: RuntimeConfig) -> Iterator[None]:
    """Functions called inside compute matrix products in the precision of the settings, those outside in float32."""
    tf.config.optimizer.set_experimental_options({BFLOAT16_MATMUL: settings.matmul == "bfloat16"})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({BFLOAT16_MATMUL: False})
