"""How much of the label a single column decides, measured on a sample."""

import numpy as np

from preprocessing.infer.profile import Profile

_BINS = 50
_RARE = 5  # texts seen fewer times share a cell, so that being rare alone tells nothing
_ENOUGH = 10  # labels of each kind that a measure needs


def decided_share(profile: Profile, label: np.ndarray) -> float:
    """The share of the label's entropy that a column explains, I(X; Y) / H(Y), less what chance explains.

    X is the text, or the bin of a number with many values; being missing is a value too. The plug-in estimate of I is too
    high by about (cells - 1) / 2N (Miller 1955), which is taken off.

    Args:
      label: int64 [rows], 1, 0 or -1 (unlabelled, not counted).

    Returns:
      A number from 0 to 1; 0 where the sample has fewer than ten clicks or ten other rows.
    """
    counts = _contingency(_cells(profile), label)  # [cells, 2]
    if counts.sum(axis=0).min() < _ENOUGH:
        return 0.0
    entropy = _entropy(counts.sum(axis=0))
    information = entropy + _entropy(counts.sum(axis=1)) - _entropy(counts.ravel())
    chance = (np.count_nonzero(counts.sum(axis=1)) - 1) / (2 * counts.sum())
    return float(np.clip((information - chance) / entropy, 0, 1))


def auc(profile: Profile, label: np.ndarray) -> float:
    """The area under the ROC curve of a column of numbers as a score, ties counted half; 0.5 where the sample is too small."""
    order = np.argsort(profile.numbers, kind="stable")
    place = np.empty(len(order) + 1, np.int64)
    place[order] = np.arange(len(order))
    place[-1] = -1
    ranked = place[profile.codes]
    label = np.where(ranked >= 0, label, -1)
    counts = _contingency(ranked, label)  # [distinct numbers, 2], ascending
    negatives, positives = counts.T
    if min(negatives.sum(), positives.sum()) < _ENOUGH:
        return 0.5
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))


def _cells(profile: Profile) -> np.ndarray:
    """int64 [rows]: 0 missing, 1 a rare text, 2.. the others or the bins of numbers."""
    if profile.distinct > _BINS and profile.is_numeric_but(np.zeros(profile.distinct, bool)):
        edges = np.unique(np.nanquantile(profile.row_numbers, np.arange(1, _BINS) / _BINS))
        cells = np.searchsorted(edges, profile.numbers, side="right") + 2
    else:
        cells = np.where(profile.counts < _RARE, 1, np.arange(profile.distinct) + 2)
    return np.append(cells, 0)[profile.codes]


def _contingency(cells: np.ndarray, label: np.ndarray) -> np.ndarray:
    """int64 [cells, 2]: rows with label 0 and 1 in each cell."""
    labelled = label >= 0
    size = int(cells.max(initial=0)) + 1
    return np.bincount(2 * cells[labelled] + label[labelled], minlength=2 * size).reshape(size, 2)


def _entropy(counts: np.ndarray) -> float:
    """In nats, of the distribution that the counts show."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
