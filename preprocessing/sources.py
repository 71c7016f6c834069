"""Files of a log, to Arrow record batches of text and the rows that could not be read.

A file is read in blocks that end at a record, and Arrow parses each block. Only a block with something wrong in it is
looked at record by record, to say on which line. Quoting is Arrow's: a quote opens a quoted value only at the start of
a field, a doubled quote inside it is a quote, and line ends inside it belong to the value.
"""

import csv
import glob
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from preprocessing.errors import UserError
from preprocessing.schema import SPLITS, FilesSplit, Schema

BLOCK_BYTES = 4 << 20
MAX_RECORD_BYTES = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Descriptor:
    """One piece of work: a file, and the split that all its rows belong to (None: each row decides).

    Attributes:
      index: place among the files of the same `split`, which is also the number of the shard it becomes.
      total: number of files of the same `split`.
    """

    index: int
    total: int
    path: str
    split: str | None = None

    @property
    def name(self) -> str:
        return f"{self.split or 'part'}-{self.index:05d}-of-{self.total:05d}"


class Rejection(NamedTuple):
    """A row that could not be read: its first line in the file (from 1), why, and its text."""

    line: int
    reason: str
    text: str


@dataclass
class Block:
    """Whole records of a file, and the rejections that were found while cutting it."""

    data: bytes
    first_line: int
    bytes_read: int
    rejections: list[Rejection] = field(default_factory=list)


@dataclass
class TextBatch:
    """Rows as text: one string column per name, without nulls; `rejections` are the unreadable rows around them."""

    batch: pa.RecordBatch
    rejections: list[Rejection]
    block: Block
    separator: str
    skipped: frozenset[int]

    def locate(self, rows: np.ndarray) -> list[tuple[int, str]]:
        """The first line and the text of rows of `batch`, by their position in it."""
        readable = [record for number, record in enumerate(_numbered_records(self.block, self.separator))
                    if number not in self.skipped]
        return [readable[row] for row in rows]


def find_files(patterns: list[str], schema: Schema) -> list[Descriptor]:
    """Expands what the user typed after `--input` into descriptors, ordered by path, and checks each file's start.

    Raises:
      UserError: nothing matches, a file is empty or has a header only, a column of the schema is missing, or two
        splits name the same file.
    """
    if isinstance(schema.split, FilesSplit):
        descriptors = _files_of_splits(patterns, schema.split)
    else:
        paths = _expand(patterns)
        descriptors = [Descriptor(index, len(paths), path) for index, path in enumerate(paths)]
    for descriptor in descriptors:
        _check_start(descriptor.path, schema)
    return descriptors


def _files_of_splits(patterns: list[str], split: FilesSplit) -> list[Descriptor]:
    if len(patterns) != 1 or not os.path.isdir(patterns[0]):
        raise UserError(
            f"--input {' '.join(patterns)}: the schema splits by files (`split.by: files`), so --input must be the one "
            f"folder that holds {split.train!r}, {split.valid!r} and {split.test!r}"
        )
    owner, descriptors = {}, []
    for name in SPLITS:
        paths = _expand([os.path.join(glob.escape(patterns[0]), getattr(split, name))])
        for path in paths:
            if owner.setdefault(path, name) != name:
                raise UserError(
                    f"file {path} belongs to both the {owner[path]} and the {name} split: the patterns under `split` "
                    "in the schema must not overlap"
                )
        descriptors += [Descriptor(index, len(paths), path, name) for index, path in enumerate(paths)]
    return descriptors


def _expand(patterns: list[str]) -> list[str]:
    paths = set()
    for pattern in patterns:
        if os.path.isdir(pattern):
            example = os.path.join(pattern, "*.csv")
            raise UserError(f"--input {pattern} is a folder, expected files: give a glob such as '{example}'")
        found = [path for path in (glob.glob(pattern) or glob.glob(glob.escape(pattern))) if os.path.isfile(path)]
        if not found:
            raise UserError(
                f"no file matches {pattern!r}: expected at least one CSV or TSV file; check the path and the spelling"
            )
        paths.update(found)
    return sorted(paths)


def _check_start(path: str, schema: Schema) -> None:
    names = read_header(path, schema)
    with _open(path) as (stream, _):
        if schema.header is None:
            _readline(stream, path)
        if not _read(stream, path).strip():
            raise UserError(
                f"file {path} has a header ({len(names)} columns) but no rows: expected at least one row; "
                "remove the file or write it again"
            )


def read_header(path: str, schema: Schema) -> list[str]:
    """The column names of a file, from its first line or from the schema's `header`; checks that none is missing."""
    with _open(path) as (stream, _):
        first = _readline(stream, path)
    if not first.strip():
        expected = "rows" if schema.header else "a header line and rows"
        raise UserError(f"file {path} is empty: expected {expected}; remove it or write it again")
    text = first.removeprefix(_BOM).decode("utf-8", "replace").rstrip("\r\n")
    names = list(schema.header or next(csv.reader([text], delimiter=schema.separator)))
    for column in schema.columns:
        if names.count(column) != 1:
            problem = "more than one column" if column in names else "no column"
            raise UserError(
                f"file {path} has {problem} {column!r}, which schema {schema.name!r} names: the columns are {names}; "
                "correct the schema (`column`, `separator`, `header`) or the file"
            )
    return names


def read_text(path: str, schema: Schema) -> Iterator[TextBatch]:
    """Reads a file into batches of text columns (`schema.columns`).

    Raises:
      UserError: the file cannot be decompressed to its end, or holds a line of more than 64 MiB.
    """
    names = read_header(path, schema)
    for block in _read_blocks(path, schema):
        yield _parse(block, names, schema)


def _parse(block: Block, names: list[str], schema: Schema) -> TextBatch:
    block = _without_undecodable(block, schema.separator)
    skipped: dict[int, int] = {}

    def skip(row: arrow_csv.InvalidRow) -> str:
        skipped[row.number - 1] = row.actual_columns
        return "skip"

    table = pa.table({name: pa.array([], pa.string()) for name in schema.columns})
    if block.data.strip(b"\r\n"):
        table = arrow_csv.read_csv(
            io.BytesIO(block.data),
            # Row numbers are known only to a single-threaded reader; the whole block is one chunk.
            arrow_csv.ReadOptions(use_threads=False, block_size=len(block.data) + 1, column_names=names),
            arrow_csv.ParseOptions(delimiter=schema.separator, newlines_in_values=True, invalid_row_handler=skip),
            arrow_csv.ConvertOptions(
                check_utf8=False, strings_can_be_null=False, include_columns=schema.columns,
                column_types={name: pa.string() for name in schema.columns},
            ),
        )
    rejections = list(block.rejections)
    if skipped:
        records = list(_numbered_records(block, schema.separator))
        for number, columns in skipped.items():
            line, text = records[number]
            reason = f"wrong number of columns: expected {len(names)}, received {columns}"
            rejections.append(Rejection(line, reason, text))
    columns = [table[name].combine_chunks() for name in schema.columns]
    batch = pa.RecordBatch.from_arrays(columns, names=list(schema.columns))
    return TextBatch(batch, rejections, block, schema.separator, frozenset(skipped))


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


def _read_blocks(path: str, schema: Schema) -> Iterator[Block]:
    """Cuts a file, after its header, into blocks of whole records."""
    with _open(path) as (stream, raw):
        line = 1
        rest = b""
        if schema.header is None:
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
            data, rest, unclosed = _cut(rest, schema.separator, final)
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
