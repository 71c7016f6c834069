"""Metrics by how often training has seen a row's value of a field: what a model knows of cold users and items."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.errors import UserError
from preprocessing.schema import MISSING_ROW, UNKNOWN_ROW, Schema
from trainer.metrics import Predictions, click_metrics

if TYPE_CHECKING:
    from trainer.data_folder import DataFolder

LOWER_BOUNDS = (0, 1, 4, 11, 31, 101)  # of training occurrences, of each bucket
SHOWN = ("rows", "positives", "auc", "logloss", "calibration_bias")


def bucket_names(bounds: Sequence[int] = LOWER_BOUNDS) -> tuple[str, ...]:
    """ "0", "1-3", ..., ">100" for the bounds 0, 1, 4, ..., 101."""
    inner = [str(low) if low + 1 == high else f"{low}-{high - 1}" for low, high in pairwise(bounds)]
    return (*inner, f">{bounds[-1] - 1}")


@dataclass(frozen=True)
class FieldOccurrences:
    """How often each row's value of a field occurs in the training split.

    Attributes:
      field: its name.
      counts: int64 [rows]; 0 where the value has no row of its own in the vocabulary, that is, was never seen or fewer than
        `min_count` times.
      present: bool [rows]; False where the row has no value of the field.
    """

    field: str
    counts: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, name: str, ids: np.ndarray, data: "DataFolder") -> "FieldOccurrences":
        """Occurrences of the values of field `name` in rows with local ids [rows, id fields]."""
        place = field_place(name, data.schema, data.path)
        frequencies = data.field_frequencies[place].copy()
        frequencies[UNKNOWN_ROW] = 0
        return cls(name, frequencies[ids[:, place]], ids[:, place] != MISSING_ROW)


def field_place(name: str, schema: Schema, data_dir: Path) -> int:
    """Where an id field stands among `schema.id_fields`.

    Raises:
      UserError: no id field has this name.
    """
    names = [field.name for field in schema.id_fields]
    if name not in names:
        raise UserError(f"no slices by field {name!r}: the data folder {data_dir} has the single-valued fields {', '.join(names)}; "
                        "name some of them")
    return names.index(name)


def sliced_metrics(predictions: Predictions, occurrences: FieldOccurrences) -> list[dict[str, str | float | int | None]]:
    """Metrics of each bucket of training occurrences that has rows, from the rarest on, and of rows without a value, last.

    Returns:
      One record a bucket: "occurrences", its name, and the `SHOWN` metrics of its rows. AUC is within the bucket, so
      buckets of different click rates or difficulty compare between models, not with each other.
    """
    bucket = np.searchsorted(LOWER_BOUNDS, occurrences.counts, side="right") - 1
    chosen = {name: occurrences.present & (bucket == place) for place, name in enumerate(bucket_names())}
    chosen["missing"] = ~occurrences.present
    return [{"occurrences": name, **_metrics(predictions, rows)} for name, rows in chosen.items() if rows.any()]


def slices_of(predictions: Predictions, fields: Sequence[str], data: "DataFolder") -> dict[str, list[dict]]:
    """`sliced_metrics` by field, of predictions that have their rows' ids."""
    return {field: sliced_metrics(predictions, FieldOccurrences.of(field, predictions.ids, data)) for field in fields}


def _metrics(predictions: Predictions, rows: np.ndarray) -> dict[str, float | int | None]:
    weights = predictions.weights
    if weights is not None and not weights[rows].any():
        return {"rows": 0, "positives": 0} | dict.fromkeys(SHOWN[2:])
    # Groups are left out: GAUC of a slice would average over fragments of users.
    part = replace(predictions, labels=predictions.labels[rows], logits=predictions.logits[rows], groups=None, ids=None,
                   weights=None if weights is None else weights[rows])
    metrics = click_metrics(part)
    return {name: metrics[name] for name in SHOWN}
