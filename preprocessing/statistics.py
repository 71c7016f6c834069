"""What preprocessing learns from the training split: summaries that add up, and what is read off them.

A summary of rows A and B together equals the sum of their summaries exactly (all counts are integers), so vocabularies,
buckets, means and deviations do not depend on how the rows were dealt out to files and workers.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.schema import CategoricalField, NumericField

MAX_CELLS = 1 << 18
TOP_VALUES = 10
_SIGN = np.uint32(1 << 31)


@dataclass
class ValueCounts:
    """Occurrences of each text of a categorical field: a table with columns `value` and `count`."""

    table: pa.Table

    @classmethod
    def of(cls, column: pa.Array) -> "ValueCounts":
        counts = pc.value_counts(column)
        return cls(pa.table({"value": counts.field("values"), "count": counts.field("counts")}))

    @classmethod
    def merge(cls, parts: list["ValueCounts"]) -> "ValueCounts":
        total = pa.concat_tables([part.table for part in parts]).group_by("value").aggregate([("count", "sum")])
        return cls(pa.table({"value": total["value"], "count": total["count_sum"]}))

    @property
    def size(self) -> int:
        return len(self.table)


@dataclass
class NumberCounts:
    """A histogram of float32 numbers whose cells are as fine as `MAX_CELLS` allows.

    Cell = (order-preserving integer of the float) >> shift. At shift 0, which holds up to `MAX_CELLS` different
    numbers, it is exact; every step of shift halves the relative resolution, from 2^-23. The shift is the least one at
    which the cells fit, and no part of the rows can need a larger one than the whole: so the order of merging does not
    matter.

    Attributes:
      cells: uint32, ascending; counts: int64, of the same length.
      missing, low, high: how many numbers were NaN, -inf and inf.
    """

    cells: np.ndarray
    counts: np.ndarray
    shift: int
    missing: int
    low: int
    high: int

    @classmethod
    def of(cls, numbers: np.ndarray) -> "NumberCounts":
        finite = numbers[np.isfinite(numbers)] + np.float32(0)  # -0.0 becomes 0.0
        bits = finite.view(np.uint32)
        ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
        cells, counts = np.unique(ordered, return_counts=True)
        extremes = (np.isnan(numbers), np.isneginf(numbers), np.isposinf(numbers))
        return cls(cells, counts.astype(np.int64), 0, *(int(mask.sum()) for mask in extremes))._fitted()

    @classmethod
    def merge(cls, parts: list["NumberCounts"]) -> "NumberCounts":
        return reduce(cls._add, parts)

    def _add(self, other: "NumberCounts") -> "NumberCounts":
        shift = max(self.shift, other.shift)
        cells = np.concatenate([part.cells >> np.uint32(shift - part.shift) for part in (self, other)])
        counts = np.concatenate([self.counts, other.counts])
        extremes = (self.missing + other.missing, self.low + other.low, self.high + other.high)
        return NumberCounts(*_summed(cells, counts), shift, *extremes)._fitted()

    def _fitted(self) -> "NumberCounts":
        cells, counts, shift = self.cells, self.counts, self.shift
        while len(cells) > MAX_CELLS:
            cells, counts = _summed(cells >> np.uint32(1), counts)
            shift += 1
        return NumberCounts(cells, counts, shift, self.missing, self.low, self.high)

    @property
    def size(self) -> int:
        return len(self.cells)

    def edges(self) -> np.ndarray:
        """The smallest number of each cell, float32 [cells]."""
        ordered = self.cells << np.uint32(self.shift)
        return np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).astype(np.uint32).view(np.float32)


def _summed(cells: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distinct, place = np.unique(cells, return_inverse=True)
    return distinct, np.bincount(place, weights=counts, minlength=len(distinct)).astype(np.int64)


FieldCounts = ValueCounts | NumberCounts


class Accumulator:
    """Collects summaries of batches and merges them whenever the unmerged ones outgrow the merged one."""

    def __init__(self) -> None:
        self._parts: list[FieldCounts] = []
        self._limit = 1 << 16

    def add(self, part: FieldCounts) -> None:
        self._parts.append(part)
        if sum(part.size for part in self._parts) > self._limit:
            self._limit = max(self._limit, 2 * self.total().size)

    def total(self) -> FieldCounts:
        """Everything added so far. At least one part must have been added."""
        if len(self._parts) > 1:
            self._parts = [type(self._parts[0]).merge(self._parts)]
        return self._parts[0]


@dataclass
class Vocabulary:
    """The rows of a categorical field.

    Attributes:
      values: the kept texts, most frequent first, ties by value.
      frequencies: int64 [2 + values]: occurrences of the missing row, the unknown row and each value.
      distinct: number of different texts seen, missing ones excluded.
    """

    values: pa.Array
    frequencies: np.ndarray
    distinct: int

    @classmethod
    def build(cls, counts: ValueCounts, field: CategoricalField, missing: tuple[str, ...]) -> "Vocabulary":
        """Keeps values by `min_count` and `max_size`.

        A text with a line end in it cannot stand in a vocabulary file, so it trains the unknown row.
        """
        table = counts.table
        is_missing = pc.is_in(table["value"], value_set=pa.array(["", *missing]))
        absent = int(pc.sum(table.filter(is_missing)["count"]).as_py() or 0)
        seen = table.filter(pc.invert(is_missing))
        eligible = pc.and_(pc.greater_equal(seen["count"], field.min_count),
                           pc.invert(pc.match_substring_regex(seen["value"], r"[\r\n]")))
        kept = seen.filter(eligible).sort_by([("count", "descending"), ("value", "ascending")])
        kept = kept.slice(0, field.max_size)
        kept_counts = kept["count"].to_numpy()
        unknown = int(pc.sum(seen["count"]).as_py() or 0) - int(kept_counts.sum())
        return cls(kept["value"].combine_chunks(), np.array([absent, unknown, *kept_counts], np.int64), len(seen))

    def report(self) -> dict:
        total = int(self.frequencies.sum())
        top = [{"value": value, "count": int(count)}
               for value, count in zip(self.values[:TOP_VALUES].to_pylist(), self.frequencies[2:], strict=False)]
        return {"kind": "categorical", "distinct": self.distinct, **_shares(self.frequencies, total), "top_values": top}


@dataclass
class Buckets:
    """The rows of a numeric field.

    Attributes:
      boundaries: float32 [buckets - 1], ascending; bucket i holds boundaries[i-1] <= x < boundaries[i].
      mean, deviation: of the finite numbers; deviation is the population's, 1 where all are equal.
      frequencies: int64 [2 + buckets]: occurrences of the missing row, the unknown row (0) and each bucket.
      lowest, highest: finite numbers seen, to the resolution of the histogram.
    """

    boundaries: np.ndarray
    mean: float
    deviation: float
    frequencies: np.ndarray
    lowest: float | None
    highest: float | None

    @classmethod
    def build(cls, counts: NumberCounts, field: NumericField) -> "Buckets":
        edges = counts.edges()
        firsts = _bucket_starts(counts.counts, field.buckets)
        per_bucket = np.add.reduceat(counts.counts, [0, *firsts]) if len(edges) else np.zeros(1, np.int64)
        per_bucket[0] += counts.low
        per_bucket[-1] += counts.high
        mean, deviation = _moments(edges.astype(np.float64), counts.counts)
        lowest, highest = (float(edges[0]), float(edges[-1])) if len(edges) else (None, None)
        frequencies = np.array([counts.missing, 0, *per_bucket], np.int64)
        return cls(edges[firsts], mean, deviation, frequencies, lowest, highest)

    def report(self) -> dict:
        total = int(self.frequencies.sum())
        return {
            "kind": "numeric", **_shares(self.frequencies, total), "min": self.lowest, "max": self.highest,
            "mean": self.mean, "standard_deviation": self.deviation, "buckets": len(self.boundaries) + 1,
        }


def _bucket_starts(counts: np.ndarray, buckets: int) -> np.ndarray:
    """Cells at which a new bucket starts: those that hold the ranks i * N / buckets, the lowest cell excluded."""
    if not len(counts):
        return np.zeros(0, np.int64)
    ranks = np.arange(1, buckets) * counts.sum() / buckets
    starts = np.unique(np.searchsorted(np.cumsum(counts), ranks, side="right"))
    return starts[(starts > 0) & (starts < len(counts))]


def _moments(numbers: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    if not len(numbers):
        return 0.0, 1.0
    mean = float(np.average(numbers, weights=counts))
    deviation = float(np.sqrt(np.average((numbers - mean) ** 2, weights=counts)))
    return mean, deviation or 1.0


def _shares(frequencies: np.ndarray, total: int) -> dict:
    known = frequencies[2:]
    return {
        "rows": total,
        "table_rows": len(frequencies),
        "missing_share": frequencies[0] / total,
        "unknown_share": frequencies[1] / total,
        "top_share": int(known.max(initial=0)) / total,
    }
