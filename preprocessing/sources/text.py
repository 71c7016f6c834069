"""Files of a log, to Arrow record batches of text and the rows that could not be read.

A file is read in blocks that end at a record, and Arrow parses each block. Only a block with something wrong in it is
looked at record by record, to say on which line. Quoting is Arrow's: a quote opens a quoted value only at the start of
a field, a doubled quote inside it is a quote, and line ends inside it belong to the value.
"""

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from preprocessing.errors import UserError
from preprocessing.sources.layout import Batch, Descriptor, Layout, Rejection

BLOCK_BYTES = 4 << 20
MAX_RECORD_BYTES = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


@dataclass
class Block:
    """Whole records of a file, and the rejections that were found while cutting it."""

    data: bytes
    first_line: int
    bytes_read: int
    rejections: list[Rejection] = field(default_factory=list)


def pieces(path: str, layout: Layout) -> list[Descriptor]:
    """A text file as descriptors; checks that it has rows."""
    names = column_names(path, layout)
    with _open(path) as (stream, _):
        if layout.header is None:
            _readline(stream, path)
        if not _read(stream, path).strip():
            raise UserError(
                f"file {path} has a header ({len(names)} columns) but no rows: expected at least one row; "
                "remove the file or write it again"
            )
    return [Descriptor(0, 1, path, size=os.path.getsize(path))]


def column_names(path: str, layout: Layout) -> list[str]:
    """The column names of a file, from its first line or from the layout's `header`."""
    with _open(path) as (stream, _):
        first = _readline(stream, path)
    if not first.strip():
        expected = "rows" if layout.header else "a header line and rows"
        raise UserError(f"file {path} is empty: expected {expected}; remove it or write it again")
    text = first.removeprefix(_BOM).decode("utf-8", "replace").rstrip("\r\n")
    return list(layout.header or next(csv.reader([text], delimiter=layout.separator)))


