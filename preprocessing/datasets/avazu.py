"""Avazu's Click-Through Rate Prediction challenge: one file with a header, whose `hour` is written YYMMDDHH."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.datasets.recipe import Log, Recipe

_COLUMNS = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{number}" for number in range(14, 22)),
)
_FILE_ROWS = 1 << 21


def find(recipe: Recipe, folder: Path) -> Callable[[Path], Log]:
    path = recipe.file(folder, "train.csv", "train.gz")
    recipe.check_columns(path, _COLUMNS)
    return partial(_write, recipe, path)


def _write(recipe: Recipe, path: Path, scratch: Path) -> Log:
    """Writes the rows with their time, hour of the day and day of the week, in files of about two million rows."""
    writer, rows = None, 0
    for batch in recipe.batches(path, _COLUMNS):
        batch = _with_times(recipe, path, batch)
        if writer is None or rows // _FILE_ROWS != (rows + len(batch)) // _FILE_ROWS:
            if writer:
                writer.close()
            writer = pq.ParquetWriter(scratch / f"train-{rows:09d}.parquet", batch.schema)
        writer.write_batch(batch)
        rows += len(batch)
    writer.close()
    return Log(recipe.schema(), [str(scratch / "*.parquet")], (str(path),))


def _with_times(recipe: Recipe, path: Path, batch: pa.RecordBatch) -> pa.RecordBatch:
    encoded = batch["hour"].dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    try:
        hours = np.array([f"20{text[:2]}-{text[2:4]}-{text[4:6]}T{text[6:]}" for text in texts], "datetime64[h]")
    except ValueError as error:
        raise recipe.error(f"{path}: the column hour has a value that is not written YYMMDDHH ({error})") from error
    since_1970 = hours.astype(np.int64)
    columns = {
        "time": pa.array(hours.astype("datetime64[s]")),
        "hour_of_day": pa.array(since_1970 % 24),
        "weekday": pa.array((since_1970 // 24 + 3) % 7),  # 0 is Monday; 1970 began with a Thursday
    }
    kept = {name: batch[name] for name in _COLUMNS if name != "hour"}
    return pa.RecordBatch.from_pydict(kept | {name: column.take(encoded.indices) for name, column in columns.items()})
