"""What samples of calls come to: percentiles, rates, the window of a swap, growth of memory, the line through two sizes."""

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.serving.programs import Sample
from preprocessing.errors import UserError


def percentile(milliseconds: Sequence[float], share: float) -> float:
    """The smallest measured value that at least `share` of all do not exceed."""
    return sorted(milliseconds)[max(0, math.ceil(share * len(milliseconds)) - 1)]


def summary(sample: Sample, rows: int) -> dict:
    """Calls of `rows` rows: {"calls", "p50", "p99" (milliseconds), "rows_per_second", "failures"}.

    Raises:
      UserError: no call was answered.
    """
    calls = len(sample.milliseconds)
    if not calls:
        raise UserError(f"no call was answered within {sample.seconds:g} s (statuses: {dict(sample.statuses) or 'none'}): see what the "
                        "server printed, or measure longer (--seconds)")
    return {
        "calls": calls, "p50": percentile(sample.milliseconds, 0.5), "p99": percentile(sample.milliseconds, 0.99),
        "rows_per_second": calls * rows / sample.seconds, "failures": sample.failures,
    }  # fmt: skip


def before_and_during(sample: Sample, published: float, done: float) -> tuple[list[float], list[float]]:
    """Milliseconds of the calls that had ended when a version was published, and of those under way from then until `done`."""
    before, during = [], []
    for begin, milliseconds in zip(sample.begins, sample.milliseconds, strict=True):
        if begin + milliseconds / 1000 <= published:
            before.append(milliseconds)
        elif begin < done:
            during.append(milliseconds)
    return before, during


def growth(memory: Sequence[float]) -> float:
    """How many times the median of the last fifth is that of the second fifth; the first fifth is still filling caches."""
    fifth = max(1, len(memory) // 5)
    return float(np.median(memory[-fifth:]) / np.median(memory[min(fifth, len(memory) - 1):][:fifth]))


def line(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Fixed seconds, and rows a second beyond them, by the line through the smallest and the largest size."""
    (few, short), *_, (many, long) = sorted(zip(sizes, seconds, strict=True))
    rate = (many - few) / (long - short) if long > short else math.inf
    return short - few / rate, rate
