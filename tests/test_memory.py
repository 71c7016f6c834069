"""The memory prediction: its parts by hand, the limits of machines and containers, the refusal, and a measured peak."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_folders import tiny_schema

from preprocessing.errors import UserError
from trainer import memory
from trainer.backbones import BACKBONES
from trainer.baselines import NETWORKS
from trainer.config import load_config
from trainer.memory import available_bytes, checkpoint_bytes, parameter_counts, predict, refusal, require_memory
from trainer.models import build_model

ROWS = {"train": 100_000, "valid": 1000, "test": 1000}


def parts(stage, schema, *assignments, resumed=False):
    prediction = predict(stage, load_config(None, assignments), schema, ROWS, resumed)
    return dict(prediction.parts)


# Parts.


@pytest.mark.parametrize("assignments", [
    *([f"model.kind={name}"] for name in NETWORKS), *([f"model.backbone={name}"] for name in BACKBONES), ["model.dcn.hidden_units=[]"], ["model.dcn.cross_layers=0", "model.dcn.batch_norm=false"],
    ["model.backbone=hstu", "model.hstu.layers=3", "model.embedding_dim=5"],
    ["model.backbone=transformer", "model.transformer.layers=3", "model.transformer.feed_forward=7", "model.embedding_dim=5"],
    ["model.backbone=mlp", "model.mlp.hidden_units=[6, 5]"], ["model.backbone=mlp", "model.mlp.batch_norm=false"],
    ["model.mask_embedding=shared", "model.scoring.function=shared"], ["model.mask_embedding=zero", "model.time_input=sinusoidal"],
    ["model.scoring.hidden_units=7", "diffusion.loss_weights=learned"],
    ["model.scoring.hidden_units=7", "model.scoring.function=shared", "model.backbone=hstu", "diffusion.loss_weights=learned_queries"],
    ["model.scoring.hidden_units=7", "model.backbone=hstu", "diffusion.label=absent", "diffusion.loss_weights=learned_reversed"],
    ["model.kind=deepfm", "model.mlp.hidden_units=[6, 5]"],
    ["model.kind=dcn_v2", "model.dcn.batch_norm=false"], ["model.kind=dcn_v2", "model.dcn.cross_layers=0"],
    ["model.kind=finalmlp", "model.finalmlp.first.gate_fields=[user, hour]", "model.finalmlp.second.hidden_units=[10]"]])
def test_parameters_are_counted_as_the_model_has_them(assignments):
    config, schema = load_config(None, assignments), tiny_schema()
    model = build_model(schema, config, "finetune")
    table, others = parameter_counts(config, schema)
    assert table == np.prod(model.embedding.table.shape)
    assert table + others == sum(np.prod(variable.shape) for variable in model.variables)


def test_table_moments_and_frequencies():
    schema = tiny_schema({"user": 1_000_000, "item": 500_000})
    found = parts("finetune", schema, "model.embedding_dim=8")
    assert found["embedding table, 1,500,000 rows x 8"] == 1_500_000 * 8 * 4
    assert found["its two moments"] == 2 * 1_500_000 * 8 * 4
    assert found["training frequencies"] == 1_500_000 * 8
    # pre-training: float32 logarithms too, and two float64 arrays of the largest field on the way to them
    assert parts("pretrain", schema)["training frequencies"] == 1_500_000 * (8 + 4) + 1_000_000 * 16
    assert checkpoint_bytes(load_config(None, ["model.embedding_dim=8"]), schema) > 3 * 1_500_000 * 8 * 4


def test_a_batch_by_hand():
    # 3 fields and the label, 2 wide: 8 floats of tokens; 4.5 + 3 x 3.0 times these (two crosses, one norm); a tower of 100 with batch norm and dropout.
    settings = ["model.embedding_dim=2", "model.dcn.cross_layers=2", "model.dcn.hidden_units=[100]", "finetune.batch_size=5000"]
    expected = 5000 * 4 * (8 * 13.5 + 100 * (1.9 + 0.8 + 1.8))
    for matmul, share in (("float32", 1.0), ("bfloat16", memory.BFLOAT16_SHARE)):
        found = parts("finetune", tiny_schema(), *settings, f"runtime.matmul={matmul}")
        assert found["a batch of 5,000 rows"] == pytest.approx(share * expected)


def test_attention_and_gates_by_hand():
    # 3 fields and the label, 2 wide, in a stream of 8 with 16 inside its blocks, one head.
    tokens, stream = 4, ["model.transformer.width=8", "model.transformer.heads=1", "model.transformer.layers=1",
                         "model.transformer.feed_forward=16", "model.backbone=transformer"]
    of_transformer = 4.5 * 4 * 2 + 8.0 * 4 * 8 + 14.4 * 4 * 8 + 4.5 * 4 * 16 + 2.0 * tokens**2
    # A gate on features of 6 with a hidden layer of 64 and one that is the same for all samples, before towers of 100 and 50; no label.
    gates = ["model.kind=finalmlp", "model.finalmlp.first.gate_fields=[user]", "model.finalmlp.first.hidden_units=[100]", "model.finalmlp.second.hidden_units=[50]"]
    of_finalmlp = 4.5 * 6 + 2.7 * 6 + 3.0 * 64 + 150 * (1.9 + 0.8 + 1.8)
    for settings, expected in ((stream, of_transformer), (gates, of_finalmlp)):
        found = parts("finetune", tiny_schema(), "model.embedding_dim=2", "finetune.batch_size=5000", "runtime.matmul=float32", *settings)
        assert found["a batch of 5,000 rows"] == pytest.approx(5000 * 4 * expected)


def test_softmaxes_by_hand(monkeypatch):
    monkeypatch.setattr(memory, "available_cores", lambda: 2)
    schema = tiny_schema({"a": 4000, "b": 3000, "c": 2000, "d": 5000, "e": 6000})
    config = load_config(None, ["model.scoring.sampled_candidates=100"])
    # full: a and b at once, and a once more; sampled: d and e; half of the samples are masked
    assert memory._softmax_floats(config, schema) == 0.5 * (2 * (4000 + 3000) + 2 * 4000 + (1.5 * 2 + 4) * 100)


@pytest.mark.parametrize(("diffusion", "share"), [
    ("linear", 0.5), ("cosine", 0.3634), ("fixed", 0.3)])
def test_masked_share(diffusion, share):
    config = load_config(None, [f"diffusion.schedule={diffusion}"])
    assert memory._masked_share(config, tiny_schema()) == pytest.approx(share, abs=1e-4)


def test_a_split_is_kept_or_read_in_windows():
    schema = tiny_schema()  # a row: three ids, a label, a group of 8 bytes
    kept = parts("finetune", schema)["rows in memory"]
    assert kept == 100_000 * (24 + memory.ORDER_BYTES) + 1000 * 24
    windows = parts("finetune", schema, "input.window_rows=500")["rows in memory"]
    assert windows == 500 * (memory.WINDOW_COPIES * 24 + memory.ORDER_BYTES)


def test_decoding_many_rows_can_be_the_peak():
    config = load_config(None, ["input.window_rows=100000000"])
    found = dict(predict("finetune", config, tiny_schema(), {**ROWS, "train": 50_000_000}).parts)
    assert found["decoding the rows"] == 50_000_000 * 24


def test_a_small_batch_leaves_the_peak_to_evaluation():
    schema = tiny_schema()
    small = [parts("finetune", schema, f"finetune.batch_size={size}") for size in (32, 64)]
    assert small[0]["a batch of 32 rows"] == small[1]["a batch of 64 rows"] > 0


def test_reading_a_checkpoint_holds_the_moments_twice():
    schema = tiny_schema({"user": 1_000_000, "item": 10})
    found = parts("pretrain", schema, resumed=True)
    assert found["reading the checkpoint"] == found["its two moments"]
    assert "reading the checkpoint" not in parts("pretrain", schema)


# Limits.


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine with 8 GB available, in which this process has 1 GB."""
    files = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    7812500 kB\n", "proc/self/status": "Name: x\nVmRSS:  976562 kB\n",
             "proc/self/cgroup": cgroup, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_available_without_a_container(tmp_path):
    root = machine(tmp_path, "0::/\n", {})
    assert available_bytes(root) == pytest.approx(9e9, rel=1e-5)


