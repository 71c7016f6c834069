"""Rows of runs to means, spreads and paired tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

Runs = Mapping[int, dict]  # rows of one arm by seed
Measure = Callable[[dict], float | None]  # of a row


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; none of a single one."""

    mean: float
    deviation: float | None

    def text(self, digits: int) -> str:
        return f"{self.mean:.{digits}f}" + ("" if self.deviation is None else f" +- {self.deviation:.{digits}f}")


def spread(runs: Runs, measure: Measure) -> Spread | None:
    """Of a measure over an arm's runs; None where a run does not have it, or there are none."""
    values = [measure(row) for row in runs.values()]
    if not values or any(value is None for value in values):
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


@dataclass(frozen=True)
class Difference:
    """Of an arm from its control over the seeds that both have, and the p of a two-sided paired t-test; None where undefined."""

    mean: float
    p: float | None
    seeds: int

    def text(self, digits: int) -> str:
        return f"{self.mean:+.{digits}f}" + ("" if self.p is None else f" ({probability(self.p)})")


def probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def paired_difference(runs: Runs, control: Runs, measure: Measure) -> Difference | None:
    """None where the two have no seed in common with this measure."""
    both = [(measure(runs[seed]), measure(control[seed])) for seed in sorted(runs.keys() & control.keys())]
    pairs = np.array([pair for pair in both if None not in pair], float)
    if not len(pairs):
        return None
    differences = pairs[:, 0] - pairs[:, 1]
    # Equal differences have no spread to test against; rounding would give them one.
    testable = len(pairs) > 1 and np.ptp(differences) > 1e-12
    p = float(ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue) if testable else None
    return Difference(float(differences.mean()), p, len(pairs))


def at(*keys: str) -> Measure:
    """The measure under these keys of a row; None where a key is absent."""
    def measure(row: dict) -> float | None:
        value = row
        for key in keys:
            value = value.get(key) if value else None
        return value

    return measure


def slice_measure(split: str, field: str, occurrences: str, metric: str) -> Measure:
    """The measure of one slice of a row."""
    def measure(row: dict) -> float | None:
        records = row[split]["slices"].get(field, ())
        return next((record[metric] for record in records if record["occurrences"] == occurrences), None)

    return measure
