"""A click log of 39 fields, drawn and written without preprocessing: `python -m benchmarks.speed.log --help`.

Fields 1 to 13 have 32 values as quantile buckets do, 14 to 29 from 4 to 2,000, and the ten others share the rest of the
distinct values, so that only they grow with the total. Values are drawn from a Zipf distribution; a click depends on all
fields of its row.

A written folder is a data folder (`docs/architecture.md`) with two more forms of the same training rows:

    columns/*.tfrecord    one scalar feature per field, as tf.data is usually fed
    arrays/               ids.npy int32 [rows, 39], labels.npy float32 [rows], field_rows.npy int64 [39]
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.folder import new_data_folder
from preprocessing.records import serialize_features
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, SPECIAL_ROWS, SPLITS, Schema, parse_schema

BUCKETED_FIELDS, BUCKETS = 13, 32
SMALL_FIELDS, SMALLEST, LARGEST = 16, 4, 2000
LARGE_FIELDS, LARGE_GROWTH = 10, 1.15
FEWEST_VALUES = 10_000
ZIPF_EXPONENT = 1.05
HELD_OUT_ROWS = 8192
FILES = 8
EFFECTS = 4096
MEAN_LOGIT = -1.5


def field_values(total: int) -> list[int]:
    """Distinct values of each field, summing to `total`."""
    if total < FEWEST_VALUES:
        raise UserError(f"a log of {total} distinct values: expected at least {FEWEST_VALUES}, for example --values 100k")
    small = np.geomspace(SMALLEST, LARGEST, SMALL_FIELDS).astype(int)
    rest = total - BUCKETED_FIELDS * BUCKETS - int(small.sum())
    shares = LARGE_GROWTH ** np.arange(LARGE_FIELDS)
    large = (rest * shares / shares.sum()).astype(int)
    large[-1] += rest - large.sum()
    return [BUCKETS] * BUCKETED_FIELDS + small.tolist() + large.tolist()


def build_schema(values: Sequence[int]) -> Schema:
    names = [f"field_{number:02d}" for number in range(1, len(values) + 1)]
    content = {
        "name": "training_speed",
        "label": {"column": "click"},
        "split": {"by": "column", "column": "split"},
        "fields": [{"name": name, "kind": "categorical"} for name in names],
    }
    rows = dict(zip(names, (count + SPECIAL_ROWS for count in values), strict=True))
    return parse_schema(content, "the speed benchmark").resolve(rows)


def draw_rows(values: Sequence[int], rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 [rows, F], the most frequent value of a field being 2, and clicks int64 [rows].

    A value's rank follows the Zipf distribution in its continuous form, P(rank <= r) ~ 1 - r^(1 - exponent); the log-odds
    of a click are a sum of normal effects, one a value (values share 4096 effects a field).
    """
    rng = np.random.default_rng([seed, rows])
    effects = np.random.default_rng(0).normal(0.0, 1.0 / np.sqrt(len(values)), (len(values), EFFECTS))
    ids = np.empty((rows, len(values)), np.int32)
    logits = np.full(rows, MEAN_LOGIT)
    power = 1.0 - ZIPF_EXPONENT
    for field, count in enumerate(values):
        tail = rng.random(rows) * (1.0 - (count + 1.0) ** power)
        rank = np.minimum((1.0 - tail) ** (1.0 / power), count).astype(np.int32) - 1  # 0 .. count - 1
        ids[:, field] = rank + SPECIAL_ROWS
        logits += effects[field, rank % EFFECTS]
    return ids, (rng.random(rows) < 1.0 / (1.0 + np.exp(-logits))).astype(np.int64)


def spread(ids: np.ndarray, values: Sequence[int], wider: Sequence[int]) -> np.ndarray:
    """Maps the values of each field one to one onto the whole of a larger vocabulary: the same lookups, further apart."""
    strides = np.array([large // small for small, large in zip(values, wider, strict=True)])
    return ((ids - SPECIAL_ROWS) * strides + SPECIAL_ROWS).astype(np.int32)


def write_log(folder: Path, total: int, rows: int, spread_over: int | None = None) -> Path:
    """Writes the folder unless it is there already.

    Args:
      total: distinct values.
      rows: training rows.
      spread_over: distinct values of the table that the same rows are spread over instead.
    """
    if (folder / MANIFEST_FILE).is_file():
        return folder
    drawn_from = field_values(total)
    values = field_values(spread_over) if spread_over else drawn_from
    schema = build_schema(values)
    with new_data_folder(folder, overwrite=False) as partial:
        manifest = {"splits": {}}
        for seed, split in enumerate(SPLITS):
            ids, clicks = draw_rows(drawn_from, rows if split == "train" else min(rows, HELD_OUT_ROWS), seed)
            ids = spread(ids, drawn_from, values)
            manifest["splits"][split] = _write_split(partial, split, ids, clicks)
            if split == "train":
                offsets = np.array([field.offset for field in schema.fields])
                np.save(partial / "frequencies.npy", np.bincount((ids + offsets).ravel(), minlength=schema.table_rows))
                _write_arrays(partial / "arrays", ids, clicks, schema.field_rows)
                _write_columns(partial / "columns", ids, clicks, schema)
        (partial / SCHEMA_FILE).write_text(schema.to_yaml(), encoding="utf-8")
        (partial / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _parts(rows: int) -> Iterator[tuple[str, slice]]:
    bounds = np.linspace(0, rows, FILES + 1, dtype=int)
    for part in range(FILES):
        yield f"part-{part:05d}-of-{FILES:05d}.tfrecord", slice(bounds[part], bounds[part + 1])


def _write_split(folder: Path, split: str, ids: np.ndarray, clicks: np.ndarray) -> dict:
    (folder / split).mkdir()
    files = []
    for name, part in _parts(len(ids)):
        records = serialize_features({"ids": ids[part], "label": clicks[part][:, None]})
        _write_records(folder / split / name, records.to_pylist())
        files.append({"path": f"{split}/{name}", "rows": len(records)})
    return {"rows": len(ids), "positives": int(clicks.sum()), "files": files}


def _write_columns(folder: Path, ids: np.ndarray, clicks: np.ndarray, schema: Schema) -> None:
    from tfx_bsl.coders.example_coder import RecordBatchToExamples  # this imports TensorFlow too

    folder.mkdir()
    for name, part in _parts(len(ids)):
        columns = {field.name: _scalars(ids[part, k]) for k, field in enumerate(schema.fields)}
        batch = pa.RecordBatch.from_pydict({**columns, "label": _scalars(clicks[part])})
        _write_records(folder / name, RecordBatchToExamples(batch))


def _scalars(values: np.ndarray) -> pa.Array:
    return pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32), values.astype(np.int64))


def _write_arrays(folder: Path, ids: np.ndarray, clicks: np.ndarray, field_rows: Sequence[int]) -> None:
    folder.mkdir()
    np.save(folder / "ids.npy", ids)
    np.save(folder / "labels.npy", clicks.astype(np.float32))
    np.save(folder / "field_rows.npy", field_rows)


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf  # here, so that `start_tensorflow` comes first

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.log", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the data folder to write; kept if it is there already")
    parser.add_argument("--values", type=int, required=True, help="distinct values of all fields together")
    parser.add_argument("--rows", type=int, required=True, help="training rows")
    parser.add_argument("--spread_over", type=int, help="spread the values over a table of so many instead")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    start_tensorflow()
    write_log(arguments.folder, arguments.values, arguments.rows, arguments.spread_over)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
