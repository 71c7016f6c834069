"""Predicted and measured peak memory of training, case by case: `python -m benchmarks.memory --folder memory_run`.

Each case trains one epoch on drawn rows in a process of its own, whose peak is what the system says of it when it has ended.
The cases differ in what takes the memory: a large batch, a large table, softmaxes over whole fields, attention, rows that
are kept, rows that are read in windows, a checkpoint that is read.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.folder import new_data_folder
from preprocessing.records import serialize_features
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, SPECIAL_ROWS, SPLITS, VOCABULARIES, Schema, parse_schema
from trainer.config import load_config
from trainer.progress import print_table

CLICK_RATE = 0.2
HELD_OUT_ROWS = 8192
FILES = 4
TOLERANCE = 0.2
BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024
# Starts a command and prints its peak. A process begins with the peak of the one that starts it, which must thus be small.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@dataclass(frozen=True)
class Case:
    """A training stage: the rows of its fields, its training rows, its settings; and whether it continues an earlier run."""

    title: str
    stage: str
    field_rows: tuple[int, ...]
    rows: int
    settings: tuple[str, ...] = ()
    resumed: bool = False

    @property
    def schema(self) -> Schema:
        names = {f"field_{number:02d}": rows for number, rows in enumerate(self.field_rows, start=1)}
        content = {"name": "memory", "label": {"column": "click"}, "split": {"by": "column", "column": "split"},
                   "fields": [{"name": name, "kind": "categorical"} for name in names]}
        return parse_schema(content, "the memory benchmark").resolve(names)

    @property
    def split_rows(self) -> dict[str, int]:
        return {split: self.rows if split == "train" else HELD_OUT_ROWS for split in SPLITS}

    def assignments(self, epochs: int) -> list[str]:
        return [f"{self.stage}.epochs={epochs}", f"{self.stage}.min_steps=1", *self.settings]


FIELDS = (1000,) * 39
CASES = (
    Case("small everything", "finetune", (100,) * 8, 50_000),
    Case("small everything, pre-training", "pretrain", (100,) * 8, 50_000),
    Case("large batch", "finetune", FIELDS, 200_000, ("finetune.batch_size=32768",)),
    Case("the same in float32", "finetune", FIELDS, 200_000, ("finetune.batch_size=32768", "runtime.matmul=float32")),
    Case("large batch, pre-training", "pretrain", (100,) * 39, 100_000, ("pretrain.batch_size=16384",)),
    Case("table of 10 million rows", "finetune", (*FIELDS[:9], 10_000_000 - 9000), 50_000),
    Case("the large table, pre-training", "pretrain", (*FIELDS[:9], 10_000_000 - 9000), 50_000),
    Case("the large table, continued", "pretrain", (*FIELDS[:9], 10_000_000 - 9000), 50_000, resumed=True),
    Case("softmax over 4096 rows", "pretrain", (4096,) * 10, 100_000, ("pretrain.batch_size=8192",)),
    Case("sampled softmax", "pretrain", (50_000,) * 10, 100_000, ("pretrain.batch_size=8192",)),
    Case("attention", "finetune", FIELDS, 50_000, ("model.backbone=hstu",)),
    Case("attention in float32", "finetune", FIELDS, 50_000, ("model.backbone=hstu", "runtime.matmul=float32")),
    Case("attention, pre-training", "pretrain", FIELDS, 50_000, ("model.backbone=hstu",)),
    Case("transformer", "finetune", FIELDS, 50_000, ("model.backbone=transformer",)),
    Case("FinalMLP, large batch", "finetune", FIELDS, 200_000, ("model.kind=finalmlp", "finetune.batch_size=32768")),
    Case("a million rows kept", "finetune", FIELDS, 1_000_000),
    Case("rows read in windows", "finetune", FIELDS, 1_000_000, ("input.window_rows=300000",)),
)


def write_data(folder: Path, case: Case) -> None:
    """Writes a data folder of uniformly drawn ids and clicks."""
    schema = case.schema
    with new_data_folder(folder, overwrite=False) as partial:
        splits = {split: _write_split(partial, split, rows, schema) for split, rows in case.split_rows.items()}
        np.save(partial / "frequencies.npy", np.ones(schema.table_rows, np.int64))
        (partial / VOCABULARIES).mkdir()
        for field in schema.fields:
            values = "\n".join(map(str, range(field.rows - SPECIAL_ROWS)))
            (partial / VOCABULARIES / f"{field.name}.txt").write_text(f"{values}\n", encoding="utf-8")
        (partial / SCHEMA_FILE).write_text(schema.to_yaml(), encoding="utf-8")
        (partial / MANIFEST_FILE).write_text(json.dumps({"splits": splits}), encoding="utf-8")


def _write_split(folder: Path, split: str, rows: int, schema: Schema) -> dict:
    import tensorflow as tf  # here, so that `start_tensorflow` comes first

    (folder / split).mkdir()
    rng = np.random.default_rng([SPLITS.index(split), rows])
    entries, positives = [], 0
    for part, size in enumerate(len(chunk) for chunk in np.array_split(np.empty(rows), FILES)):
        ids = rng.integers(SPECIAL_ROWS, schema.field_rows, (size, len(schema.fields)))
        clicks = (rng.random(size) < CLICK_RATE).astype(np.int64)
        name = f"{split}/part-{part:05d}-of-{FILES:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for record in serialize_features({"ids": ids, "label": clicks[:, None]}).to_pylist():
                writer.write(record)
        entries.append({"path": name, "rows": size})
        positives += int(clicks.sum())
    return {"rows": rows, "positives": positives, "files": entries}


def measure(case: Case, folder: Path) -> int:
    """Peak resident bytes of a process that trains the case."""
    shutil.rmtree(folder, ignore_errors=True)
    write_data(folder / "data", case)
    try:
        peak = _train(case, folder, epochs=1)
        return _train(case, folder, epochs=2) if case.resumed else peak
    finally:
        shutil.rmtree(folder)


def _train(case: Case, folder: Path, epochs: int) -> int:
    command = [sys.executable, "-m", "trainer.task", f"--stage={case.stage}", "--data_dir", str(folder / "data"),
               "--model_dir", str(folder / "model"), *(["--from_scratch"] if case.stage == "finetune" else [])]
    for assignment in case.assignments(epochs):
        command += ["--set", assignment]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"case {case.title!r} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return int(done.stdout) * BYTES_OF_MAXRSS


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new working folder, removed at the end; 6 GB at the most")
    parser.add_argument("--cases", nargs="+", metavar="TITLE", help="only cases whose title contains one of these texts")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    if arguments.folder.exists():
        raise UserError(f"--folder {arguments.folder} exists: give a new folder, as it is removed at the end")
    start_tensorflow()
    from trainer.memory import predict

    results = []
    for case in CASES:
        if arguments.cases and not any(text in case.title for text in arguments.cases):
            continue
        config = load_config(None, case.assignments(1))
        predicted = predict(case.stage, config, case.schema, case.split_rows, case.resumed).peak
        measured = measure(case, arguments.folder)
        error = predicted / measured - 1
        results.append((case.title, case.stage, f"{predicted / 1e6:,.0f}", f"{measured / 1e6:,.0f}", f"{error:+.1%}",
                        "yes" if abs(error) <= TOLERANCE else "NO"))
        print("  ".join(results[-1]), flush=True)
    print_table("Peak memory in MB", results, ("case", "stage", "predicted", "measured", "error", f"within {TOLERANCE:.0%}"))


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
