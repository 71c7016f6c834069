"""Batches of a log to typed rows: what each column is to the schema, and which rows are malformed.

What a cell means, and when it is missing, stands in `preprocessing.values`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import values
from preprocessing.errors import UserError
from preprocessing.schema import (
    AnyField,
    CategoricalField,
    ColumnSplit,
    HashSplit,
    ListField,
    NumericField,
    Schema,
    TimeSplit,
)
from preprocessing.sources import Batch, Descriptor, Layout, Rejection, read
from preprocessing.splits import assign_splits, hash_texts
from preprocessing.values import RowReasons

_GROUP_SALT = "group"
_POSITIVE_63_BITS = np.uint64((1 << 63) - 1)

Feature = pa.Array | np.ndarray


@dataclass
class Rows:
    """Well-formed rows of one batch.

    Attributes:
      features: by field name: of a categorical field, and of a vector with a side table (its keys), a dictionary array of
        strings, null where missing; of a numeric field float32 [rows], NaN where missing; of a list field a list array of
        dictionary-encoded strings without missing ones, not cut yet; of an inline vector float32 [rows, size], a row of
        NaN where missing.
      label: int64 [rows], 1 click, 0 no click, -1 unlabelled.
      split: int8 [rows], place in `SPLITS`.
      group: int64 [rows], 63-bit hashes, or None.
      timestamp: int64 [rows], microseconds since 1970 (UTC), or None.
      key: string array [rows], "" where missing, or None.
      weight: float32 [rows], or None.
      rejections: rows of the same stretch of the file that are not among these.
      bytes_read: how far into the (compressed) file the reader was after this batch.
    """

    features: dict[str, Feature]
    label: np.ndarray
    split: np.ndarray
    group: np.ndarray | None
    timestamp: np.ndarray | None
    key: pa.Array | None
    weight: np.ndarray | None
    rejections: list[Rejection]
    bytes_read: int

    def __len__(self) -> int:
        return len(self.label)

    def take(self, mask: np.ndarray) -> "Rows":
        """The rows where `mask` is true; rejections stay with the whole."""
        if mask.all():
            return self
        arrow_mask = pa.array(mask)

        def chosen(column: Feature) -> Feature:
            return column.filter(arrow_mask) if isinstance(column, pa.Array) else column[mask]

        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        taken = {name: chosen(column) for name, column in columns.items() if isinstance(column, Feature)}
        return replace(self, features={name: chosen(column) for name, column in self.features.items()}, **taken)


def read_rows(descriptor: Descriptor, schema: Schema) -> Iterator[Rows]:
    """Reads the rows that a descriptor stands for, batch by batch.

    Raises:
      UserError: the file cannot be read to its end, or a column's type cannot mean what the schema says it is.
    """
    for batch in read(descriptor, Layout.of(schema)):
        try:
            rows = typed(batch, schema, descriptor.split)
        except UserError as error:
            raise UserError(f"file {descriptor.path}: {error}") from error
        yield rows


def typed(batch: Batch, schema: Schema, split: str | None) -> Rows:
    """A batch of the schema's columns as rows; `split` is what their files belong to, where that decides it."""
    columns = _Columns(batch.columns, schema)
    label = values.labels(batch.columns[schema.label.column], schema.label, schema.missing, columns.reasons)
    rows = Rows(
        features={field.name: columns.feature(field) for field in schema.fields},
        label=label,
        timestamp=columns.timestamp(),
        group=columns.group(),
        key=columns.key(),
        weight=columns.weight(),
        split=columns.split(split),
        rejections=[],
        bytes_read=batch.bytes_read,
    ).take(columns.reasons.good)
    rows.rejections = sorted(batch.rejections + rejections(batch, columns.reasons))
    return rows


