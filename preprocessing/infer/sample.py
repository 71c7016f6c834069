"""A sample of a log whose schema is not known yet: how its files are written, and rows from all over them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import values
from preprocessing.errors import UserError
from preprocessing.infer.profile import Profile
from preprocessing.sources import Descriptor, Layout, Rejection, column_names, expand, pieces_of, read
from preprocessing.sources.sparse import INDICES, LABEL
from preprocessing.values import RowReasons

SAMPLE_ROWS = 100_000
_SPARSE = ("libsvm", "libfm", "libffm")
_MOST_PIECES = 16
_MOST_CELLS = 1_000_000  # of lists, in one column
_MOST_BYTES = 256 << 20  # read, of all pieces together, as they lie on the disk
_SEPARATORS = (",", "\t")
_UNREADABLE = 0.1  # above this share of unreadable lines a separator is not the right one
_OTHER_SEPARATORS = {";": "semicolons", "|": "vertical bars", " ": "spaces", "\x01": "control characters (\\x01)"}


@dataclass(frozen=True)
class Sample:
    """Rows of a log.

    Attributes:
      paths: all files of the log; pieces: what was read of them.
      layout: how they are written; its columns are those of `table`.
      table: one chunk a column.
      partial: columns that only some of the files have; they are not in `table`.
      complete: these are all rows of the log.
      unread: files whose end was not reached.
      rejections: rows that could not be read, with the file of each.
    """

    paths: tuple[str, ...]
    pieces: tuple[Descriptor, ...]
    layout: Layout
    table: pa.Table
    partial: tuple[str, ...]
    complete: bool
    unread: tuple[str, ...]
    rejections: tuple[tuple[str, Rejection], ...]

    @property
    def files(self) -> int:
        """How many files the rows come from."""
        return len({piece.path for piece in self.pieces})

    @property
    def repeated(self) -> frozenset[str]:
        """Columns that say again what others say."""
        sparse = self.layout.format_of(self.paths[0]) in _SPARSE
        return frozenset({INDICES} if sparse and set(self.table.column_names) - {LABEL, INDICES} else ())

    @property
    def holds_codes(self) -> bool:
        """Whether the format says that numbers are codes."""
        return self.layout.format_of(self.paths[0]) in ("libfm", "libffm")

    @property
    def columns(self) -> Iterator[tuple[str, pa.Array]]:
        return zip(self.table.column_names, (column.chunk(0) for column in self.table.columns), strict=True)


def take_sample(patterns: Sequence[str], separator: str | None, rows: int) -> Sample:
    """Reads about `rows` rows, spread evenly over up to 16 pieces of the files and over each piece.

    Args:
      separator: of text files; None: found out.

    Raises:
      UserError: no file, no rows, or rows of one column, which means another separator.
    """
    paths = expand(list(patterns))
    layout = _sniff(paths[0], separator)
    chosen = _evenly(paths, _MOST_PIECES)
    partial = ()
    if layout.header is None:
        common, partial = _common_columns(chosen, layout)
        layout = replace(layout, columns=common)
    else:
        _check_widths(chosen, layout)
    pieces = [piece for path in chosen for piece in pieces_of(path, layout)]
    whole = len(chosen) == len(paths) and len(pieces) <= _MOST_PIECES
    pieces = _evenly(pieces, _MOST_PIECES)
    batches, rejections, unread = [], [], []
    for piece in pieces:
        part = _read_some(piece, layout, rows / len(pieces), _MOST_BYTES // len(pieces))
        batches += part.batches
        rejections += [(piece.path, rejection) for rejection in part.rejections]
        unread += [] if part.ended else [piece.path]
        whole &= part.complete
    table = _thinned(_joined(batches))
    if not table.num_rows:
        raise UserError(f"no row of {', '.join(paths[:3])} could be read{_reasons(rejections)}: expected a log with at least one "
                        "well-formed row; check the files and --separator")
    whole &= table.num_rows == sum(map(len, batches))
    return Sample(tuple(paths), tuple(pieces), layout, table, partial, whole, tuple(dict.fromkeys(unread)), tuple(rejections))


def _evenly(items: Sequence, most: int) -> list:
    """At most so many of the items, the first and the last among them, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, most).round().astype(int)]


class _Part(NamedTuple):
    """What was read of a piece; `ended`: to its end, `complete`: and every row was kept."""

    batches: list[pa.RecordBatch]
    rejections: list[Rejection]
    ended: bool
    complete: bool


def _read_some(piece: Descriptor, layout: Layout, rows: float, limit: int) -> _Part:
    """Reads a piece up to `limit` bytes; of each batch the first rows, as many as it is a part of what will be read."""
    batches, rejections, taken, left = [], [], 0, False
    expected = max(min(piece.size, limit), 1)
    for batch in read(piece, layout):
        rejections += batch.rejections
        due = rows * min(batch.bytes_read / expected, 1.0)
        size = min(len(batch.columns), max(int(np.ceil(due - taken)), 0))
        left |= size < len(batch.columns)
        batches.append(batch.columns.take(np.arange(size)))  # a slice would hold the whole batch in memory
        taken += size
        if limit <= batch.bytes_read < piece.size:
            return _Part(batches, rejections, ended=False, complete=False)
    return _Part(batches, rejections, ended=True, complete=not left)


def _joined(batches: list[pa.RecordBatch]) -> pa.Table:
    """The batches as one table of one chunk a column; files may store a column in different types."""
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        return pa.table({})
    return pa.table({name: _one_column([batch[name] for batch in batches], name) for name in batches[0].schema.names})


