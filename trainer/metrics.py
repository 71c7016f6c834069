"""Exact metrics of click predictions: ranking, likelihood and calibration."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

CALIBRATION_BINS = 20


@dataclass(frozen=True)
class Predictions:
    """Labels in {0, 1}, click logits and, where the schema names a group column, group keys; each [rows]."""

    labels: np.ndarray
    logits: np.ndarray
    groups: np.ndarray | None = None

    @property
    def probabilities(self) -> np.ndarray:
        return expit(self.logits.astype(np.float64))


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Exact area under the ROC curve; None where only one class is present."""
    if labels.min() == labels.max():
        return None
    return float(roc_auc_score(labels, scores))


def grouped_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float | None:
    """GAUC: AUC within each group, averaged with the group's rows as weights; groups of one class are left out.

        AUC_g = (sum of the positives' ranks - P (P + 1) / 2) / (P N),   ties share their mean rank

    Source: arXiv 1706.06978, equation 7. None where no group has both classes.
    """
    order = np.lexsort((scores, groups))
    labels, scores, groups = labels[order], scores[order], groups[order]
    new_group = np.r_[True, groups[1:] != groups[:-1]]
    new_score = new_group | np.r_[True, scores[1:] != scores[:-1]]

    place = np.arange(1, len(labels) + 1)
    tie = np.cumsum(new_score) - 1
    tie_mean = np.bincount(tie, place) / np.bincount(tie)
    group = np.cumsum(new_group) - 1
    first_place = place[new_group]
    ranks = tie_mean[tie] - first_place[group] + 1

    rows = np.bincount(group)
    positives = np.bincount(group, labels)
    rank_sums = np.bincount(group, ranks * labels)
    pairs = positives * (rows - positives)
    mixed = pairs > 0
    if not mixed.any():
        return None
    areas = (rank_sums - positives * (positives + 1) / 2)[mixed] / pairs[mixed]
    return float(np.average(areas, weights=rows[mixed]))


@dataclass(frozen=True)
class CalibrationBins:
    """Rows sorted by prediction and cut into bins of equal size: mean prediction, click rate and rows of each."""

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> CalibrationBins:
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return CalibrationBins(
        predicted=np.array([probabilities[part].mean() for part in parts]),
        observed=np.array([labels[part].mean() for part in parts]),
        rows=np.array([len(part) for part in parts]),
    )


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """ECE = sum over bins of rows_b / rows * |mean prediction_b - click rate_b|, over bins of equal size."""
    bins = calibration_bins(labels, probabilities)
    return float(np.average(np.abs(bins.predicted - bins.observed), weights=bins.rows))


def normalized_entropy(logloss: float, click_rate: float) -> float | None:
    """NE = logloss / entropy of the click rate; 1 is what the click rate alone achieves (He et al., ADKDD 2014)."""
    if click_rate in (0.0, 1.0):
        return None
    entropy = -(click_rate * np.log(click_rate) + (1 - click_rate) * np.log(1 - click_rate))
    return float(logloss / entropy)


def click_metrics(predictions: Predictions) -> dict[str, float | int | None]:
    """All metrics of a split.

    Returns:
      rows, positives, auc, gauc (None without groups), logloss (nats), calibration_bias = mean prediction / click rate
      - 1, ece, normalized_entropy. A metric that the split does not define is None.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    click_rate = float(labels.mean())
    logloss = float(log_loss(labels, probabilities, labels=[0, 1]))
    grouped = predictions.groups is not None
    return {
        "rows": len(labels),
        "positives": int(labels.sum()),
        "auc": auc(labels, predictions.logits),
        "gauc": grouped_auc(labels, predictions.logits, predictions.groups) if grouped else None,
        "logloss": logloss,
        "calibration_bias": float(probabilities.mean() / click_rate - 1) if click_rate else None,
        "ece": expected_calibration_error(labels, probabilities),
        "normalized_entropy": normalized_entropy(logloss, click_rate),
    }
