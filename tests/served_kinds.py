"""A data folder with a field of each kind, made by hand without a pipeline; its rows as servers and as training see them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from preprocessing import transform
from preprocessing.records import serialize_features
from preprocessing.schema import VOCABULARIES, ListField, NumericField, Schema, VectorField, parse_schema
from preprocessing.transform import Transformer
from preprocessing.values import RowReasons, lists, texts
from trainer.batch import feature_spec, features_of_records

MISSING = ["NULL", "-7"]
VOCABULARY = {"user": ["ann", "bob", "m\u00fcnchen", "\u65e5\u672c", "a,b"], "item": ["i1", "i2", "i3"], "tags": ["x", "y"]}
FIELDS = [
    {"name": "user", "kind": "categorical"},
    {"name": "price", "kind": "numeric", "buckets": 3},
    {"name": "item", "kind": "categorical"},
    {"name": "device", "kind": "categorical", "hash_buckets": 5},
    {"name": "history", "kind": "sequence", "vocabulary": "item", "max_length": 3},
    {"name": "tags", "kind": "multivalued", "max_length": 2},
    {"name": "image", "kind": "vector", "size": 2},
]
MASKED = 10.0

Columns = Mapping[str, Sequence]


def write_data_folder(data_dir: Path) -> Schema:
    """Writes what a served model needs of a data folder. Rows 2.. of a vocabulary are its values in order; prices are
    in bucket 2 below 1, 3 below 10, 4 from there."""
    rows = {name: len(values) + 2 for name, values in VOCABULARY.items()}
    schema = parse_schema({
        "name": "kinds",
        "label": {"column": "click"},
        "missing": MISSING,
        "group": "user",
        "split": {"by": "hash", "key": ["user"]},
        "fields": FIELDS,
    }, "the test").resolve({**rows, "price": 5, "device": 7})  # fmt: skip
    (data_dir / VOCABULARIES).mkdir(parents=True)
    for name, values in VOCABULARY.items():
        (data_dir / VOCABULARIES / f"{name}.txt").write_text("".join(f"{value}\n" for value in values), encoding="utf-8")
    transform.write_buckets(data_dir, {"price": transform.Scale((1.0, 10.0), 4.0, 2.0)})
    transform.write_transform(schema, data_dir)
    return schema


def raw_examples(columns: Columns) -> list[bytes]:
    """Rows as a server receives them; None is an absent feature."""
    return [_example({name: values[row] for name, values in columns.items()}) for row in range(len(columns["user"]))]


def _example(row: Mapping) -> bytes:
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if value is None:
            continue
        if values and isinstance(values[0], float):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[one.encode() for one in values]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def training_features(data_dir: Path, schema: Schema, columns: Columns) -> dict[str, tf.Tensor]:
    """The same rows as training reads them: through preprocessing's transform, records, and the trainer's parsing."""
    encoded = Transformer(data_dir, schema)(_arrow(schema, columns))
    records = serialize_features({"ids": encoded.ids, **encoded.lists}).to_pylist()
    return features_of_records(schema, tf.io.parse_example(tf.constant(records), feature_spec(schema)))


def _arrow(schema: Schema, columns: Columns) -> dict[str, pa.Array | np.ndarray]:
    found = {}
    for field in schema.fields:
        column = columns[field.name]
        reasons = RowReasons(len(column))
        if isinstance(field, NumericField):
            found[field.name] = np.array([np.nan if one is None else one for one in column], np.float32)
        elif isinstance(field, VectorField):
            found[field.name] = np.array([[np.nan] * field.size if one is None else one for one in column], np.float32)
        elif isinstance(field, ListField):
            found[field.name] = lists(pa.array(column, pa.list_(pa.string())), "|", schema.missing, field.name, reasons)
        else:
            found[field.name] = texts(pa.array(column, pa.string()), schema.missing, field.name, reasons)
    return found


class SumOfIds:
    """logit = (sum of all ids, those of lists included) / 100; a masked field counts 10."""

    knows_masks = True

    def __init__(self, schema):
        self.schema = schema
        self.scale = tf.Variable(0.01)

    def _sums(self, features):
        ids = tf.cast(features["ids"], tf.float32)
        lists = [tf.cast(features[field.name], tf.float32) for field in self.schema.list_fields]
        sums = [tf.reduce_sum(tf.maximum(one, 0), axis=1) for one in lists]
        return tf.concat([ids, tf.stack(sums, axis=1)], axis=1)  # (B, F)

    def click_logits(self, features):
        return tf.reduce_sum(self._sums(features), axis=1) * self.scale

    def masked_click_logits(self, features, mask):
        return tf.reduce_sum(tf.where(mask, MASKED, self._sums(features)), axis=1) * self.scale
