"""A tiny data folder and model, made by hand: what serving's tests export and serve."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, Schema, parse_schema
from serving.export.parity import RAW_SAMPLES, RECORD_SAMPLES

REPOSITORY = Path(__file__).resolve().parents[1]
USERS = ("ann", "bob")  # rows 2 and 3
PRICE_EDGE = 1.0  # bucket 2 up to it, bucket 3 above


def schema(**changes) -> Schema:
    content = {
        "name": "tiny",
        "label": {"column": "click"},
        "split": {"by": "files", "train": "a", "valid": "b", "test": "c"},
        "fields": [{"name": "user", "kind": "categorical"}, {"name": "price", "kind": "numeric", "buckets": 2}],
    }
    return parse_schema({**content, **changes}, "test").resolve({"user": 4, "price": 4})


def _preprocess(raw):
    user = tft.compute_and_apply_vocabulary(raw["user"], vocab_filename="user", default_value=-1) + 2
    user = tf.where(raw["user"] == "", tf.zeros_like(user), tf.maximum(user, 1))
    price = raw["price"]
    bucket = tf.where(tf.math.is_nan(price), tf.zeros_like(price, tf.int64), 2 + tf.cast(price > PRICE_EDGE, tf.int64))
    return {"ids": tf.stack([user, bucket], axis=1), "values": price[:, None]}


def expected_ids(user: str, price: float) -> tuple[int, int]:
    """The ids that the transform above gives, by hand."""
    user_id = 0 if user == "" else 2 + USERS.index(user) if user in USERS else 1
    return user_id, 0 if np.isnan(price) else 3 if price > PRICE_EDGE else 2


ROWS = list(itertools.product(("ann", "bob", "eve", ""), (0.5, 2.0, float("nan"))))


def raw_example(user: str, price: float) -> bytes:
    """A raw tf.Example in which a missing value is an absent feature."""
    feature = {}
    if user:
        feature["user"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()]))
    if not np.isnan(price):
        feature["price"] = tf.train.Feature(float_list=tf.train.FloatList(value=[price]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def record(ids: tuple[int, int]) -> bytes:
    feature = {"ids": tf.train.Feature(int64_list=tf.train.Int64List(value=ids))}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_samples(data_dir: Path, raw: list[bytes], records: list[bytes]) -> None:
    (data_dir / RAW_SAMPLES).parent.mkdir(exist_ok=True)
    for path, rows in ((RAW_SAMPLES, raw), (RECORD_SAMPLES, records)):
        with tf.io.TFRecordWriter(str(data_dir / path)) as writer:
            for row in rows:
                writer.write(row)


def write_data_folder(data_dir: Path) -> Path:
    """Writes the parts of a data folder that export reads."""
    data_dir.mkdir()
    spec = {"user": tf.io.FixedLenFeature([], tf.string), "price": tf.io.FixedLenFeature([], tf.float32)}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    train = [{"user": b"ann", "price": 0.5}, {"user": b"ann", "price": 2.0}, {"user": b"bob", "price": 1.0}]
    with tft_beam.Context(temp_dir=str(data_dir / "temporary")):
        transform = (train, metadata) | tft_beam.AnalyzeDataset(_preprocess)
        _ = transform | tft_beam.WriteTransformFn(str(data_dir))
    (data_dir / SCHEMA_FILE).write_text(schema().to_yaml())
    rows = {"train": len(train), "valid": 0, "test": 0}
    splits = {split: {"rows": count, "positives": 0, "files": []} for split, count in rows.items()}
    (data_dir / MANIFEST_FILE).write_text(json.dumps({"splits": splits}))
    write_samples(data_dir, [raw_example(*row) for row in ROWS], [record(expected_ids(*row)) for row in ROWS])
    return data_dir


class TableModel:
    """logit = bias + table[user id] + table[4 + price id], with tables whose sums can be done by hand."""

    def __init__(self, bias: float = 0.0):
        self.schema = schema()
        self.table = tf.Variable([0.0, 0.1, 1.0, 2.0, 0.0, 0.0, -1.0, 3.0])
        self.bias = tf.Variable(bias)
        self.optimizer_slot = tf.Variable(tf.zeros([100]), name="never_exported")

    def click_logits(self, features):
        rows = tf.cast(features["ids"], tf.int32) + tf.constant([[0, 4]])  # (B, 2)
        return self.bias + tf.reduce_sum(tf.gather(self.table, rows), axis=1)  # (B,)


def expected_logit(user: str, price: float, bias: float = 0.0) -> float:
    user_id, price_id = expected_ids(user, price)
    return bias + (0.0, 0.1, 1.0, 2.0)[user_id] + (0.0, 0.0, -1.0, 3.0)[price_id]


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits)))


def start(module: str, *arguments) -> subprocess.Popen:
    """Starts `python -m module` as a user would, in a process group of its own."""
    command = [sys.executable, "-u", "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True)  # fmt: skip

