"""Tiny data folders, written without preprocessing, for tests of the trainer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from preprocessing.schema import (
    BUCKETS_FILE,
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    SCHEMA_FILE,
    SPLITS,
    TALLY_FILE,
    VOCABULARIES,
    Schema,
    TableField,
    parse_schema,
)

FIELD_ROWS = {"user": 12, "item": 22, "hour": 6}
UNLABELLED = -1


def tiny_schema(field_rows: dict[str, int] | None = None) -> Schema:
    field_rows = field_rows or FIELD_ROWS
    return schema_of({name: {"kind": "categorical"} for name in field_rows}, field_rows)


def schema_of(fields: Mapping[str, Mapping[str, Any]], field_rows: Mapping[str, int], **columns: str) -> Schema:
    """The resolved schema of these fields.

    Args:
      fields: by name, what the schema says of each.
      field_rows: rows of the owners.
      columns: of `weight`, `key` or `timestamp`.
    """
    content = {
        "name": "tiny",
        "label": {"column": "click"},
        "group": "user",
        "split": {"by": "hash", "key": ["user"]},
        "fields": [{"name": name, **settings} for name, settings in fields.items()],
        **columns,
    }
    return parse_schema(content, "the test").resolve(dict(field_rows))


def draw_rows(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids [rows, 3] and labels [rows]: hour follows from the item, and a click from whether user + item is even."""
    rng = np.random.default_rng(seed)
    user = rng.integers(2, FIELD_ROWS["user"], rows)
    item = rng.integers(2, FIELD_ROWS["item"], rows)
    hour = 2 + item % 4
    click = rng.random(rows) < np.where((user + item) % 2 == 0, 0.8, 0.2)
    return np.stack([user, item, hour], axis=1), click.astype(np.int64)


