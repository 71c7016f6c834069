"""What preprocessing learns from the training split: summaries that add up, and what is read off them.

A summary of rows A and B together equals the sum of their summaries exactly (all counts are integers), so vocabularies,
buckets, means and deviations do not depend on how the rows were dealt out to files and workers.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.schema import NamedField, NumericField, Schema, TableField

MAX_CELLS = 1 << 18
TOP_VALUES = 10
_SIGN = np.uint32(1 << 31)


@dataclass
class ValueCounts:
    """Occurrences of each text: a table with columns `value` (large_string, each text once) and `count`; and of null."""

    table: pa.Table
    missing: int

    @classmethod
    def of(cls, column: pa.Array) -> "ValueCounts":
        """Counts strings, dictionary-encoded or not, or the elements of lists of them."""
        if pa.types.is_list(column.type):
            column = column.flatten()
        encoded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
        counts = np.bincount(encoded.indices.drop_null(), minlength=len(encoded.dictionary))
        values = encoded.dictionary.filter(pa.array(counts > 0)).cast(pa.large_string())
        return cls(pa.table({"value": values, "count": counts[counts > 0]}), column.null_count)

    @classmethod
    def merge(cls, parts: list["ValueCounts"]) -> "ValueCounts":
        total = pa.concat_tables([part.table for part in parts]).group_by("value").aggregate([("count", "sum")])
        return cls(pa.table({"value": total["value"], "count": total["count_sum"]}), sum(part.missing for part in parts))

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
        counted = pc.value_counts(pa.array(ordered))  # by hashing; only the different numbers need sorting
        cells, counts = (counted.field(name).to_numpy() for name in ("values", "counts"))
        order = np.argsort(cells)
        extremes = (np.isnan(numbers), np.isneginf(numbers), np.isposinf(numbers))
        return cls(cells[order], counts[order], 0, *(int(mask.sum()) for mask in extremes))._fitted()

    @classmethod
    def merge(cls, parts: Iterable["NumberCounts"]) -> "NumberCounts":
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
    """Collects summaries of batches and merges them whenever the unmerged ones outgrow the merged one.

    Attributes:
      parts: summaries that add up to everything added so far.
    """

    def __init__(self) -> None:
        self.parts: list[FieldCounts] = []
        self._limit = 1 << 17

    def add(self, part: FieldCounts) -> None:
        self.parts.append(part)
        if self.size > self._limit:
            self._limit = max(self._limit, 2 * self.total().size)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def total(self) -> FieldCounts:
        """Everything added so far. At least one part must have been added."""
        if len(self.parts) > 1:
            self.parts = [type(self.parts[0]).merge(self.parts)]
        return self.parts[0]


def count_features(features: Mapping[str, pa.Array | np.ndarray], schema: Schema,
                   owners: Collection[str] | None = None) -> dict[str, FieldCounts]:
    """Counts the features of rows for those that have rows of their own in the shared table.

    Args:
      features: of `preprocessing.rows.Rows`.
      owners: names of the fields to count for; None: all of `schema.owners`.

    Returns:
      By owner, the counts of all fields that share its rows. Hashed fields need none.
    """
    parts: dict[str, list[FieldCounts]] = {}
    for field in schema.fields:
        owner = schema.owner(field) if isinstance(field, TableField) else None
        if owner is None or (owners is not None and owner.name not in owners) or getattr(owner, "hash_buckets", None):
            continue
        counts = NumberCounts if isinstance(field, NumericField) else ValueCounts
        parts.setdefault(owner.name, []).append(counts.of(features[field.name]))
    return {name: type(some[0]).merge(some) if len(some) > 1 else some[0] for name, some in parts.items()}


@dataclass
class Vocabulary:
    """The rows of a vocabulary.

    Attributes:
      values: the texts, large_string, most frequent first, ties by value; those kept from before come first of all.
      frequencies: int64 [2 + values]: occurrences of the missing row, the unknown row and each value.
      distinct: number of different texts seen.
    """

    values: pa.Array
    frequencies: np.ndarray
    distinct: int

    @classmethod
    def build(cls, counts: Iterable[ValueCounts], field: NamedField, kept: pa.Array | None = None) -> "Vocabulary":
        """Chooses values by `min_count` and `max_size`, and puts them behind those `kept` from an earlier vocabulary.

        A text with a line end in it cannot stand in a vocabulary file, so it trains the unknown row.

        Args:
          counts: one part after another, each text in one part only; a part is needed only until the next.
        """
        kept = pa.array([], pa.large_string()) if kept is None else kept.cast(pa.large_string())
        new, counts_of_kept, missing, distinct, seen = [], np.zeros(len(kept), np.int64), 0, 0, 0
        for part in counts:
            values = part.table["value"].combine_chunks()
            missing, distinct, seen = missing + part.missing, distinct + len(values), seen + (pc.sum(part.table["count"]).as_py() or 0)
            eligible = pc.and_(pc.greater_equal(part.table["count"], field.min_count),
                               pc.invert(pc.match_substring_regex(values, r"[\r\n]")))
            new.append(part.table.filter(pc.and_(eligible, pc.invert(pc.is_in(values, value_set=kept)))))
            counts_of_kept += pc.fill_null(part.table["count"].take(pc.index_in(kept, value_set=values)), 0).to_numpy()
        chosen = pa.concat_tables(new).sort_by([("count", "descending"), ("value", "ascending")])
        if field.max_size is not None:
            chosen = chosen.slice(0, max(0, field.max_size - len(kept)))
        frequencies = np.concatenate([counts_of_kept, chosen["count"].to_numpy()])
        return cls(pa.concat_arrays([kept, *chosen["value"].chunks]),
                   np.array([missing, seen - int(frequencies.sum()), *frequencies], np.int64), distinct)

    def report(self) -> dict:
        total = int(self.frequencies.sum())
        order = np.argsort(-self.frequencies[2:], kind="stable")[:TOP_VALUES]
        top = [{"value": self.values[place].as_py(), "count": int(self.frequencies[2 + place])} for place in order]
        return {"kind": "categorical", "distinct": self.distinct, **_shares(self.frequencies, total), "top_values": top}


def hashing_report(frequencies: np.ndarray) -> dict:
    """What can be said of a hashed field, whose different values n nobody counts, from how many of its N buckets occur.

    By linear counting n = -N ln(1 - occupied / N). Hashed evenly, a value has its bucket for itself with probability
    (1 - 1/N)^(n - 1); the collision rate is the share of the different values that have not. Where all buckets occur both
    are lower bounds: half a bucket is taken as free.

    Args:
      frequencies: int64 [2 + N]: occurrences of the missing row, the unknown row and each bucket.

    Source: Whang, Vander-Zanden, Taylor, "A linear-time probabilistic counting algorithm", TODS 1990.
    """
    buckets = len(frequencies) - 2
    occupied = int((frequencies[2:] > 0).sum())
    distinct = -buckets * np.log1p(-min(occupied, buckets - 0.5) / buckets)
    alone = np.exp(np.log1p(-1 / buckets) * max(distinct - 1, 0)) if buckets > 1 else float(distinct <= 1)
    return {"hash_buckets": buckets, "occupied_buckets": occupied, "distinct": round(float(distinct)), "collision_rate": float(1 - alone)}


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
        lowest, highest = (float(edges[0]), float(edges[-1])) if len(edges) else (None, None)
        if not len(edges):
            boundaries = np.zeros(0, np.float32)
        elif field.bucketing == "log_square":
            boundaries = _log_square_boundaries(lowest, highest)
        else:
            boundaries = edges[_bucket_starts(counts.counts, field.buckets)]
        bucket = np.searchsorted(boundaries, edges, side="right")
        per_bucket = np.bincount(bucket, weights=counts.counts, minlength=len(boundaries) + 1).astype(np.int64)
        per_bucket[0] += counts.low
        per_bucket[-1] += counts.high
        mean, deviation = _moments(edges.astype(np.float64), counts.counts)
        frequencies = np.array([counts.missing, 0, *per_bucket], np.int64)
        return cls(boundaries, mean, deviation, frequencies, lowest, highest)

    def report(self) -> dict:
        total = int(self.frequencies.sum())
        return {
            "kind": "numeric", **_shares(self.frequencies, total), "min": self.lowest, "max": self.highest,
            "mean": self.mean, "standard_deviation": self.deviation, "buckets": len(self.boundaries) + 1,
        }


def _log_square_boundaries(lowest: float, highest: float) -> np.ndarray:
    """Where floor(ln(x)^2) steps, x = exp(sqrt(k)) for k = 1, 2, .., and mirrored below; between them -1, 0, 1, 2.

    A bucket holds its lower boundary, so each whole number from -2 to 2 has a bucket of its own.
    Source: the features of the winners of the Criteo challenge on Kaggle, 2014 ("3 idiots").
    """
    far = max(abs(lowest), abs(highest), 1.0)
    steps = np.exp(np.sqrt(np.arange(1, np.floor(np.log(far) ** 2) + 1)))
    boundaries = np.concatenate([-steps[::-1], [-1, 0, 1, 2], steps]).astype(np.float32)
    return boundaries[(boundaries > lowest) & (boundaries <= highest)]


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
        "missing_share": int(frequencies[0]) / max(total, 1),
        "unknown_share": int(frequencies[1]) / max(total, 1),
        "top_share": int(known.max(initial=0)) / max(total, 1),
    }
