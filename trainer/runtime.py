"""How TensorFlow computes training steps: precision of matrix products, deterministic kernels."""

import re
from pathlib import Path

import tensorflow as tf

from trainer.config import Config, RuntimeConfig

BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
CPU_INFO = Path("/proc/cpuinfo")


def multiplies_bfloat16(cpu_info: Path = CPU_INFO) -> bool:
    """Whether the processor has instructions for products of bfloat16; False where the system does not tell."""
    if not cpu_info.exists():
        return False
    flags = re.search(r"^flags\s*:(.*)$", cpu_info.read_text(encoding="utf-8"), re.MULTILINE)
    return bool(flags and BFLOAT16_INSTRUCTIONS & set(flags[1].split()))


def resolved(config: Config) -> Config:
    """The configuration with `runtime.matmul=auto` replaced by what suits this processor."""
    if config.runtime.matmul != "auto":
        return config
    matmul = "bfloat16" if multiplies_bfloat16() else "float32"
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"matmul": matmul})})


def require_determinism(settings: RuntimeConfig) -> None:
    """Selects deterministic kernels where there are others: on GPUs. All kernels of a step are deterministic on CPUs."""
    if settings.deterministic and tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
