"""How TensorFlow computes training steps: precision of matrix products, deterministic kernels."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from preprocessing.errors import UserError
from trainer.config import Config, RuntimeConfig

BFLOAT16_MATMUL = "auto_mixed_precision_onednn_bfloat16"
BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
CPU_INFO = Path("/proc/cpuinfo")


def multiplies_bfloat16(cpu_info: Path = CPU_INFO) -> bool:
    """Whether the processor has instructions for products of bfloat16; False where the system does not tell."""
    if not cpu_info.exists():
        return False
    flags = re.search(r"^flags\s*:(.*)$", cpu_info.read_text(encoding="utf-8"), re.MULTILINE)
    return bool(flags and BFLOAT16_INSTRUCTIONS & set(flags[1].split()))


def resolved(config: Config, several_devices: bool = False) -> Config:
    """The configuration with `runtime.matmul=auto` replaced by what suits this processor: float32 on several devices.

    Raises:
      UserError: bfloat16 on several devices, where TensorFlow rounds more than products: the loss itself has 8 bits.
    """
    if config.runtime.matmul == "bfloat16" and several_devices:
        raise UserError("runtime.matmul=bfloat16 is for one device; TensorFlow would round the loss to it on several: leave the "
                        "setting out, or set it to float32")
    if config.runtime.matmul != "auto":
        return config
    matmul = "bfloat16" if multiplies_bfloat16() and not several_devices else "float32"
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"matmul": matmul})})


def require_determinism(settings: RuntimeConfig) -> None:
    """Selects deterministic kernels where there are others: on GPUs. All kernels of a step are deterministic on CPUs."""
    if settings.deterministic and tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


@contextmanager
def training_precision(settings: RuntimeConfig) -> Iterator[None]:
    """Functions called inside compute matrix products in the precision of resolved settings, those outside in float32."""
    tf.config.optimizer.set_experimental_options({BFLOAT16_MATMUL: settings.matmul == "bfloat16"})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({BFLOAT16_MATMUL: False})
