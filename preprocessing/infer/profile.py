"""What a sample shows of one column: its texts and how often each occurs, its numbers, its lists."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import values as meaning
from preprocessing.values import RowReasons

MISSING = -1
LISTED = "\x1f"  # joins the values of a cell that the file itself holds as a list


@dataclass(frozen=True)
class Profile:
    """The texts of a column, each once, and which row has which.

    Attributes:
      values: the different texts, most frequent first, ties by text; neither missing nor empty.
      counts: int64 [values], rows that have each.
      codes: int32 [rows], the place of each row's text in `values`, or -1 where it is missing.
      listed: cells are lists in the file; their values are joined by `LISTED` in `values`.
    """

    name: str
    values: pa.StringArray
    counts: np.ndarray
    codes: np.ndarray
    listed: bool = False

    @classmethod
    def of(cls, name: str, column: pa.Array) -> "Profile":
        """Profiles a column before any text but the empty one is known to mean "no value".

        Raises:
          UserError: preprocessing cannot read the column's type.
        """
        listed = _holds_several(column)
        if listed:
            column = _joined(column, name)
        texts = meaning.texts(column, (), f"column {name!r}", RowReasons(len(column)))
        codes = pc.fill_null(texts.indices, MISSING).to_numpy(zero_copy_only=False)
        counts = np.bincount(codes[codes >= 0], minlength=len(texts.dictionary))
        return cls(name, texts.dictionary, counts, codes.astype(np.int32), listed)._ordered()

    def _ordered(self) -> "Profile":
        table = pa.table({"value": self.values, "count": self.counts})
        order = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")]).to_numpy()
        return self._rearranged(order)

    def _rearranged(self, kept: np.ndarray) -> "Profile":
        """The profile with the values at these places only, in this order; the rows of others become missing."""
        place = np.full(len(self.values) + 1, MISSING, np.int32)  # the last entry serves code -1
        place[kept] = np.arange(len(kept))
        return replace(self, values=self.values.take(pa.array(kept)), counts=self.counts[kept], codes=place[self.codes])

    def without(self, missing: tuple[str, ...]) -> "Profile":
        """The profile with these texts counted as missing; in a column of numbers NaN is missing too."""
        gone = self.is_in(missing)
        if self.is_numeric_but(gone):
            gone |= np.isnan(self.numbers)
        return self._rearranged(np.flatnonzero(~gone)) if gone.any() else self

    def is_in(self, texts: tuple[str, ...]) -> np.ndarray:
        """Which of `values` are among `texts`: bool [values]."""
        return pc.is_in(self.values, value_set=pa.array(texts, pa.string())).to_numpy(zero_copy_only=False)

    def is_numeric_but(self, excepted: np.ndarray) -> bool:
        """Whether all values but the excepted ones are numbers, and there is one."""
        return bool((self.is_number | excepted).all() and (self.is_number & ~excepted).any())

    # ---- Shares ----

    @property
    def rows(self) -> int:
        return len(self.codes)

    @property
    def present(self) -> int:
        return int(self.counts.sum())

    @property
    def distinct(self) -> int:
        return len(self.values)

    @property
    def missing_share(self) -> float:
        return 1 - self.present / self.rows

    @property
    def top_share(self) -> float:
        return int(self.counts[0]) / self.rows if self.distinct else 0.0

    def rare_share(self, min_count: int) -> float:
        """The share of present cells whose text occurs fewer than `min_count` times."""
        return float(self.counts[self.counts < min_count].sum() / max(self.present, 1))

    @property
    def is_constant(self) -> bool:
        return self.distinct == 0 or (self.distinct == 1 and self.present == self.rows)

    def looks_unique(self, share: float) -> bool:
        """Whether at least this share of the present cells differ, and most cells are present."""
        return self.present > self.rows / 2 and self.distinct >= max(share * self.present, 2)

    # ---- Numbers ----

    @cached_property
    def _parsed(self) -> tuple[np.ndarray, np.ndarray]:
        reasons = RowReasons(self.distinct)
        numbers = meaning.numbers(self.values, (), self.name, reasons)
        return numbers, reasons.good

    @property
    def numbers(self) -> np.ndarray:
        """float64 [values], NaN where the text is not a number."""
        return self._parsed[0]

    @property
    def is_number(self) -> np.ndarray:
        """Which of `values` are numbers, NaN included: bool [values]."""
        return self._parsed[1]

    @property
    def numeric_share(self) -> float:
        """The share of present cells that are numbers."""
        return float(self.counts[self.is_number].sum() / max(self.present, 1))

    @cached_property
    def finite(self) -> np.ndarray:
        """The finite ones of the different numbers."""
        return self.numbers[np.isfinite(self.numbers)]

    @property
    def is_integral(self) -> bool:
        """Whether all finite numbers are whole."""
        return bool(len(self.finite) and (self.finite == np.rint(self.finite)).all())

    @property
    def row_numbers(self) -> np.ndarray:
        """float64 [rows], NaN where missing."""
        return np.append(self.numbers, np.nan)[self.codes]

    @property
    def median(self) -> float:
        return float(np.nanmedian(self.row_numbers))

    # ---- Times and texts ----

    def times(self, unit: str) -> tuple[np.ndarray, np.ndarray]:
        """int64 [values], microseconds since 1970, and which of `values` are times of this unit, bool [values]."""
        reasons = RowReasons(self.distinct)
        times = meaning.times(self.values, unit, (), self.name, reasons)
        return times, reasons.good

    def share_matching(self, pattern: str) -> float:
        """The share of present cells whose text matches a regular expression."""
        matches = pc.match_substring_regex(self.values, pattern).to_numpy(zero_copy_only=False)
        return float(self.counts[matches].sum() / max(self.present, 1))


def _holds_several(column: pa.Array) -> bool:
    kind = column.type
    several = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return several and (pc.max(pc.list_value_length(column)).as_py() or 0) > 1


def _joined(column: pa.Array, name: str) -> pa.Array:
    lists = meaning.lists(column, LISTED, (), f"column {name!r}", RowReasons(len(column)))
    return pc.binary_join(pc.cast(lists, pa.list_(pa.string())), LISTED)


@dataclass(frozen=True)
class Parts:
    """The cells of a column cut at a separator, one entry a different cell.

    Attributes:
      flat: all parts, cell by cell.
      lengths: int64 [values], parts of each cell.
      cells: int64 [values], rows that have each cell.
    """

    flat: pa.StringArray
    lengths: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, profile: Profile, separator: str) -> "Parts":
        lists = pc.split_pattern(profile.values, separator)
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(pc.list_flatten(lists), lengths, profile.counts)

    @property
    def split_share(self) -> float:
        """The share of cells with more than one part."""
        return float(self.cells[self.lengths > 1].sum() / max(self.cells.sum(), 1))

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))

    @property
    def is_even(self) -> bool:
        """Whether all cells have the same number of parts."""
        return len(self.lengths) > 0 and bool((self.lengths == self.lengths[0]).all())

    @cached_property
    def distinct(self) -> pa.StringArray:
        return self.flat.unique()

    @cached_property
    def profile(self) -> Profile:
        """Of the parts, counted over all rows."""
        distinct = Profile.of("parts", self.flat)
        weights = np.repeat(self.cells, self.lengths)
        known = distinct.codes >= 0
        counts = np.bincount(distinct.codes[known], weights=weights[known], minlength=distinct.distinct).astype(np.int64)
        return replace(distinct, counts=counts)

    @property
    def are_fractions(self) -> bool:
        """Whether the parts are numbers, and some have digits behind a point."""
        return self.profile.numeric_share == 1 and bool(pc.any(pc.match_substring(self.flat, ".")).as_py())

    @cached_property
    def repeats_within_cells(self) -> bool:
        """Whether a cell holds the same part twice, which a set would not."""
        cell = np.repeat(np.arange(len(self.lengths)), self.lengths)
        part = self.flat.dictionary_encode().indices.to_numpy()
        return len(np.unique(cell * (len(part) + 1) + part)) < len(part)

    def share_matching(self, pattern: str) -> float:
        return self.profile.share_matching(pattern)

    def share_in(self, values: pa.StringArray) -> float:
        """The share of parts (with cells' counts) that are among `values`."""
        known = pc.is_in(self.flat, value_set=values).to_numpy(zero_copy_only=False)
        weights = np.repeat(self.cells, self.lengths)
        return float(weights[known].sum() / max(weights.sum(), 1))

