"""What passes between the readers and everyone else: a layout and a descriptor in, batches out."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from preprocessing.errors import UserError
from preprocessing.schema import Format, Schema

_FORMAT_IN_NAME = re.compile(r"\.(parquet|tfrecord|libsvm|libfm|libffm)s?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_COLUMNS_SHOWN = 100


@dataclass(frozen=True)
class Layout:
    """How the files of a log are written, and which of their columns are wanted: all that reading knows of a schema.

    Attributes:
      name: of the schema, for messages.
      columns: the wanted ones, in the order in which batches give them; None: all.
      optional: those among them that a file may lack; its batches then have a column of nulls.
      format: of all files; None: each file's name says it, and a name that says nothing means text.
      separator: between the values of a line of text.
      header: column names in file order where text files have no header line of their own.
      quoted: whether values of text files may stand in quotes; else quotes are characters like any other.
    """

    name: str
    columns: tuple[str, ...] | None
    optional: frozenset[str] = frozenset()
    format: Format | None = None
    separator: str = ","
    header: tuple[str, ...] | None = None
    quoted: bool = True

    @classmethod
    def of(cls, schema: Schema) -> "Layout":
        return cls(schema.name, schema.columns, schema.optional_columns, schema.format, schema.separator, schema.header,
                   schema.quoted)

    def format_of(self, path: str) -> Format:
        named = _FORMAT_IN_NAME.search(path)
        return self.format or (named.group(1).lower() if named else "csv")

    def wanted(self, names: list[str]) -> list[str]:
        """The columns that batches of a file with the columns `names` have."""
        return names if self.columns is None else list(self.columns)

    def check(self, path: str, names: list[str]) -> None:
        """Checks the columns of a file, `names`: each wanted one is there once, unless it is optional."""
        for column in self.wanted(names):
            if names.count(column) != 1 and (column in names or column not in self.optional):
                raise self.lacks(path, names, column)

    def lacks(self, path: str, names: list[str], column: str) -> UserError:
        """What to say where a file has a wanted column not once."""
        problem = "more than one column" if column in names else "no column"
        named = "" if self.columns is None else f", which schema {self.name!r} names"
        more = f" and {len(names) - _COLUMNS_SHOWN:,} more" if len(names) > _COLUMNS_SHOWN else ""
        return UserError(
            f"file {path} has {problem} {column!r}{named}: the columns are {names[:_COLUMNS_SHOWN]}{more}; correct the schema "
            "(`column`, `separator`, `header`, `format`) or the file"
        )


@dataclass(frozen=True)
class Descriptor:
    """One piece of work: a file or a part of it, and the split that all its rows belong to (None: each row decides).

    Attributes:
      index: place among the pieces of the same `split`, which is also the number of the shard it becomes.
      total: number of pieces of the same `split`.
      start, end: the part: bytes of a plain text file, row groups of a Parquet file; `end` None: to the file's end.
      first_line: line of text at `start`, or row of the Parquet file, from 1.
      size: bytes on the disk that the piece stands for, to show progress by.
    """

    index: int
    total: int
    path: str
    split: str | None = None
    start: int = 0
    end: int | None = None
    first_line: int = 1
    size: int = 0

    @property
    def name(self) -> str:
        return f"{self.split or 'part'}-{self.index:05d}-of-{self.total:05d}"


class Rejection(NamedTuple):
    """A row that could not be read: its line in the file (from 1), why, and its text.

    The line is the row's first line of text, its row number in a Parquet file, or its record number in a TFRecord file.
    """

    line: int
    reason: str
    text: str


@dataclass
class Batch:
    """Rows of one stretch of a file.

    Attributes:
      columns: the wanted columns of the rows that could be read, in the file's own types: strings without nulls from
        text, any type that is not nested from Parquet, lists of binary, int64 or float from `tf.train.Example`; type
        null where the file has no such column.
      rejections: the rows of the stretch that could not be read, by line.
      bytes_read: how much of the descriptor's `size` was read when this batch was complete.
      locate: given places in `columns`, returns the line and the text of each of these rows.
    """

    columns: pa.RecordBatch
    rejections: list[Rejection]
    bytes_read: int
    locate: Callable[[np.ndarray], list[tuple[int, str]]]


def row_texts(columns: pa.RecordBatch, lines: np.ndarray) -> Callable[[np.ndarray], list[tuple[int, str]]]:
    """A `Batch.locate` for formats without text: a row's text is its wanted columns as JSON.

    Args:
      lines: the number of each row in the file, int64 [rows].
    """

    def locate(rows: np.ndarray) -> list[tuple[int, str]]:
        taken = columns.take(pa.array(rows, pa.int64()))
        contents = zip(*map(_values, taken.columns), strict=True)
        return [(int(lines[row]), json.dumps(dict(zip(taken.schema.names, content, strict=True)), ensure_ascii=False, default=_shown))
                for row, content in zip(rows, contents, strict=True)]

    return locate


def _values(column: pa.Array) -> list[Any]:
    """The values of a column; a time that Python has none for, as outside the years 1 to 9999, is the number that the file holds."""
    try:
        return column.to_pylist()
    except OverflowError:
        if len(column) > 1:
            return [value for row in range(len(column)) for value in _values(column.slice(row, 1))]
        return column.cast(_as_number(column.type)).to_pylist()


def _as_number(kind: pa.DataType) -> pa.DataType:
    """The type with numbers in place of times."""
    if pa.types.is_dictionary(kind):
        return _as_number(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_as_number(kind.value_type))
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _shown(value: Any) -> str:
    return shown_bytes(value) if isinstance(value, bytes) else str(value)


def shown_bytes(value: bytes) -> str:
    """Bytes as text; what is not UTF-8 as \\xNN."""
    return value.decode("utf-8", "backslashreplace")
