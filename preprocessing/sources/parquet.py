"""Parquet files: batches of bounded size in the file's own types, row groups as pieces."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.errors import UserError
from preprocessing.sources.layout import Batch, Descriptor, Layout, row_texts

ROWS_MAY_LACK_COLUMNS = False
PIECE_BYTES = 64 << 20
BATCH_BYTES = 4 << 20
MAX_BATCH_ROWS = 1 << 15
_BUFFER_BYTES = 1 << 20  # of each column, instead of the whole column of a row group


def column_names(path: str, layout: Layout) -> list[str]:
    """The top-level columns of a file; without nested ones where the layout wants all."""
    with _opened(path) as file:
        return _names(file, layout)


def pieces(path: str, layout: Layout) -> list[Descriptor]:
    """A file as pieces of about `PIECE_BYTES` of decompressed row groups; checks that it has rows and readable columns."""
    with _opened(path) as file:
        _check_types(path, file.schema_arrow, layout)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    rows = np.cumsum([0, *(group.num_rows for group in groups)])  # before each group, and in all
    sizes = np.cumsum([0, *map(_decompressed_bytes, groups)])
    if not rows[-1]:
        raise UserError(f"file {path} has no rows: expected at least one; remove the file or write it again")
    count = max(1, round(sizes[-1] / PIECE_BYTES))
    starts = np.unique(np.searchsorted(sizes[:-1], sizes[-1] * np.arange(count) / count)).tolist()
    starts = [start for start in starts if start < len(groups)]
    scale = os.path.getsize(path) / sizes[-1]
    return [
        Descriptor(0, 1, path, start=start, end=end, first_line=int(rows[start]) + 1,
                   size=round((sizes[end] - sizes[start]) * scale))
        for start, end in zip(starts, [*starts[1:], len(groups)], strict=True)
    ]


def read(piece: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads row groups into batches. A text column with bytes that are not UTF-8 comes as a column of bytes."""
    with _opened(piece.path) as file:
        names = _names(file, layout)
        layout.check(piece.path, names)
        _check_types(piece.path, file.schema_arrow, layout)
        groups = range(file.metadata.num_row_groups)[piece.start:piece.end]
        wanted, size, done = layout.wanted(names), piece.size or os.path.getsize(piece.path), 0
        present = [name for name in wanted if name in names]
        rows = sum(file.metadata.row_group(group).num_rows for group in groups)
        batches = file.iter_batches(_batch_rows(file, groups), groups, present, use_threads=False)
        while done < rows:
            with _readable(piece.path):
                batch = next(batches)
            columns = [_plain(batch[name]) if name in present else pa.nulls(len(batch)) for name in wanted]
            lines = piece.first_line + np.arange(done, done + len(batch))
            done += len(batch)
            columns = pa.RecordBatch.from_arrays(columns, names=wanted)
            yield Batch(columns, [], size * done // rows, row_texts(columns, lines))


def _names(file: pq.ParquetFile, layout: Layout) -> list[str]:
    return [one.name for one in file.schema_arrow if layout.columns is not None or _is_readable(one.type)]


def _opened(path: str) -> pq.ParquetFile:
    if not os.path.getsize(path):
        raise UserError(f"file {path} is empty: expected a Parquet file with rows; remove it or write it again")
    with _readable(path):
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(
            f"file {path} cannot be read as Parquet ({' '.join(str(error).split())}): it is truncated, damaged or of another "
            "format; copy it again, or give it a name that says what it is (or say it of all files: `format` in the schema)"
        ) from error


def _decompressed_bytes(group: pq.RowGroupMetaData) -> int:
    """How much a row group takes in memory, above 0 if it has rows. DuckDB before August 2023 leaves the group's own size at 0."""
    columns = (group.column(number).total_uncompressed_size for number in range(group.num_columns))
    return group.total_byte_size or sum(columns) or group.num_rows


def _batch_rows(file: pq.ParquetFile, groups: range) -> int:
    found = [file.metadata.row_group(group) for group in groups]
    row_bytes = max(1, sum(map(_decompressed_bytes, found)) // max(1, sum(group.num_rows for group in found)))
    return max(1, min(BATCH_BYTES // row_bytes, MAX_BATCH_ROWS))


def _check_types(path: str, schema: pa.Schema, layout: Layout) -> None:
    for field in schema:
        if field.name in (layout.columns or ()) and not _is_readable(field.type):
            raise UserError(
                f"file {path}: column {field.name!r} has the nested type {field.type}, expected texts, numbers, times or lists "
                "of these: write its parts as columns of their own, or leave the column out of the schema"
            )


def _is_readable(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not pa.types.is_nested(kind)


def _plain(column: pa.Array) -> pa.Array:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        return column.cast(_as_bytes(column.type))


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with bytes in place of texts."""
    if pa.types.is_dictionary(kind):
        return _as_bytes(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    return pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
