"""Preprocessing as it is usually done in one process: pandas reads all rows, scikit-learn encodes them, Python writes.

Its records are ours, feature by feature. It differs in this: quantiles come from 200,000 rows (scikit-learn's default),
rare values have a row of their own apart from unseen ones, values stand in the order of their texts and not of their
counts, and it leaves no vocabularies, statistics or graph for serving.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.preprocessing import KBinsDiscretizer, OrdinalEncoder, StandardScaler

from benchmarks.prepare.log import BUCKETS, CATEGORICAL_NAMES, COLUMNS, LABEL, MIN_COUNT, NUMERIC_NAMES, log_files
from benchmarks.prepare.peer import note_first_row, stage

VALUE_LIMIT = 5.0
UNKNOWN, MISSING, SPECIAL_ROWS = -1, -2, 2
NUMERIC, CATEGORICAL = list(NUMERIC_NAMES), list(CATEGORICAL_NAMES)


def read(path: Path) -> pd.DataFrame:
    types = {LABEL: "int64"} | dict.fromkeys(NUMERIC, "float64") | dict.fromkeys(CATEGORICAL, "str")
    return pd.read_csv(path, sep="\t", header=None, names=COLUMNS, dtype=types)


@dataclass
class Encoders:
    """What is learnt from the training rows."""

    categorical: OrdinalEncoder
    buckets: list[KBinsDiscretizer]
    scaler: StandardScaler

    @classmethod
    def fit(cls, train: pd.DataFrame) -> "Encoders":
        categorical = OrdinalEncoder(min_frequency=MIN_COUNT, handle_unknown="use_encoded_value", unknown_value=UNKNOWN,
                                     encoded_missing_value=MISSING, dtype=np.int64)
        buckets = [KBinsDiscretizer(BUCKETS, encode="ordinal", strategy="quantile", quantile_method="averaged_inverted_cdf")
                   .fit(train[[name]].dropna()) for name in NUMERIC]
        return cls(categorical.fit(train[CATEGORICAL]), buckets, StandardScaler().fit(train[NUMERIC]))

    def encode(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 [rows, 39] with 0 for missing and 1 for unknown, and scaled numbers float32 [rows, 13]."""
        codes = np.full((len(rows), len(NUMERIC)), MISSING, np.int64)
        for place, (name, discretizer) in enumerate(zip(NUMERIC, self.buckets, strict=True)):
            present = rows[name].notna()
            codes[present, place] = discretizer.transform(rows.loc[present, [name]])[:, 0]
        ids = np.hstack([codes, self.categorical.transform(rows[CATEGORICAL])]) + SPECIAL_ROWS
        values = np.nan_to_num(np.clip(self.scaler.transform(rows[NUMERIC]), -VALUE_LIMIT, VALUE_LIMIT))
        return ids, values.astype(np.float32)


def write(path: Path, ids: np.ndarray, values: np.ndarray, labels: np.ndarray) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row_ids, row_values, label in zip(ids.tolist(), values.tolist(), labels.tolist(), strict=True):
            example = tf.train.Example(features=tf.train.Features(feature={
                "ids": tf.train.Feature(int64_list=tf.train.Int64List(value=row_ids)),
                "values": tf.train.Feature(float_list=tf.train.FloatList(value=row_values)),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }))
            writer.write(example.SerializeToString())


def prepare(log: Path, output: Path) -> None:
    note_first_row(output)
    with stage("reading"):
        splits = {split: pd.concat(map(read, paths), ignore_index=True) for split, paths in log_files(log).items()}
    with stage("fitting"):
        encoders = Encoders.fit(splits["train"])
    with stage("encoding"):
        encoded = {split: encoders.encode(rows) for split, rows in splits.items()}
    with stage("writing"):
        for split, (ids, values) in encoded.items():
            write(output / f"{split}.tfrecord", ids, values, splits[split][LABEL].to_numpy())