def rejections(batch: Batch, reasons: RowReasons) -> list[Rejection]:
    """The malformed rows of a batch, with their places in the file."""
    rows = np.flatnonzero(~reasons.good)
    if not len(rows):
        return []
    return [Rejection(line, reasons.of(row), text) for row, (line, text) in zip(rows, batch.locate(rows), strict=True)]


class _Columns:
    """The columns of a batch as what the schema says they are; collects which rows are malformed."""

    def __init__(self, columns: pa.RecordBatch, schema: Schema):
        self._columns, self._schema = columns, schema
        self._texts: dict[str, pa.DictionaryArray] = {}
        self.reasons = RowReasons(len(columns))

    def feature(self, field: AnyField) -> Feature:
        column, missing = self._columns[field.source], self._schema.missing
        role = f"field {field.name!r} (column {field.source!r})"
        if isinstance(field, CategoricalField):
            return self._names(field.source, role)
        if isinstance(field, NumericField):
            return values.single_precision(values.numbers(column, missing, role, self.reasons))
        if isinstance(field, ListField):
            return values.lists(column, field.separator, missing, role, self.reasons)
        if field.table:
            return self._names(field.source, role)
        return values.vectors(column, field.size, field.separator, missing, role, self.reasons)

    def timestamp(self) -> np.ndarray | None:
        stamp = self._schema.timestamp
        return stamp and self._times(stamp.column, stamp.unit, "timestamp")

    def group(self) -> np.ndarray | None:
        if not self._schema.group:
            return None
        hashes = hash_texts(self._names(self._schema.group, f"group (column {self._schema.group!r})"), _GROUP_SALT)
        return (hashes & _POSITIVE_63_BITS).astype(np.int64)

    def key(self) -> pa.Array | None:
        column = self._schema.key
        return pc.fill_null(self._names(column, f"key (column {column!r})").cast(pa.string()), "") if column else None

    def weight(self) -> np.ndarray | None:
        column = self._schema.weight
        if not column:
            return None
        role = f"weight (column {column!r})"
        weight = values.single_precision(values.numbers(self._columns[column], self._schema.missing, role, self.reasons))
        self.reasons.add(~(np.isfinite(weight) & (weight >= 0)), f"{role} is missing, negative or infinite")
        return weight

    def split(self, split_of_file: str | None) -> np.ndarray:
        split = self._schema.split
        if isinstance(split, TimeSplit):
            return assign_splits(split, split_of_file, self._split_times(split))
        if isinstance(split, HashSplit):
            names = {name: self._names(name, f"split (column {name!r})") for name in split.key}
            return assign_splits(split, split_of_file, pa.RecordBatch.from_pydict(names))
        if isinstance(split, ColumnSplit):
            names = {split.column: self._names(split.column, f"split (column {split.column!r})")}
            codes = assign_splits(split, split_of_file, pa.RecordBatch.from_pydict(names))
            self.reasons.add(codes < 0, f"column {split.column!r} names none of the splits")
            return codes
        return assign_splits(split, split_of_file, self._columns)

    def _split_times(self, split: TimeSplit) -> np.ndarray:
        """In the units of `split.limits`: microseconds where those are dates, else the column's own."""
        if split.dated:
            stamp = self._schema.timestamp
            unit = stamp.unit if stamp and stamp.column == split.column else "iso"
            return self._times(split.column, unit, "split")
        role = f"split (column {split.column!r})"
        numbers = values.numbers(self._columns[split.column], self._schema.missing, role, self.reasons)
        self.reasons.add(~np.isfinite(numbers), f"{role} is missing or infinite")
        return numbers

    def _times(self, column: str, unit: str, role: str) -> np.ndarray:
        return values.times(self._columns[column], unit, self._schema.missing, f"{role} (column {column!r})", self.reasons)

    def _names(self, column: str, role: str) -> pa.DictionaryArray:
        """The texts of a column, which several roles may share."""
        if column not in self._texts:
            self._texts[column] = values.texts(self._columns[column], self._schema.missing, role, self.reasons)
        return self._texts[column]
