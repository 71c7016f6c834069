"""Where the records of a text end, found for a whole block at once.

A record is a line of text, unless a quoted value in it holds line ends. A quote opens a quoted value only at the start of
a field; a doubled quote inside it is a quote; whatever follows the closing quote up to the separator is plain text. Lines
end in a line feed, a carriage return or both. (These are the rules of Arrow's CSV parser.)
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

NOT_UTF8 = "not valid UTF-8"
STRAY_QUOTE = "text follows a quoted value of several lines: a stray quote? (`quoted: false` in the schema: quotes are mere text)"
_NOT_BLANK = re.compile(rb"[^\r\n]")
# Over one letter a quote: it (B)egins a field, stands behind another (as in a (D)oubled one), or in (T)ext. Some values: each
# an opening quote, doubled quotes, and the closing one or the end.
_QUOTED_VALUES = re.compile(rb"(?:B(?:.D)*(?:.(?!D)|\Z)){1,100}")
_LINE_FEED, _CARRIAGE_RETURN, _QUOTE = b"\n\r\""


@dataclass(frozen=True)
class Text:
    """A stretch of a text file that begins with a record.

    Attributes:
      data: its bytes.
      separator: between values; None: the text knows no quotes.
    """

    data: bytes
    separator: str | None

    @cached_property
    def line_ends(self) -> np.ndarray:
        """The place behind each line end, int64 [lines]."""
        cells = self._cells
        ends = np.flatnonzero(cells == _LINE_FEED) + 1
        if b"\r" in self.data:
            behind = np.flatnonzero(cells == _CARRIAGE_RETURN) + 1
            alone = np.append(cells, 0)[behind] != _LINE_FEED
            ends = np.sort(np.concatenate([ends, behind[alone]]))
        return ends

    @cached_property
    def record_ends(self) -> np.ndarray:
        """The place behind each whole record, int64 [records]."""
        if not len(self._quotes):
            return self.line_ends
        return self.line_ends[np.searchsorted(self._quotes, self.line_ends) % 2 == 0]

    @property
    def open_quote(self) -> int | None:
        """The place of the quote that nothing closes, or None."""
        return int(self._quotes[-1]) if len(self._quotes) % 2 else None

    @property
    def has_records(self) -> bool:
        """Whether there is anything but line ends."""
        return _NOT_BLANK.search(self.data) is not None

    def last_end(self) -> int:
        """The place behind the last whole record; 0 where there is none."""
        if self.separator is None or b'"' not in self.data:
            return max(self.data.rfind(b"\n"), self.data.rfind(b"\r")) + 1
        return int(self.record_ends[-1]) if len(self.record_ends) else 0

    @cached_property
    def records(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start, end and line (the first is 0) of each whole record that is not blank, int64 [records] each."""
        ends = self.record_ends
        starts = np.append(0, ends[:-1])[:len(ends)]
        first = self._cells[starts]
        kept = (first != _LINE_FEED) & (first != _CARRIAGE_RETURN)
        starts, ends = starts[kept], ends[kept]
        return starts, ends, np.searchsorted(self.line_ends, starts, side="right")

    def unreadable(self) -> dict[int, str]:
        """Why some records cannot be read, by their numbers."""
        reasons = dict.fromkeys(self._stray(), STRAY_QUOTE)
        if not _is_utf8(self.data):
            starts, ends, _ = self.records
            reasons |= {number: NOT_UTF8 for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
                        if not _is_utf8(self.data[start:end])}
        return reasons

    def _stray(self) -> list[int]:
        """The numbers of the records of several lines in which text follows a closing quote."""
        if len(self.record_ends) == len(self.line_ends):
            return []
        starts, ends, _ = self.records
        closing = self._quotes[1::2]
        behind = self._cells[closing + 1]
        is_text = ~np.isin(behind, np.frombuffer(f"{self.separator}\n\r\"".encode(), np.uint8))
        suspects = np.unique(np.searchsorted(starts, closing[is_text], side="right") - 1)
        lines = np.searchsorted(self.line_ends, ends[suspects]) - np.searchsorted(self.line_ends, starts[suspects], side="right")
        return suspects[lines > 0].tolist()

    def without(self, numbers: Iterable[int]) -> "Text":
        """The text without some of its records."""
        numbers = sorted(numbers)
        if not numbers:
            return self
        starts, ends, _ = self.records
        kept, place = [], 0
        for start, end in zip(starts[numbers], ends[numbers], strict=True):
            kept.append(self.data[place:start])
            place = end
        return Text(b"".join([*kept, self.data[place:]]), self.separator)

    @cached_property
    def _cells(self) -> np.ndarray:
        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def _quotes(self) -> np.ndarray:
        """Places of the quotes that open and close values, in turns; a doubled quote may stand for closing and opening."""
        if self.separator is None:
            return np.zeros(0, np.int64)
        quotes = np.flatnonzero(self._cells == _QUOTE)
        before = self._cells[quotes - 1]
        begins = (before == ord(self.separator)) | (before == _LINE_FEED) | (before == _CARRIAGE_RETURN) | (quotes == 0)
        doubled = np.diff(quotes, prepend=-1) == 1
        if (begins | doubled)[::2].all():
            return quotes
        # Some are mere text, and what a quote means hangs on those before it.
        kinds = np.select([begins, doubled], [ord("B"), ord("D")], ord("T")).astype(np.uint8).tobytes()
        return np.concatenate([quotes[match.start():match.end()] for match in _QUOTED_VALUES.finditer(kinds)] or [quotes[:0]])


def count_lines(data: bytes) -> int:
    """How many lines end in `data`."""
    lines = data.count(b"\n")
    return lines + data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else lines


def _is_utf8(data: bytes) -> bool:
    offsets = pa.py_buffer(np.array([0, len(data)], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
