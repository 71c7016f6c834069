"""libsvm, libfm and libffm files: a line is a label and entries, in any number; `#` begins a comment.

| format | entry | columns |
| --- | --- | --- |
| libsvm | `index:value` | INDEX: its value |
| libfm | `index:value` | N, from 1: the index of the row's Nth entry |
| libffm | `field:index:value` | FIELD: its indices, a list |

Each has a column `label`, missing where a line begins with an entry, and a column `indices`, the list of all indices of
the row. What a row has no entry for is missing.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.errors import UserError
from preprocessing.sources.blocks import Block, cut_pieces, read_blocks
from preprocessing.sources.layout import Batch, Descriptor, Layout, Rejection
from preprocessing.sources.records import Text

ROWS_MAY_LACK_COLUMNS = True
LABEL, INDICES = "label", "indices"
_MOST_COLUMNS = 1000
_ENTRIES = {"libsvm": "index:value", "libfm": "index:value", "libffm": "field:index:value"}
_PATTERNS = {"libsvm": "^[^:]+:[^:]*$", "libfm": "^[^:]+:[^:]*$", "libffm": "^[^:]+:[^:]+:[^:]*$"}


def column_names(path: str, layout: Layout) -> list[str]:
    """The columns of the first rows of a file.

    Where the layout wants all, and there are more than 1000 (as with one-hot vectors), only `label` and `indices`.
    """
    for block in read_blocks(Descriptor(0, 1, path), None):
        lines = _Lines(block.text, layout.format_of(path))
        if len(lines):
            keys = sorted(lines.keys.unique().to_pylist(), key=lambda key: (len(key), key))
            too_many = layout.columns is None and len(keys) > _MOST_COLUMNS
            return [LABEL, INDICES, *(() if too_many else keys)]
    raise UserError(f"file {path} is empty: expected rows; remove it or write it again")


def pieces(path: str, layout: Layout) -> list[Descriptor]:
    """A file as pieces of work; checks that it has rows."""
    column_names(path, layout)
    return cut_pieces(path, None)


def read(piece: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads a piece of a file into batches of strings and lists of strings."""
    wanted = layout.wanted([]) or column_names(piece.path, layout)
    for block in read_blocks(piece, None):
        yield _batch(block, _Lines(block.text, layout.format_of(piece.path)), wanted)


def _batch(block: Block, lines: "_Lines", wanted: Sequence[str]) -> Batch:
    columns, malformed = lines.columns(wanted)
    good = np.ones(len(lines), bool)
    good[list(malformed)] = False
    reasons = {int(lines.number[row]): reason for row, reason in malformed.items()} | lines.unreadable
    rejections = [Rejection(line, reason, text)
                  for (line, text), reason in zip(block.located(reasons), reasons.values(), strict=True)]
    return Batch(columns.filter(pa.array(good)), sorted(rejections), block.bytes_read,
                 lambda rows: block.located(lines.number[good][rows]))


class _Lines:
    """The lines of a block, taken apart.

    Attributes:
      unreadable: why some records cannot be read, by their numbers.
      number: of each line among the records of the block, int64 [lines]; without those, and without mere comments.
      label: text, "" where there is none, [lines].
      well_formed: bool [lines].
      row: the line of each entry of the well-formed ones, int64 [entries], ascending.
      keys, indices, values: texts, [entries]; the key names the entry's column.
    """

    def __init__(self, text: Text, form: str):
        self._form = form
        self.unreadable = text.unreadable()
        self.number, body = _bodies(text, self.unreadable)
        parts = pc.ascii_split_whitespace(body)
        tokens, counts = parts.flatten(), pc.list_value_length(parts).to_numpy()
        row = np.repeat(np.arange(len(counts)), counts)
        position = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        is_label = (position == 0) & ~_numpy(pc.match_substring(tokens, ":"))
        has_label = np.zeros(len(counts), bool)
        has_label[row[is_label]] = True
        self.label = _text_column(tokens, row, np.flatnonzero(is_label), len(counts))
        self.well_formed = np.ones(len(counts), bool)
        self.well_formed[row[~is_label & ~_numpy(pc.match_substring_regex(tokens, _PATTERNS[form]))]] = False
        kept = ~is_label & self.well_formed[row]
        self.row = row[kept]
        *fields, self.indices, self.values = _split(tokens.filter(pa.array(kept)), form)
        if form == "libfm":
            self.keys = pc.cast(pa.array(position[kept] + 1 - has_label[self.row]), pa.string())
        else:
            (self.keys,) = fields or [self.indices]

    def __len__(self) -> int:
        return len(self.number)

    def columns(self, wanted: Sequence[str]) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The wanted columns of all lines, and why some lines are malformed."""
        entry = _ENTRIES[self._form]
        reasons = dict.fromkeys(np.flatnonzero(~self.well_formed).tolist(), f"not of the form label {entry} {entry} ...")
        keys = pa.array([name for name in wanted if name not in (LABEL, INDICES)], pa.string())
        codes = pc.fill_null(pc.index_in(self.keys, value_set=keys), len(keys)).to_numpy()
        entries = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=len(keys))))
        columns = {LABEL: self.label, INDICES: _list_column(self.indices, self.row, np.arange(len(self.row)), len(self))}
        for name, found in zip(keys.to_pylist(), entries, strict=False):
            if self._form == "libffm":
                columns[name] = _list_column(self.indices, self.row, found, len(self))
            else:
                source = self.values if self._form == "libsvm" else self.indices
                columns[name] = _text_column(source, self.row, found, len(self))
                rows = self.row[found]
                reasons |= dict.fromkeys(rows[1:][rows[1:] == rows[:-1]].tolist(), f"index {name} more than once")
        return pa.RecordBatch.from_pydict({name: columns[name] for name in wanted}), reasons


def _bodies(text: Text, unreadable: Collection[int]) -> tuple[np.ndarray, pa.Array]:
    """The records of a text that say something, without comments and spaces around: the number and the text of each."""
    starts, ends, _ = text.records
    if not len(starts):
        return np.zeros(0, np.int64), pa.array([], pa.string())
    places = np.append(starts, ends[-1]).astype(np.int32)
    raw = pa.Array.from_buffers(pa.string(), len(starts), [None, pa.py_buffer(places), pa.py_buffer(text.data)])
    number = np.delete(np.arange(len(starts)), list(unreadable))
    raw = raw.take(pa.array(number))
    if b"#" in text.data:
        raw = pc.replace_substring_regex(raw, "#.*", "")
    body = pc.ascii_trim_whitespace(raw)
    filled = _numpy(pc.not_equal(body, ""))
    return number[filled], body.filter(pa.array(filled))


def _split(tokens: pa.Array, form: str) -> list[pa.Array]:
    """The parts of all entries: first parts, second parts, ..."""
    count = _ENTRIES[form].count(":") + 1
    parts = pc.split_pattern(tokens, ":").flatten()
    return [parts.take(pa.array(np.arange(place, len(parts), count))) for place in range(count)]


def _text_column(source: pa.Array, row: np.ndarray, entries: np.ndarray, rows: int) -> pa.Array:
    """A string column of the given entries of `source`, each in its row; "" elsewhere."""
    place = np.full(rows, -1)
    place[row[entries]] = entries
    return pc.fill_null(source.take(pa.array(place, mask=place < 0)), "")


def _list_column(source: pa.Array, row: np.ndarray, entries: np.ndarray, rows: int) -> pa.Array:
    """A column of lists of the given entries of `source`, each in its row."""
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(row[entries], minlength=rows), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), source.take(pa.array(entries, pa.int64())))


def _numpy(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)
