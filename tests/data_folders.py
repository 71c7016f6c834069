"""Tiny data folders, written without preprocessing, for tests of the trainer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.schema import BUCKETS_FILE, MANIFEST_FILE, SCHEMA_FILE, SPLITS, VOCABULARIES, Schema, parse_schema

FIELD_ROWS = {"user": 12, "item": 22, "hour": 6}


def tiny_schema(field_rows: dict[str, int] | None = None) -> Schema:
    field_rows = field_rows or FIELD_ROWS
    return schema_of({name: "categorical" for name in field_rows}, field_rows)


def schema_of(kinds: dict[str, str], field_rows: dict[str, int]) -> Schema:
    """The resolved schema of fields of these kinds."""
    content = {
        "name": "tiny",
        "label": {"column": "click"},
        "group": "user",
        "split": {"by": "hash", "key": ["user"]},
        "fields": [{"name": name, "kind": kind} for name, kind in kinds.items()],
    }
    return parse_schema(content, "the test").resolve(field_rows)


def draw_rows(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids [rows, 3] and labels [rows]: hour follows from the item, and a click from whether user + item is even."""
    rng = np.random.default_rng(seed)
    user = rng.integers(2, FIELD_ROWS["user"], rows)
    item = rng.integers(2, FIELD_ROWS["item"], rows)
    hour = 2 + item % 4
    click = rng.random(rows) < np.where((user + item) % 2 == 0, 0.8, 0.2)
    return np.stack([user, item, hour], axis=1), click.astype(np.int64)


def _int64(values) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write_data_folder(folder: Path, rows: int = 640, files: int = 2) -> Path:
    """Writes a finished data folder of the tiny schema with `rows` training rows; value n of a field is called FIELDn."""
    splits = {split: draw_rows(rows if split == "train" else rows // 2, seed) for seed, split in enumerate(SPLITS)}
    meanings = {name: [f"{name}{value}" for value in range(2, size)] for name, size in FIELD_ROWS.items()}
    return write_folder(folder, meanings, splits, files)


def write_folder(folder: Path, meanings: Mapping[str, Sequence[str] | Sequence[float]],
                 splits: Mapping[str, tuple[np.ndarray, np.ndarray]], files: int = 2) -> Path:
    """Writes a finished data folder.

    Args:
      meanings: of each field what its rows from 2 on stand for: the texts of a categorical field, or the boundaries of a
        numeric one.
      splits: of each split the ids [rows, F] and the labels [rows].
    """
    texts = {name: values for name, values in meanings.items() if isinstance(values[0], str)}
    kinds = {name: "categorical" if name in texts else "numeric" for name in meanings}
    schema = schema_of(kinds, {name: len(values) + (2 if name in texts else 3) for name, values in meanings.items()})
    (folder / VOCABULARIES).mkdir(parents=True)
    for name, values in texts.items():
        (folder / VOCABULARIES / f"{name}.txt").write_text("".join(f"{value}\n" for value in values))
    buckets = {name: {"boundaries": list(values)} for name, values in meanings.items() if name not in texts}
    (folder / BUCKETS_FILE).write_text(json.dumps(buckets))

    offsets = [field.offset for field in schema.fields]
    frequencies = np.bincount((splits["train"][0] + offsets).ravel(), minlength=schema.table_rows)
    np.save(folder / "frequencies.npy", frequencies.astype(np.int64))
    manifest = {"splits": {split: _write_split(folder, split, *splits[split], files) for split in SPLITS}}
    (folder / SCHEMA_FILE).write_text(schema.to_yaml())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def _write_split(folder: Path, split: str, ids: np.ndarray, labels: np.ndarray, files: int) -> dict:
    """Writes the records of a split; returns its entry of the manifest."""
    (folder / split).mkdir()
    entries = []
    for part, chosen in enumerate(np.array_split(np.arange(len(labels)), files)):
        name = f"{split}/part-{part:05d}-of-{files:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for row in chosen:
                features = {"ids": _int64(ids[row]), "label": _int64([labels[row]]), "group": _int64([ids[row, 0]])}
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
        entries.append({"path": name, "rows": len(chosen)})
    return {"rows": len(labels), "positives": int(labels.sum()), "files": entries}
