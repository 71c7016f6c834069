"""A small log with every oddity, the command that preprocesses it, and its data folder read back."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml

from preprocessing import task
from preprocessing.schema import load_data_folder_schema

SCHEMA = {
    "name": "shop",
    "label": {"column": "click"},
    "missing": ["NULL"],
    "group": "user",
    "timestamp": "time",
    "split": {"by": "hash", "key": ["time"], "valid": 0.2, "test": 0.2},
    "fields": [
        {"name": "user", "kind": "categorical"},
        {"name": "price", "kind": "numeric", "buckets": 5},
        {"name": "item", "kind": "categorical", "min_count": 3},
        {"name": "note", "column": "free text", "kind": "categorical"},
    ],
}
HEADER = "time,click,user,price,item,free text\n"
ROWS = 3000


def make_rows() -> list[str]:
    rng = np.random.default_rng(5)
    items = np.minimum(rng.zipf(1.4, ROWS), 300)
    prices = [f"{price:.2f}" for price in rng.lognormal(2, 1, ROWS)]
    notes = ["", "NULL", "plain", '"a, b"', '"said ""hi"""', '"two\nlines"', "\xfcml\xe4ut"]
    rows = []
    for row in range(ROWS):
        price = ("", "NaN", "inf", "NULL")[row % 4] if row % 37 == 0 else prices[row]
        rows.append(f"{row},{row % 5 // 4},u{row % 40},{price},i{items[row]},{notes[row % len(notes)]}\n")
    return rows


def write_log(folder: Path, rows: list[str], files: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        text = HEADER + "".join(rows[number::files])
        data = text.encode()
        path = folder / f"log-{number}.csv"
        if number % 2:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)
    return str(folder / "log-*")


def write_schema(path: Path, **changes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(SCHEMA | changes))
    return path


def preprocess(*arguments) -> int:
    return task.main([str(argument) for argument in arguments])


def read_records(data_dir: Path, split: str) -> dict[str, np.ndarray]:
    schema = load_data_folder_schema(data_dir)
    files = [data_dir / one["path"] for one in manifest(data_dir)["splits"][split]["files"]]
    records = [record.numpy() for path in files
               for record in tf.data.TFRecordDataset(str(path), "GZIP" if path.suffix == ".gz" else "")]
    spec = {
        "ids": tf.io.FixedLenFeature([len(schema.id_fields)], tf.int64),
        "values": tf.io.FixedLenFeature([len(schema.numeric_fields)], tf.float32),
        "label": tf.io.FixedLenFeature([1], tf.int64, [-1]),
    }
    spec |= {"group": tf.io.FixedLenFeature([1], tf.int64)} if schema.group else {}
    spec |= {"timestamp": tf.io.FixedLenFeature([1], tf.int64)} if schema.timestamp else {}
    return {name: tensor.numpy() for name, tensor in tf.io.parse_example(records, spec).items()}


def manifest(data_dir: Path) -> dict:
    return json.loads((data_dir / "manifest.json").read_text())


def checksums(data_dir: Path) -> dict[str, str]:
    """Every file of a data folder but the manifest (command line) and the graph (protobuf's order of maps)."""
    return {
        str(path.relative_to(data_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data_dir.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and "transform_fn" not in path.parts
    }


def failed(capsys, *arguments) -> str:
    """Runs the command, which must fail as a user error; returns its message in one line."""
    capsys.readouterr()
    assert preprocess(*arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return " ".join(message.split())
