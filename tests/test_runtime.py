"""How steps are computed: what suits the processor, deterministic kernels, XLA."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import tiny_schema

from trainer.config import RuntimeConfig, load_config
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer
from trainer.runtime import multiplies_bfloat16, require_determinism, resolved


@pytest.mark.parametrize(("flags", "native"), [("fpu avx2", False), ("fpu avx512_bf16 avx2", True), ("amx_bf16", True)])
def test_the_processor_tells_whether_it_multiplies_bfloat16(tmp_path, flags, native):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : none\n")
    assert multiplies_bfloat16(info) == native
    assert not multiplies_bfloat16(tmp_path / "absent")


@pytest.mark.parametrize(("native", "matmul"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_replaced_by_what_suits_the_processor(monkeypatch, native, matmul):
    monkeypatch.setattr("trainer.runtime.multiplies_bfloat16", lambda: native)
    assert resolved(load_config()).runtime.matmul == matmul
    assert resolved(load_config(None, ["runtime.matmul=float32"])).runtime.matmul == "float32"


@pytest.mark.parametrize("gpus", [[], ["one"]])
def test_deterministic_kernels_are_selected_where_there_is_a_choice(monkeypatch, gpus):
    selected = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: selected.append(True))
    require_determinism(RuntimeConfig(deterministic=False))
    assert not selected
    require_determinism(RuntimeConfig())
    assert len(selected) == len(gpus)


@pytest.mark.parametrize("backbone", ["dcn", "hstu"])
def test_xla_computes_the_same_step(backbone):  # but for dropout, as XLA draws other bits from a seed
    def step(*assignments):
        tf.keras.utils.set_random_seed(1)
        config = load_config(None, [f"model.backbone={backbone}", "model.dcn.hidden_units=[8]", "finetune.dropout=0", *assignments])
        model = DGenCTR(tiny_schema(), config)
        model.optimizer = build_optimizer(model, 0.01, table_decay=0.0)
        batch = {"ids": tf.constant([[2, 3, 4], [5, 1, 0], [0, 0, 1]]), "label": tf.constant([1.0, 0.0, 1.0]),
                 "seed": tf.constant([1, 0])}
        return [float(tf.function(model.train_step)(batch)["loss"]) for _ in range(3)]

    np.testing.assert_allclose(step("runtime.xla=true"), step(), rtol=1e-3)
