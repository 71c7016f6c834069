"""Rows of the benchmark: 39 fields, as a log, a request and a training record have them.

As in `benchmarks.training_speed`, 13 numeric fields have 32 buckets each, and 26 categorical ones share the rest of the values.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.prepare.log import hexadecimal
from benchmarks.speed.log import BUCKETED_FIELDS, BUCKETS, draw_rows
from preprocessing.schema import SPECIAL_ROWS

NUMERIC = tuple(f"n{number:02d}" for number in range(1, BUCKETED_FIELDS + 1))
USER_NUMERIC, USER_CATEGORICAL = 7, 13
KEY = "impression"
CSV_ROWS = 20_000

Columns = Mapping[str, np.ndarray]


def field_names(values: Sequence[int]) -> list[str]:
    return [*NUMERIC, *(f"c{number:02d}" for number in range(1, len(values) - len(NUMERIC) + 1))]


def user_fields(names: Sequence[str]) -> list[str]:
    """Those that the candidates of a request share: about half, numeric and categorical ones, small and large."""
    categorical = names[len(NUMERIC):]
    return [*names[:USER_NUMERIC], *categorical[::2][:USER_CATEGORICAL]]


def _log_normal(share: float) -> float:
    """The number below which so large a share of a numeric field lies."""
    return float(np.exp(statistics.NormalDist().inv_cdf(share)))


def boundaries() -> tuple[float, ...]:
    """Of the buckets of every numeric field, each of which has the same share of a log-normal distribution."""
    return tuple(_log_normal(bucket / BUCKETS) for bucket in range(1, BUCKETS))


def columns_of(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Ids [rows, F], from 2 on, as a log has them: float32 numbers in the middle of their bucket, and texts."""
    middles = np.array([_log_normal((bucket + 0.5) / BUCKETS) for bucket in range(BUCKETS)], np.float32)
    ranks = ids - SPECIAL_ROWS
    return {name: middles[ranks[:, place]] if name in NUMERIC else texts(place, ranks[:, place])
            for place, name in enumerate(field_names(ids[0]))}  # fmt: skip


def texts(place: int, ranks: np.ndarray) -> np.ndarray:
    """The values of a field, the most frequent being rank 0; all different."""
    return np.array(hexadecimal(place, ranks.astype(np.uint64)).to_pylist(), object)


def candidates_of_one_user(ids: np.ndarray) -> np.ndarray:
    """The same rows with the user's fields of the first one."""
    names = field_names(ids[0])
    ids, shared = ids.copy(), [names.index(name) for name in user_fields(names)]
    ids[:, shared] = ids[0, shared]
    return ids


def serialized_examples(columns: Columns) -> list[bytes]:
    import tensorflow as tf

    def feature(value) -> tf.train.Feature:
        if isinstance(value, str):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    rows = len(next(iter(columns.values())))
    return [tf.train.Example(features=tf.train.Features(feature={name: feature(column[row]) for name, column in columns.items()}))
            .SerializeToString() for row in range(rows)]  # fmt: skip


def write_csv(path: Path, values: Sequence[int]) -> None:
    ids, _ = draw_rows(values, CSV_ROWS, seed=7)
    columns = columns_of(ids)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([KEY, *columns])
        writer.writerows(zip(range(CSV_ROWS), *columns.values(), strict=True))
