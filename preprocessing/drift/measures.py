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
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return float(np.clip(divergence, 0, 1)), int(np.abs(q - p).argmax())  # despite rounding


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def two_proportion_z(hits_before: int, total_before: int, hits_now: int, total_now: int) -> float:
    """z = 2 (arcsin sqrt(p2) - arcsin sqrt(p1)) / sqrt(1/(n1 + 1/2) + 1/(n2 + 1/2)) with p = (hits + 3/8) / (n + 3/4).

    The arcsine makes the deviation the same for all shares, so that z holds for rare values and few rows too, where the
    usual z with the pooled share takes a handful of rows for proof.
    Source: Anscombe, The transformation of Poisson, binomial and negative-binomial data, Biometrika 35 (1948).

    Args:
      hits_before, hits_now: of `total_before` and `total_now` rows or values.
    """
    hits, totals = np.array([hits_before, hits_now]), np.array([total_before, total_now])
    before, now = np.arcsin(np.sqrt((hits + 0.375) / (totals + 0.75)))
    return float(2 * (now - before) / np.sqrt((1 / (totals + 0.5)).sum()))


def homogeneity_z(before: np.ndarray, now: np.ndarray) -> float:
    """How unlikely it is that both counts stem from one distribution, as deviations of a normal one.

    G = 2 ln(2) ((n1 + n2) H(pooled) - n1 H(p) - n2 H(q)), a divergence as above weighted by rows, is distributed as
    chi-square with k = (buckets with counts) - 1 degrees of freedom if chance alone is at work, and
    z = ((G / k)^(1/3) - (1 - 2/(9k))) / sqrt(2/(9k)).
    Source: Wilson and Hilferty, The distribution of chi-square, PNAS 17 (1931).

    Args:
      before, now: counts [buckets], not all 0.
    """
    pooled = before + now
    freedom = int((pooled > 0).sum()) - 1
    if not freedom:
        return 0.0
    entropies = [counts.sum() * _entropy(counts / counts.sum()) for counts in (pooled, before, now)]
    statistic = max(0.0, 2 * np.log(2) * (entropies[0] - entropies[1] - entropies[2]))
    spread = 2 / (9 * freedom)
    return float((np.cbrt(statistic / freedom) - (1 - spread)) / np.sqrt(spread))
