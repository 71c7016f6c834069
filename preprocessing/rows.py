"""Text batches to typed rows: what each column of the schema means, and which rows are malformed.

Missing is one thing whatever its spelling: the empty text, the schema's `missing` texts and, in numeric fields, NaN.
An infinite number (or one too large for float32) is a number: it lies in the outermost bucket.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.schema import CategoricalField, ColumnSplit, Schema, TimeSplit
from preprocessing.sources import Batch, Descriptor, Layout, Rejection, read
from preprocessing.splits import assign_splits, hash_texts

_NUMBER = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))$"
_GROUP_SALT = "group"
_POSITIVE_63_BITS = np.uint64((1 << 63) - 1)


@dataclass
class Rows:
    """Well-formed rows of one batch.

    Attributes:
      features: by field name, a string array without nulls, or float32 [rows] with NaN where missing.
      label: int64 [rows], 1 click, 0 no click.
      split: int8 [rows], place in `SPLITS`.
      group: int64 [rows] or None; timestamp: float64 [rows] or None.
      rejections: rows of the same stretch of the file that are not among these.
      bytes_read: how far into the (compressed) file the reader was after this batch.
    """

    features: dict[str, pa.Array | np.ndarray]
    label: np.ndarray
    split: np.ndarray
    group: np.ndarray | None
    timestamp: np.ndarray | None
    rejections: list[Rejection]
    bytes_read: int

    def __len__(self) -> int:
        return len(self.label)

    def take(self, mask: np.ndarray) -> "Rows":
        """The rows where `mask` is true; rejections stay with the whole."""
        if mask.all():
            return self
        arrow_mask = pa.array(mask)
        features = {name: column.filter(arrow_mask) if isinstance(column, pa.Array) else column[mask]
                    for name, column in self.features.items()}
        group, timestamp = (None if column is None else column[mask] for column in (self.group, self.timestamp))
        return Rows(features, self.label[mask], self.split[mask], group, timestamp, self.rejections, self.bytes_read)


def read_rows(descriptor: Descriptor, schema: Schema) -> Iterator[Rows]:
    """Reads the rows that a descriptor stands for, batch by batch."""
    for batch in read(descriptor, Layout.of(schema)):
        yield _typed(batch, schema, descriptor.split)


class RowReasons:
    """Collects which rows of a batch are malformed; the first reason found counts."""

    def __init__(self, rows: int):
        self._reason = np.full(rows, -1, np.int32)
        self._texts: list[str] = []

    def add(self, malformed: np.ndarray, text: str) -> None:
        if malformed.any():
            self._reason[malformed & (self._reason < 0)] = len(self._texts)
            self._texts.append(text)

    @property
    def good(self) -> np.ndarray:
        return self._reason < 0

    def rejections(self, batch: Batch) -> list[Rejection]:
        rows = np.flatnonzero(~self.good)
        if not len(rows):
            return []
        return [Rejection(line, self._texts[self._reason[row]], content)
                for row, (line, content) in zip(rows, batch.locate(rows), strict=True)]


def _typed(source: Batch, schema: Schema, split: str | None) -> Rows:
    batch, reasons = source.columns, RowReasons(len(source.columns))
    label = _label(batch, schema, reasons)
    features = {}
    for field in schema.id_fields:
        column = batch[field.source]
        if isinstance(field, CategoricalField):
            features[field.name] = column
        else:
            numbers = parse_numbers(column, schema.missing, f"field {field.name!r} (column {field.source!r})", reasons)
            with np.errstate(over="ignore"):
                features[field.name] = numbers.astype(np.float32)
    timestamp = None
    if schema.timestamp:
        timestamp = _required_numbers(batch, schema, schema.timestamp.column, "timestamp", reasons)
    group = None
    if schema.group:
        group = (hash_texts(batch[schema.group], _GROUP_SALT) & _POSITIVE_63_BITS).astype(np.int64)
    if isinstance(schema.split, TimeSplit):
        key = _required_numbers(batch, schema, schema.split.column, "split", reasons)
    else:
        key = batch
    codes = assign_splits(schema.split, split, key)
    if isinstance(schema.split, ColumnSplit):
        reasons.add(codes < 0, f"column {schema.split.column!r} names none of the splits")
    rows = Rows(features, label, codes, group, timestamp, [], source.bytes_read).take(reasons.good)
    rows.rejections = sorted(source.rejections + reasons.rejections(source))
    return rows


def _label(batch: pa.RecordBatch, schema: Schema, reasons: RowReasons) -> np.ndarray:
    column, label = batch[schema.label.column], schema.label
    positive = _is_in(column, label.positive)
    reasons.add(
        ~positive & ~_is_in(column, label.negative),
        f"label (column {label.column!r}) is neither positive {list(label.positive)} "
        f"nor negative {list(label.negative)}",
    )
    return positive.astype(np.int64)


def _required_numbers(batch: pa.RecordBatch, schema: Schema, column: str, role: str, reasons: RowReasons) -> np.ndarray:
    numbers = parse_numbers(batch[column], schema.missing, f"{role} (column {column!r})", reasons)
    reasons.add(~np.isfinite(numbers), f"{role} (column {column!r}) is missing or infinite")
    return numbers


def parse_numbers(column: pa.Array, missing: tuple[str, ...], role: str, reasons: RowReasons) -> np.ndarray:
    """Parses numbers: float64 [rows], NaN where missing or malformed; the latter are noted in `reasons` as `role`."""
    present = pa.array(~_is_in(column, ("", *missing)))
    text = pc.if_else(present, column, None)
    try:
        numbers = pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(text)
        number = pc.match_substring_regex(text, _NUMBER)
        reasons.add(pc.fill_null(pc.invert(number), False).to_numpy(zero_copy_only=False), f"{role} is not a number")
        numbers = pc.cast(pc.if_else(number, text, None), pa.float64())
    return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)


def _is_in(column: pa.Array, values: tuple[str, ...]) -> np.ndarray:
    return pc.is_in(column, value_set=pa.array(values, pa.string())).to_numpy(zero_copy_only=False)