def read(descriptor: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads a file into batches of text columns.

    Raises:
      UserError: the file cannot be decompressed to its end, or holds a line of more than 64 MiB.
    """
    names = column_names(descriptor.path, layout)
    layout.check(descriptor.path, names)
    for block in _read_blocks(descriptor.path, layout):
        yield _parse(block, names, layout)


def _parse(block: Block, names: list[str], layout: Layout) -> Batch:
    block = _without_undecodable(block, layout.separator)
    skipped: dict[int, int] = {}

    def skip(row: arrow_csv.InvalidRow) -> str:
        skipped[row.number - 1] = row.actual_columns
        return "skip"

    wanted = list(names if layout.columns is None else layout.columns)
    present = [name for name in wanted if name in names]
    table = pa.table({name: pa.array([], pa.string()) for name in present})
    if block.data.strip(b"\r\n"):
        table = arrow_csv.read_csv(
            io.BytesIO(block.data),
            # Row numbers are known only to a single-threaded reader; the whole block is one chunk.
            arrow_csv.ReadOptions(use_threads=False, block_size=len(block.data) + 1, column_names=names),
            arrow_csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True, invalid_row_handler=skip),
            arrow_csv.ConvertOptions(
                check_utf8=False, strings_can_be_null=False, include_columns=present,
                column_types={name: pa.string() for name in present},
            ),
        )
    rejections = list(block.rejections)
    if skipped:
        records = list(_numbered_records(block, layout.separator))
        for number, columns in skipped.items():
            line, text = records[number]
            reason = f"wrong number of columns: expected {len(names)}, received {columns}"
            rejections.append(Rejection(line, reason, text))
    columns = [table[name].combine_chunks() if name in present else pa.nulls(len(table)) for name in wanted]

    def locate(rows: np.ndarray) -> list[tuple[int, str]]:
        readable = [record for number, record in enumerate(_numbered_records(block, layout.separator))
                    if number not in skipped]
        return [readable[row] for row in rows]

    return Batch(pa.RecordBatch.from_arrays(columns, names=wanted), sorted(rejections), block.bytes_read, locate)


def _without_undecodable(block: Block, separator: str) -> Block:
    """Rejects the records that are not UTF-8; blank lines in their place keep the line numbers."""
    try:
        block.data.decode("utf-8")
        return block
    except UnicodeDecodeError:
        pass
    kept, rejections, line = [], list(block.rejections), block.first_line
    for raw in _records(block.data, separator):
        try:
            raw.decode("utf-8")
            kept.append(raw)
        except UnicodeDecodeError:
            rejections.append(Rejection(line, "not valid UTF-8", _shown(raw)))
            kept.append(b"\n" * _count_lines(raw))
        line += _count_lines(raw)
    return Block(b"".join(kept), block.first_line, block.bytes_read, rejections)


def _read_blocks(path: str, layout: Layout) -> Iterator[Block]:
    """Cuts a file, after its header, into blocks of whole records."""
    with _open(path) as (stream, raw):
        line = 1
        rest = b""
        if layout.header is None:
            _readline(stream, path)
            line = 2
        else:
            rest = _read(stream, path).removeprefix(_BOM)
        final = False
        while not final:
            chunk = _read(stream, path)
            final = not chunk
            rest += chunk
            while rest.endswith(b"\r") and (following := _read(stream, path, 1)):
                rest += following  # do not part a carriage return from its line feed
            if final and rest and not rest.endswith((b"\n", b"\r")):
                rest += b"\n"
            data, rest, unclosed = _cut(rest, layout.separator, final)
            if not data and len(rest) > MAX_RECORD_BYTES:
                raise UserError(
                    f"file {path}, line {line}: the line is longer than {MAX_RECORD_BYTES >> 20} MiB, expected a CSV "
                    "or TSV file; check that the file is text and its lines end in a line feed"
                )
            if data:
                reason = "opening quote is never closed"
                rejections = [Rejection(line + before, reason, text) for before, text in unclosed]
                yield Block(data, line, raw.tell(), rejections)
                line += _count_lines(data)


def _cut(data: bytes, separator: str, final: bool) -> tuple[bytes, bytes, list[tuple[int, str]]]:
    """Splits data after its last whole record.

    Returns the whole records, the rest, and (lines before it, text) of each line whose quote is never closed; such a
    line is left blank in the records.
    """
    if b'"' not in data:
        end = len(data) if final else data.rfind(b"\n") + 1
        return data[:end], data[end:], []
    match = _record_pattern(separator).match
    kept, unclosed, start, position = [], [], 0, 0
    while position < len(data):
        record = match(data, position)
        if record:
            position = record.end()
            continue
        end = data.find(b"\n", position) + 1
        if not end or (not final and len(data) - position <= MAX_RECORD_BYTES):
            break
        kept.append(data[start:position])
        unclosed.append((sum(map(_count_lines, kept)), _shown(data[position:end])))
        kept.append(b"\n")
        start = position = end
    kept.append(data[start:position])
    return b"".join(kept), data[position:], unclosed


@lru_cache
def _record_pattern(separator: str) -> re.Pattern[bytes]:
    """One record with its line end. A closing quote is one that no quote follows, so a match never has to back up."""
    plain = rb"[^%b\r\n]*" % re.escape(separator.encode())
    quoted = rb'"[^"]*(?:""[^"]*)*"(?!")' + plain
    value = rb"(?:" + quoted + rb'|(?!")' + plain + rb")"
    return re.compile(value + rb"(?:" + re.escape(separator.encode()) + value + rb")*(?:\r\n|\n|\r)")


def _records(data: bytes, separator: str) -> Iterator[bytes]:
    return (match.group() for match in _record_pattern(separator).finditer(data))


def _numbered_records(block: Block, separator: str) -> Iterator[tuple[int, str]]:
    """The first line and the text of each record that is not blank."""
    line = block.first_line
    for raw in _records(block.data, separator):
        if raw.strip(b"\r\n"):
            yield line, _shown(raw)
        line += _count_lines(raw)


def _count_lines(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def _shown(raw: bytes) -> str:
    return raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace")


@contextmanager
def _open(path: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Opens a file for reading, decompressed where it is gzip; also the raw file, whose position shows progress."""
    with open(path, "rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not compressed:
            yield raw, raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream, raw


def _read(stream: BinaryIO, path: str, size: int | None = None) -> bytes:
    with _readable(path):
        return stream.read(size or BLOCK_BYTES)


def _readline(stream: BinaryIO, path: str) -> bytes:
    with _readable(path):
        return stream.readline(MAX_RECORD_BYTES)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"file {path} cannot be decompressed to its end ({error}): it is truncated or damaged; copy it again"
        ) from error