def test_available_in_a_container_of_version_2(tmp_path):
    job = "sys/fs/cgroup/batch/job"
    root = machine(tmp_path, "0::/batch/job\n", {
        f"{job}/memory.max": "max\n", f"{job}/memory.current": "1\n", f"{job}/memory.stat": "inactive_file 0\n",
        "sys/fs/cgroup/batch/memory.max": "4000000000\n", "sys/fs/cgroup/batch/memory.current": "3000000000\n",
        "sys/fs/cgroup/batch/memory.stat": "anon 5\ninactive_file 500000000\n"})
    assert available_bytes(root) == pytest.approx(1.5e9 + 1e9, rel=1e-5)


def test_available_in_a_container_of_version_1(tmp_path):
    group = "sys/fs/cgroup/memory"
    root = machine(tmp_path, "5:cpu:/x\n4:memory:/elsewhere\n", {
        f"{group}/memory.limit_in_bytes": "4000000000\n", f"{group}/memory.usage_in_bytes": "3000000000\n",
        f"{group}/memory.stat": "total_inactive_file 0\n"})
    assert available_bytes(root) == pytest.approx(1e9 + 1e9, rel=1e-5)


def test_available_on_another_system(tmp_path):
    assert available_bytes(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# What is said.


def test_the_prediction_is_printed(capsys):
    require_memory("finetune", load_config(None, ["memory_limit_gb=5000"]), tiny_schema(), ROWS)
    printed = capsys.readouterr().out
    assert "finetune: memory" in printed and "predicted peak" in printed and "5,000,000 MB" in printed


def test_a_run_that_could_not_be_continued_is_warned_of(capsys):
    schema = tiny_schema({"user": 10_000_000, "item": 10})
    config = load_config(None, ["memory_limit_gb=3.5"])
    require_memory("finetune", config, schema, ROWS)
    later = predict("finetune", config, schema, ROWS, resumed=True).peak
    assert f"continuing this run after a stop would take {later / 1e9:.2f} GB" in capsys.readouterr().out


def test_over_the_limit_is_refused_with_what_would_fit():
    schema = tiny_schema({"user": 10_000_000, "item": 10})
    config = load_config(None, ["memory_limit_gb=1.5", "finetune.batch_size=4096"])
    with pytest.raises(UserError) as error:
        require_memory("finetune", config, schema, ROWS)
    message, peak = str(error.value), predict("finetune", config, schema, ROWS).peak
    assert f"finetune would take {peak / 1e9:.2f} GB" in message and "1.50 GB may be used" in message
    narrower = config.model_copy(update={"model": config.model.model_copy(update={"embedding_dim": 8})})
    peak = predict("finetune", narrower, schema, ROWS).peak
    assert message.index(f"`--set model.embedding_dim=8` ({peak / 1e9:.2f} GB)") < message.index("--set finetune.batch_size=2048")
    assert "min_count" in message and "parameter servers" in message and "memory_limit_gb" in message


def test_a_setting_that_cannot_be_halved_is_not_advised():
    config = load_config(None, ["model.embedding_dim=1"])
    schema = tiny_schema()
    message = refusal(predict("finetune", config, schema, ROWS), config, schema, ROWS, 1.0)
    assert "embedding_dim" not in message and "batch_size" in message


def test_a_setting_that_is_not_read_is_not_advised():
    config, schema = load_config(None, ["model.kind=lr"]), tiny_schema({"user": 10_000_000, "item": 10})
    message = refusal(predict("finetune", config, schema, ROWS), config, schema, ROWS, 1.0)
    assert "embedding_dim" not in message and "--set input.window_rows" in message


# What is measured. The process itself is left out, as its size differs between machines; `benchmarks.memory` has all of it.

ROOT = Path(__file__).resolve().parents[1]
PEAK_OF_STEPS = """
import re, sys
from pathlib import Path
sys.path.insert(0, "tests")
from data_folders import tiny_schema
import numpy as np
import tensorflow as tf
from trainer.config import load_config
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

rows, batch, assignments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
schema = tiny_schema({"user": rows, "item": 1000})
tf.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
before = peak()
counts = [np.ones(size, np.int64) for size in schema.field_rows]
model = DGenCTR(schema, load_config(None, assignments), "finetune", counts, 0.2)
model.optimizer = build_optimizer(model, 0.001, 0.0)
train_step = tf.function(model.train_step)
for step in range(3):
    ids = tf.random.stateless_uniform((batch, 2), (step, 0), 0, 1000, tf.int32)
    train_step({"ids": ids, "label": tf.cast(ids[:, 0] % 2, tf.float32), "seed": tf.constant([1, step])})
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells a process its peak")
def test_the_prediction_is_near_the_measured_peak():
    rows, batch, settings = 2_500_000, 32_768, ["finetune.batch_size=32768", "finetune.min_steps=1", "runtime.matmul=float32"]
    done = subprocess.run([sys.executable, "-c", PEAK_OF_STEPS, str(rows), str(batch), *settings], cwd=ROOT, capture_output=True,
                          text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = parts("finetune", tiny_schema({"user": rows, "item": 1000}), *settings)
    predicted = sum(size for name, size in found.items() if not name.startswith(("Python", "rows")))
    assert predicted == pytest.approx(int(done.stdout), rel=0.2)
