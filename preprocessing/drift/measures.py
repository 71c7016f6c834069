"""Distances between two distributions given as counts, and how far chance alone explains them.

Names follow TensorFlow Data Validation. `z` is the difference in standard deviations of its own sampling noise, rows taken
as independent; rows of a log are not quite (a user's resemble one another), so a z of 2 or 3 says little.
"""

import numpy as np


def infinity_norm(before: np.ndarray, now: np.ndarray, total_before: int, total_now: int) -> tuple[float, int]:
    """L-infinity distance: max_i |now_i / total_now - before_i / total_before|.

    Args:
      before, now: counts [values] of the same values, at least one.
      total_before, total_now: all occurrences, those of values that are not among `values` included; at least 1.

    Returns:
      The distance, from 0 to 1, and the place of the value that moved most (the first of equal ones).
    """
    moved = np.abs(now / total_now - before / total_before)
    place = int(moved.argmax())
    return float(moved[place]), place


def jensen_shannon_divergence(before: np.ndarray, now: np.ndarray) -> tuple[float, int]:
    """JSD(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2 with H(p) = -sum_i p_i log2(p_i): 0 equal, 1 nothing in common.

    Over buckets it is an approximation from below of the divergence of the numbers themselves (TensorFlow Data Validation
    approximates likewise). Source: Lin, Divergence measures based on the Shannon entropy, IEEE Trans. IT 37 (1991).

    Args:
      before, now: counts [buckets], not all 0.

    Returns:
      The divergence, and the place of the bucket whose share moved most.
    """
    p, q = before / before.sum(), now / now.sum()
    divergence = max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)
    return divergence, int(np.abs(q - p).argmax())


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def two_proportion_z(hits_before: int, total_before: int, hits_now: int, total_now: int) -> float:
    """z = (p2 - p1) / sqrt(p (1 - p) (1/n1 + 1/n2)) with the pooled share p; 0 where both shares are 0 or both 1.

    Args:
      hits_before, hits_now: of `total_before` and `total_now`, which are at least 1.
    """
    pooled = (hits_before + hits_now) / (total_before + total_now)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / total_before + 1 / total_now))
    return float((hits_now / total_now - hits_before / total_before) / deviation) if deviation > 0 else 0.0


def homogeneity_z(before: np.ndarray, now: np.ndarray) -> float:
    """Pearson's chi-square of the table of both counts against its expectation k under one distribution: (X^2 - k) / sqrt(2 k).

    k is the number of degrees of freedom: buckets with counts, less 1. Only chance: mean 0 and deviation 1.

    Args:
      before, now: counts [buckets], not all 0.
    """
    seen = before + now > 0
    before, now = before[seen], now[seen]
    pooled = (before + now) / (before.sum() + now.sum())
    freedom = len(pooled) - 1
    if not freedom:
        return 0.0
    square = sum((((counts - pooled * counts.sum()) ** 2) / (pooled * counts.sum())).sum() for counts in (before, now))
    return float((square - freedom) / np.sqrt(2 * freedom))
