"""Data folder to batches: TFRecords of packed ids become tf.data batches in an order fixed by (seed, epoch)."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import MANIFEST_FILE, SPLITS, Schema, load_data_folder_schema, train_checksum

READ_BUFFER_BYTES = 4 << 20
SMALLEST_BATCH = 32


@dataclass(frozen=True)
class DataFolder:
    """A finished data folder: its resolved schema and its manifest."""

    path: Path
    schema: Schema
    manifest: dict

    @classmethod
    def open(cls, path: str | Path) -> "DataFolder":
        """Opens a folder written by `preprocessing.task`, or raises a `UserError` that says what is missing."""
        path = Path(path)
        schema = load_data_folder_schema(path)
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        for split in SPLITS:
            for entry in manifest["splits"][split]["files"]:
                if not (path / entry["path"]).is_file():
                    raise UserError(f"data folder {path}: {entry['path']} is in {MANIFEST_FILE} but not on disk; "
                                    "restore it or run `python -m preprocessing.task` again")
        return cls(path, schema, manifest)

    def rows(self, split: str) -> int:
        return self.manifest["splits"][split]["rows"]

    def files(self, split: str) -> list[str]:
        return [str(self.path / entry["path"]) for entry in self.manifest["splits"][split]["files"] if entry["rows"]]

    @property
    def click_rate(self) -> float:
        """Share of clicks in the training split."""
        train = self.manifest["splits"]["train"]
        return train["positives"] / max(train["rows"], 1)

    @cached_property
    def checksum(self) -> str:
        """Identifies what a model learns from: schema, training rows, vocabularies, buckets."""
        return train_checksum(self.path)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Training count of every row of the shared table, int64 [table_rows]."""
        return np.load(self.path / "frequencies.npy", allow_pickle=False)


def _read_records(files: list[str]) -> tf.data.Dataset:
    compression = "GZIP" if files[0].endswith(".gz") else ""
    return tf.data.TFRecordDataset(files, compression_type=compression, buffer_size=READ_BUFFER_BYTES)


def _parse_with(schema: Schema):
    features = {
        "ids": tf.io.FixedLenFeature([len(schema.fields)], tf.int64),
        "label": tf.io.FixedLenFeature([1], tf.int64),
    }
    if schema.group:
        features["group"] = tf.io.FixedLenFeature([1], tf.int64)

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, features)
        batch = {"ids": tf.cast(parsed["ids"], tf.int32), "label": tf.cast(parsed["label"][:, 0], tf.float32)}
        if schema.group:
            batch["group"] = parsed["group"][:, 0]
        return batch

    return parse


def require_rows(folder: DataFolder, split: str) -> None:
    if not folder.rows(split):
        raise UserError(f"data folder {folder.path}: split {split!r} has no rows; change `split` in the schema and preprocess again")


def training_batches(folder: DataFolder, batch_size: int, seed: int, epoch: int, shuffle_buffer: int) -> tf.data.Dataset:
    """Shuffled batches of one pass over the training split: {"ids": int32 [B, F], "label": float [B], ...}.

    The order is a function of (seed, epoch) alone. The last, smaller batch is dropped, as every batch is a new draw
    from the shuffled split; a split smaller than one batch is used whole.
    """
    require_rows(folder, "train")
    files = folder.files("train")
    order = np.random.default_rng([seed, epoch]).permutation(len(files))
    records = _read_records([files[i] for i in order])
    records = records.shuffle(shuffle_buffer, seed=seed * 100_003 + epoch, reshuffle_each_iteration=False)
    batches = records.batch(batch_size, drop_remainder=folder.rows("train") >= batch_size)
    return batches.map(_parse_with(folder.schema), num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def steps_per_epoch(folder: DataFolder, batch_size: int) -> int:
    return max(1, folder.rows("train") // batch_size)


def fitting_batch_size(rows: int, batch_size: int, min_steps: int) -> int:
    """The batch size with which an epoch of `rows` has at least `min_steps` steps, but not below 32 (or all) rows."""
    return min(batch_size, rows, max(rows // min_steps, SMALLEST_BATCH))


def evaluation_batches(folder: DataFolder, split: str, batch_size: int = 8192) -> tf.data.Dataset:
    """The rows of a split in file order, every row once."""
    require_rows(folder, split)
    batches = _read_records(folder.files(split)).batch(batch_size)
    return batches.map(_parse_with(folder.schema), num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