def write_data_folder(folder: Path, rows: int = 640, files: int = 2, unlabelled_every: int = 0, weighted: bool = False) -> Path:
    """Writes a finished data folder of the tiny schema with `rows` training rows; value n of a field is called FIELDn.

    Args:
      unlabelled_every: 5 leaves out the label of every fifth row of each split.
      weighted: whether rows have weights from 0.5 to 2.
    """
    splits = {}
    for seed, split in enumerate(SPLITS):
        ids, labels = draw_rows(rows if split == "train" else rows // 2, seed)
        if unlabelled_every:
            labels[::unlabelled_every] = UNLABELLED
        splits[split] = ids, labels, {"weight": np.random.default_rng(seed).uniform(0.5, 2.0, len(labels))} if weighted else {}
    meanings = {name: [f"{name}{value}" for value in range(2, size)] for name, size in FIELD_ROWS.items()}
    return write_folder(folder, meanings, splits, files, **({"weight": "importance"} if weighted else {}))


def write_folder_of_all_kinds(folder: Path, rows: int = 640) -> Path:
    """Writes a finished data folder with a field of every kind, a shared and a hashed vocabulary, weights and keys.

    `history` owns the vocabulary of the items; `item` and `last` are id fields that share it. A click follows from whether
    user and item are even. Every fourth row has no label.
    """
    splits = {}
    for seed, split in enumerate(SPLITS):
        rng, size = np.random.default_rng(seed), rows if split == "train" else rows // 2
        user, item = rng.integers(2, 12, size), rng.integers(2, 22, size)
        history = [rng.integers(2, 22, length) for length in rng.integers(0, 4, size)]
        last = [values[-1] if len(values) else 0 for values in history]
        ids = np.stack([user, item, last, rng.integers(2, 5, size), rng.integers(2, 7, size)], axis=1)
        labels = (rng.random(size) < np.where((user + item) % 2 == 0, 0.8, 0.2)).astype(np.int64)
        labels[::4] = UNLABELLED
        splits[split] = ids, labels, {
            "history": history, "image": rng.normal(size=(size, 2)), "image_missing": np.zeros(size, np.int64),
            "key": [f"row {row}" for row in range(size)], "weight": rng.uniform(0.5, 2.0, size), "timestamp": np.arange(size)}
    meanings = {"history": [f"item{value}" for value in range(2, 22)], "user": [f"user{value}" for value in range(2, 12)],
                "price": [1.0, 2.0]}
    fields = {"history": {"kind": "sequence", "max_length": 3}, "user": {}, "item": {"vocabulary": "history"},
              "last": {"vocabulary": "history"}, "price": {}, "device": {"hash_buckets": 5}, "image": {"kind": "vector", "size": 2}}
    return write_folder(folder, meanings, splits, fields=fields, key="row", weight="importance", timestamp="time")


def write_folder(folder: Path, meanings: Mapping[str, Sequence[str] | Sequence[float]], splits: Mapping[str, tuple],
                 files: int = 2, fields: Mapping[str, Mapping[str, Any]] | None = None, **columns: str) -> Path:
    """Writes a finished data folder.

    Args:
      meanings: of each vocabulary or list of boundaries that there is, by the name of its owner, what the rows from 2 on
        stand for: texts or ascending numbers.
      splits: of each split the ids [rows, id fields], the labels [rows] (-1: none) and optionally a mapping of more columns:
        `weight` and `timestamp` [rows], `key` texts, lists of ids by the name of their field, vectors [rows, size].
      fields: by name and in order, what the schema says of each; by default those of `meanings`.
      columns: of `weight`, `key` or `timestamp` in the schema.
    """
    texts = {name: values for name, values in meanings.items() if isinstance(values[0], str)}
    sizes = {name: len(values) + (2 if name in texts else 3) for name, values in meanings.items()}
    settings = {name: {"kind": "numeric" if name in meanings and name not in texts else "categorical", **more}
                for name, more in (fields or {name: {} for name in meanings}).items()}
    sizes |= {name: more["hash_buckets"] + 2 for name, more in settings.items() if "hash_buckets" in more}
    schema = schema_of(settings, sizes, **columns)
    (folder / VOCABULARIES).mkdir(parents=True)
    for name, values in texts.items():
        (folder / VOCABULARIES / f"{name}.txt").write_text("".join(f"{value}\n" for value in values))
    buckets = {name: {"boundaries": list(values)} for name, values in meanings.items() if name not in texts}
    (folder / BUCKETS_FILE).write_text(json.dumps(buckets))
    _write_counts(folder, schema, *splits["train"])
    manifest = {"splits": {split: _write_split(folder, split, *splits[split], files=files) for split in SPLITS}}
    (folder / SCHEMA_FILE).write_text(schema.to_yaml())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def _write_counts(folder: Path, schema: Schema, ids: np.ndarray, labels: np.ndarray,
                  columns: Mapping[str, Sequence] | None = None) -> None:
    values = dict(zip([field.name for field in schema.id_fields], ids.T, strict=True))
    values |= {field.name: np.concatenate(columns[field.name]) for field in schema.list_fields}
    frequencies, tally = np.zeros(schema.table_rows, np.int64), {}
    for field in (field for field in schema.fields if isinstance(field, TableField)):
        counts = np.bincount(values[field.name].astype(np.int64), minlength=field.rows)
        frequencies[field.offset:field.offset + field.rows] += counts
        if field in schema.sharing_fields:
            places = np.flatnonzero(counts)
            tally |= {f"shared {field.name} places": places, f"shared {field.name} counts": counts[places]}
    np.save(folder / FREQUENCIES_FILE, frequencies)
    np.savez(folder / TALLY_FILE, **tally)


def table_counts(schema: Schema, counts: np.ndarray) -> list[np.ndarray]:
    """Counts [table_rows] of a schema without shared vocabularies, as the model takes them: field by field."""
    return np.split(counts, [field.offset for field in schema.fields[1:]])


def _write_split(folder: Path, split: str, ids: np.ndarray, labels: np.ndarray, columns: Mapping[str, Sequence] | None = None, *,
                 files: int) -> dict:
    """Writes the records of a split; returns its entry of the manifest."""
    (folder / split).mkdir()
    entries = []
    for part, chosen in enumerate(np.array_split(np.arange(len(labels)), files)):
        name = f"{split}/part-{part:05d}-of-{files:05d}.tfrecord"
        more = {column: [values[row] for row in chosen] for column, values in (columns or {}).items()}
        write_records(folder / name, ids[chosen], labels[chosen], {"group": ids[chosen, 0], **more})
        entries.append(counted({"path": name, "rows": len(chosen)}, labels[chosen]))
    return counted({"rows": len(labels), "positives": int((labels == 1).sum()), "files": entries}, labels)


def counted(entry: dict, labels: np.ndarray) -> dict:
    """An entry of the manifest, with its rows without label where it has any."""
    unlabelled = int((labels == UNLABELLED).sum())
    return {**entry, "unlabelled": unlabelled} if unlabelled else entry


def write_records(path: Path, ids: np.ndarray, labels: np.ndarray, columns: Mapping[str, Sequence], compression: str = "") -> None:
    """Writes a file of records, without the labels that are -1."""
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for row, label in enumerate(labels):
            features = {"ids": ids[row], "label": [label] if label != UNLABELLED else []}
            features |= {name: np.atleast_1d(values[row]) for name, values in columns.items()}
            content = {name: _feature(values) for name, values in features.items() if name != "label" or len(values)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=content)).SerializeToString(deterministic=True))


def _feature(values: Sequence) -> tf.train.Feature:
    values = np.asarray(values)
    if values.dtype.kind == "U":
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values.astype(np.int64)))
