"""A tiny data folder, written without preprocessing, for tests of the trainer."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, SPLITS, Schema, parse_schema

FIELD_ROWS = {"user": 12, "item": 22, "hour": 6}


def tiny_schema(field_rows: dict[str, int] | None = None) -> Schema:
    field_rows = field_rows or FIELD_ROWS
    content = {
        "name": "tiny",
        "label": {"column": "click"},
        "group": "user",
        "split": {"by": "hash", "key": ["user"]},
        "fields": [{"name": name, "kind": "categorical"} for name in field_rows],
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
    """Writes a finished data folder of the tiny schema with `rows` training rows."""
    schema = tiny_schema()
    manifest = {"splits": {}}
    frequencies = np.zeros(schema.table_rows, np.int64)
    for number, split in enumerate(SPLITS):
        ids, labels = draw_rows(rows if split == "train" else rows // 2, seed=number)
        if split == "train":
            offsets = [field.offset for field in schema.fields]
            frequencies += np.bincount((ids + offsets).ravel(), minlength=schema.table_rows)
        (folder / split).mkdir(parents=True)
        entries = []
        for part, chosen in enumerate(np.array_split(np.arange(len(labels)), files)):
            name = f"{split}/part-{part:05d}-of-{files:05d}.tfrecord"
            with tf.io.TFRecordWriter(str(folder / name)) as writer:
                for row in chosen:
                    features = {"ids": _int64(ids[row]), "label": _int64([labels[row]]), "group": _int64([ids[row, 0]])}
                    writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
            entries.append({"path": name, "rows": len(chosen)})
        manifest["splits"][split] = {"rows": len(labels), "positives": int(labels.sum()), "files": entries}
    np.save(folder / "frequencies.npy", frequencies)
    (folder / SCHEMA_FILE).write_text(schema.to_yaml())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder
