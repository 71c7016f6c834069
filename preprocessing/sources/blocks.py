"""Text files, plain or gzipped, in blocks of whole records, and where a large one can be cut into pieces."""

import gzip
import os
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from preprocessing.errors import UserError
from preprocessing.sources.layout import Descriptor, Rejection, shown_bytes
from preprocessing.sources.records import Text, count_lines

BLOCK_BYTES = 4 << 20
PIECE_BYTES = 64 << 20
MAX_RECORD_BYTES = 64 << 20
BOM = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"
_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class Block:
    """Whole records of a file; or no text, and why the text in its place was left out.

    Attributes:
      first_line: of the block in the file, from 1; next_line: the one behind it.
      end: the place behind the block in the (decompressed) file.
      bytes_read: of the piece of the file as it lies on the disk.
    """

    text: Text
    first_line: int
    next_line: int
    end: int
    bytes_read: int
    rejections: Sequence[Rejection] = ()

    def behind(self, place: int) -> "Block":
        """The block without the first `place` bytes of its text, which end at a record."""
        data = self.text.data
        line = self.first_line + count_lines(data[:place])
        return replace(self, text=Text(data[place:], self.text.separator), first_line=line)

    def left_out(self, reason: str) -> "Block":
        """The block without its text, which is rejected."""
        text = shown_bytes(self.text.data.rstrip(b"\r\n"))
        return replace(self, text=Text(b"", self.text.separator), rejections=rejected_lines(self.first_line, reason, text))

    def located(self, numbers: Collection[int]) -> list[tuple[int, str]]:
        """The first line and the text of records, by their numbers in the block."""
        if not len(numbers):
            return []
        starts, ends, lines = self.text.records
        return [(self.first_line + int(lines[number]), shown_bytes(self.text.data[starts[number]:ends[number]].rstrip(b"\r\n")))
                for number in numbers]


def read_blocks(piece: Descriptor, separator: str | None, block_bytes: int | None = None) -> Iterator[Block]:
    """Cuts a piece of a file into blocks of whole records.

    Where the quote that opens a value is not closed within `MAX_RECORD_BYTES`, the record's text up to the end of that
    line is left out and rejected. What is a record thus never depends on where blocks and pieces were cut.

    Args:
      separator: between values; None: the text knows no quotes.
      block_bytes: how much to read at once (default: `BLOCK_BYTES`).

    Raises:
      UserError: the file cannot be decompressed to its end, or holds a line of more than `MAX_RECORD_BYTES`.
    """
    with opened(piece.path) as (stream, raw):
        stream.seek(piece.start)
        line, end = piece.first_line, piece.start
        rest, final = b"", False
        while not final:
            chunk = _next(stream, end + len(rest), piece, block_bytes or BLOCK_BYTES)
            final = not chunk
            if end == 0 and not rest and chunk.startswith(BOM):
                chunk, end = chunk[len(BOM):], len(BOM)
            rest += chunk
            if final and rest and not rest.endswith((b"\n", b"\r")):
                rest += b"\n"
            for data, unclosed in _cut(rest, separator, final, piece.path, line):
                rest = rest[len(data):]
                end += len(data)
                first_line, line = line, line + count_lines(data)
                block = Block(Text(data, separator), first_line, line, end, raw.tell() - piece.start)
                yield block.left_out("opening quote is never closed") if unclosed else block


def _next(stream: BinaryIO, place: int, piece: Descriptor, size: int) -> bytes:
    """The next bytes of the piece; never a carriage return without its line feed."""
    left = sys.maxsize if piece.end is None else piece.end - place
    with readable(piece.path):
        chunk = stream.read(min(size, left))
        while chunk.endswith(b"\r") and len(chunk) < left and (following := stream.read(1)):
            chunk += following
    return chunk


def _cut(data: bytes, separator: str | None, final: bool, path: str, line: int) -> Iterator[tuple[bytes, bool]]:
    """Parts `data` into stretches of whole records, and stretches (True) from a record's start to the end of the line
    whose quote is never closed. What is left over is the start of a record; nothing if `final`.
    """
    place = 0
    while place < len(data):
        rest = data[place:]
        end = _end_of_whole_records(Text(rest, separator))
        unclosed = not end
        if not end and (final or len(rest) > MAX_RECORD_BYTES):
            end = _end_of_open_line(Text(rest[:MAX_RECORD_BYTES], separator))
            if not end:
                line += count_lines(data[:place])
                raise UserError(
                    f"file {path}, line {line}: the line is longer than {MAX_RECORD_BYTES >> 20} MiB, expected text "
                    "with one row a line; check that the file is text and that its lines end in a line feed"
                )
        if not end:
            return
        yield rest[:end], unclosed
        place += end


def _end_of_whole_records(text: Text) -> int:
    """The place behind the last whole record before any that is longer than `MAX_RECORD_BYTES`; 0: there is none."""
    if len(text.data) <= MAX_RECORD_BYTES:
        return text.last_end()
    ends = text.record_ends
    too_long = np.flatnonzero(np.diff(ends, prepend=0) > MAX_RECORD_BYTES)
    whole = ends[:too_long[0]] if len(too_long) else ends
    return int(whole[-1]) if len(whole) else 0


def _end_of_open_line(text: Text) -> int:
    """The place behind the line with the quote that `text` never closes; 0: there is none."""
    if text.open_quote is None:
        return 0
    ends = text.line_ends[text.line_ends > text.open_quote]
    return int(ends[0]) if len(ends) else 0


def cut_pieces(path: str, separator: str | None) -> list[Descriptor]:
    """A text file as pieces of about `PIECE_BYTES` that begin with a record; one piece where it is gzipped.

    Reads the whole of a file of more than one piece: only from its start on can one know which quotes open values, and
    what the lines' numbers are.
    """
    size = os.path.getsize(path)
    if _is_gzip(path):
        return [Descriptor(0, 1, path, size=size)]
    count = max(1, round(size / PIECE_BYTES))
    starts, has_record = [(0, 1)], False  # the first piece holds the header, even behind blank lines
    for block in read_blocks(Descriptor(0, 1, path, end=size), separator) if count > 1 else ():
        has_record = has_record or block.text.has_records
        if has_record and len(starts) * size / count <= block.end < size:
            starts.append((block.end, block.next_line))
    ends = [start for start, _ in starts[1:]] + [size]
    return [Descriptor(0, 1, path, start=start, end=end, first_line=line, size=end - start)
            for (start, line), end in zip(starts, ends, strict=True)]


@contextmanager
def opened(path: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Opens a file for reading, decompressed where it is gzip; also the raw file, whose position shows progress."""
    with open(path, "rb") as raw:
        if not _is_gzip(path):
            yield raw, raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream, raw


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Says of a gzipped file that ends early or is damaged that it is."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"file {path} cannot be decompressed to its end ({error}): it is truncated or damaged; copy it again"
        ) from error


def rejected_lines(line: int, reason: str, text: str) -> list[Rejection]:
    """Rejects a record line by line: where a quote is stray, each line that it swallows would have been a row."""
    return [Rejection(line + number, reason, part) for number, part in enumerate(_LINE_END.split(text))]