def _thinned(table: pa.Table) -> pa.Table:
    """Fewer rows, evenly spaced, where lists are so long that all of them would take long to look at."""
    lists = [column for column in table.columns if pa.types.is_nested(column.type)]
    cells = max((pc.sum(pc.list_value_length(column)).as_py() or 0 for column in lists), default=0)
    if cells <= _MOST_CELLS:
        return table
    rows = np.linspace(0, table.num_rows - 1, table.num_rows * _MOST_CELLS // cells).astype(np.int64)
    return table.take(rows).combine_chunks()


def _one_column(parts: list[pa.Array], name: str) -> pa.Array:
    if len({part.type for part in parts}) > 1:
        parts = [values.texts(part, (), f"column {name!r}", RowReasons(len(part))).cast(pa.string()) for part in parts]
    return pa.concat_arrays(parts)


def _reasons(rejections: list[tuple[str, Rejection]]) -> str:
    common = Counter(rejection.reason for _, rejection in rejections).most_common(3)
    return " (" + "; ".join(f"{count:,} x {reason}" for reason, count in common) + ")" if common else ""


# ---- How the files are written ----


def _sniff(path: str, separator: str | None) -> Layout:
    """The layout of a file that nobody has described."""
    unknown = Layout("sample", None)
    if unknown.format_of(path) != "csv":
        return unknown
    found = [_first_rows(path, one, quoted=True) for one in ((separator,) if separator else _SEPARATORS)]
    several = [one for one in found if one.width > 1]
    best = max([one for one in several if one.readable] or several or found, key=lambda one: one.width)
    if not len(best.rows):
        raise UserError(f"the first lines of file {path} cannot be read as text in columns ({best.reason}): expected lines of "
                        "values, separated by commas or tabs; check the file and --separator")
    if best.width == 1:
        raise _one_column_only(path, best)
    if best.rejections:
        unquoted = _first_rows(path, best.separator, quoted=False)
        best = unquoted if unquoted.width == best.width and len(unquoted.rejections) < len(best.rejections) else best
    header = None if best.has_header else best.numbered
    return replace(unknown, separator=best.separator, header=header, quoted=best.quoted)


@dataclass(frozen=True)
class _FirstRows:
    """The first lines of a text file cut at a separator, the header among them if there is one."""

    separator: str
    quoted: bool
    rows: pa.RecordBatch
    rejections: list[Rejection]

    @property
    def readable(self) -> bool:
        unreadable = len(self.rejections)
        return len(self.rows) > 0 and unreadable <= _UNREADABLE * (len(self.rows) + unreadable)

    @property
    def reason(self) -> str:
        return f"line {self.rejections[0].line}: {self.rejections[0].reason}" if self.rejections else "they are blank"

    @property
    def width(self) -> int:
        return self.rows.num_columns

    @property
    def numbered(self) -> tuple[str, ...]:
        """Names for columns without header: c1, c2, ..."""
        return tuple(self.rows.schema.names)

    @property
    def first(self) -> list[str]:
        return [column[0].as_py() for column in self.rows.columns]

    @property
    def has_header(self) -> bool:
        """Whether the first line looks like names of columns, rather than like the lines below it."""
        first = self.first
        if first in ([str(place) for place in range(self.width)], [str(place + 1) for place in range(self.width)]):
            return True
        if len(set(first)) < self.width or "" in first[1:] or any(map(_is_value, first)):
            return False
        same = np.array([pc.equal(column.slice(1), text).to_numpy(zero_copy_only=False)
                         for column, text in zip(self.rows.columns, first, strict=True)])  # [columns, rows]
        repeated_header = same.all(axis=0)  # where files were joined with their headers
        return not (same & ~repeated_header).any()


def _is_value(text: str) -> bool:
    """Whether a text is a number or a time, as names of columns are not."""
    profile = Profile.of("cell", pa.array([text]))
    return bool(profile.is_number.any() or profile.times("iso")[1].any())


def _first_rows(path: str, separator: str, quoted: bool) -> _FirstRows:
    layout = Layout("sample", None, separator=separator, quoted=quoted)
    numbered = tuple(f"c{place + 1}" for place in range(len(column_names(path, layout))))
    batch = next(iter(read(Descriptor(0, 1, path), replace(layout, header=numbered))))
    return _FirstRows(separator, quoted, batch.columns, batch.rejections)


def _one_column_only(path: str, found: _FirstRows) -> UserError:
    line = found.first[0]
    others = [name for text, name in _OTHER_SEPARATORS.items() if line.count(text) > 1]
    hint = (f"it seems to be separated by {others[0]}, which preprocessing does not read: replace them by commas or tabs"
            if others else "name the separator with --separator, or give another file")
    return UserError(f"file {path} has a single column, expected a label and at least one feature, separated by commas or "
                     f"tabs; its first line is {line[:80]!r}; {hint}")


def _common_columns(paths: list[str], layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that all files have, in the first one's order, and those that only some have."""
    all_names = [column_names(path, layout) for path in paths]
    if layout.format_of(paths[0]) in _SPARSE:  # whose rows lack columns anyway
        return tuple(dict.fromkeys(name for names in all_names for name in names)), ()
    common = tuple(name for name in all_names[0] if all(name in names for names in all_names))
    others = dict.fromkeys(name for names in all_names for name in names if name not in common)
    if not common:
        raise UserError(f"files {paths[0]} and {paths[-1]} have no column in common: give the files of one log")
    return common, tuple(others)


def _check_widths(paths: list[str], layout: Layout) -> None:
    for path in paths:
        width = len(column_names(path, replace(layout, header=None)))
        if width != len(layout.header):
            raise UserError(f"file {path} has {width} columns and {paths[0]} has {len(layout.header)}: files without a header "
                            "line must have the same columns; give those of one kind")
