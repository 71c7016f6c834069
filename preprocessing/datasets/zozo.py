"""Open Bandit Dataset: the publisher's CSV files (or the same as one table) to rows with the features of the item shown.

Items are numbered anew in each campaign, so their names get the campaign's in front. Of the affinities between the user
and all items, a row keeps that of the item shown and the sum.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessing.datasets.recipe import Log, Recipe
from preprocessing.sources import Layout, column_names

_POLICIES = ("bts", "random")
_CAMPAIGNS = ("all", "men", "women")
_TABLE = "obd_ctr_60k.csv"
_USER_FEATURES = tuple(f"user_feature_{number}" for number in range(4))
_ITEM_FEATURES = tuple(f"item_feature_{number}" for number in range(4))
_LOG_COLUMNS = ("", "timestamp", "item_id", "position", "click", "propensity_score", *_USER_FEATURES)
_ITEM_COLUMNS = ("", "item_id", *_ITEM_FEATURES)
_AFFINITY = "user-item_affinity_"
_TABLE_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *_USER_FEATURES, "aff_shown", "aff_sum",
                  *_ITEM_FEATURES, "campaign", "policy")


def find(recipe: Recipe, folder: Path) -> Callable[[Path], Log]:
    if any((folder / name).is_file() for name in (_TABLE, f"{_TABLE}.gz")):
        path = recipe.file(folder, _TABLE)
        recipe.check_columns(path, _TABLE_COLUMNS)
        return partial(_write, recipe, {"table.parquet": partial(_table_batches, recipe, path)}, (path,))
    parts, origin = {}, []
    for policy in _POLICIES:
        for campaign in _CAMPAIGNS:
            part = folder / policy / campaign
            if part.is_dir():
                log, items = recipe.file(part, f"{campaign}.csv"), recipe.file(part, "item_context.csv")
                _check_log(recipe, log)
                recipe.check_columns(items, _ITEM_COLUMNS)
                parts[f"{policy}-{campaign}.parquet"] = partial(_log_batches, recipe, log, items, campaign)
                origin += [log, items]
    if not parts:
        raise recipe.error(f"expected at least one of {[f'{policy}/{name}' for policy in _POLICIES for name in _CAMPAIGNS]} in "
                           f"{folder}, received none")
    return partial(_write, recipe, parts, tuple(origin))


def _write(recipe: Recipe, parts: dict[str, Callable[[], Iterator[pa.RecordBatch]]], origin: tuple[Path, ...],
           scratch: Path) -> Log:
    for name, batches in parts.items():
        writer = None
        for batch in batches():
            writer = writer or pq.ParquetWriter(scratch / name, batch.schema)
            writer.write_batch(batch)
        writer.close()
    return Log(recipe.schema(), [str(scratch / "*.parquet")], tuple(map(str, origin)))


def _table_batches(recipe: Recipe, path: Path) -> Iterator[pa.RecordBatch]:
    for batch in recipe.batches(path, recipe.schema().columns):
        yield _with_item_names(batch, batch["campaign"])


def _with_item_names(batch: pa.RecordBatch, campaign: pa.Array | str) -> pa.RecordBatch:
    names = pc.binary_join_element_wise(campaign, batch["item_id"], "-")
    return batch.set_column(batch.schema.get_field_index("item_id"), "item_id", names)


def _check_log(recipe: Recipe, path: Path) -> None:
    names = tuple(column_names(str(path), Layout(recipe.name, None)))
    known, others = names[:len(_LOG_COLUMNS)], names[len(_LOG_COLUMNS):]
    if known != _LOG_COLUMNS or not others or others != tuple(f"{_AFFINITY}{item}" for item in range(len(others))):
        raise recipe.error(f"{path} does not look like the publisher's file: expected the columns {list(_LOG_COLUMNS)} and then "
                           f"{_AFFINITY}0, {_AFFINITY}1, ..., received {list(names)}")


def _log_batches(recipe: Recipe, log: Path, items: Path, campaign: str) -> Iterator[pa.RecordBatch]:
    """The rows of a campaign's log with the features of the item shown."""
    affinities = [name for name in column_names(str(log), Layout(recipe.name, None)) if name.startswith(_AFFINITY)]
    context = pa.Table.from_batches(recipe.batches(items, _ITEM_COLUMNS[1:])).combine_chunks()
    kept = ("timestamp", "item_id", "position", "click", *_USER_FEATURES)
    for batch in recipe.batches(log, (*kept, *affinities)):
        place = pc.index_in(batch["item_id"], value_set=context["item_id"].chunk(0))
        if place.null_count:
            absent = batch["item_id"].filter(place.is_null())[0].as_py()
            raise recipe.error(f"{items} has no item {absent!r}, which {log} names")
        matrix = np.stack([pc.cast(batch[name], pa.float64()).to_numpy() for name in affinities], axis=1)  # [rows, items]
        shown = matrix[np.arange(len(batch)), pc.cast(batch["item_id"], pa.int64()).to_numpy()]
        columns = {name: batch[name] for name in kept} | {"campaign": pa.array([campaign] * len(batch))}
        columns |= {name: context[name].chunk(0).take(place) for name in _ITEM_FEATURES}
        columns |= {"aff_shown": pa.array(shown), "aff_sum": pa.array(matrix.sum(axis=1))}
        yield _with_item_names(pa.RecordBatch.from_pydict(columns), campaign)
