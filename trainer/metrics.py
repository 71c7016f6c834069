"""Exact metrics of click predictions: ranking, likelihood and calibration.

With weights, each counts a row as often as its weight says: what scikit-learn calls `sample_weight`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from preprocessing.errors import UserError

CALIBRATION_BINS = 20


class NotFiniteError(UserError):
    """Click logits that are infinite or not a number, of which no metric is defined."""


@dataclass(frozen=True)
class Predictions:
    """Labels in {0, 1}, click logits and, where the schema names their columns, group keys and weights; each [rows].

    Attributes:
      ids: local ids of `schema.id_fields`, int32 [rows, N], where they were asked for.
    """

    labels: np.ndarray
    logits: np.ndarray
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    ids: np.ndarray | None = None

    @property
    def probabilities(self) -> np.ndarray:
        return expit(self.logits.astype(np.float64))

    def counted(self) -> "Predictions":
        """The rows that count in metrics and plots: those without weight 0.

        Raises:
          UserError: there is none.
        """
        if self.weights is None or self.weights.all():
            return self
        counts = self.weights > 0
        if not counts.any():
            raise UserError(f"all {len(counts):,} rows with a label have weight 0, so no metric is defined: correct the column that "
                            "`weight` in the schema names, or leave `weight` out, and preprocess again")
        columns = (self.labels, self.logits, self.groups, self.weights, self.ids)
        return Predictions(*(None if column is None else column[counts] for column in columns))


@dataclass(frozen=True)
class Calibration:
    """calibrated logit = slope * logit + intercept (Platt scaling: Platt, 1999)."""

    slope: float
    intercept: float

    @property
    def as_metrics(self) -> dict[str, float]:
        return {"platt_slope": self.slope, "platt_intercept": self.intercept}

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, float]) -> "Calibration":
        return cls(metrics["platt_slope"], metrics["platt_intercept"])


def platt_scaling(predictions: Predictions) -> Calibration:
    """The line through the logits that maximises the likelihood of the labels.

    A slope that is not above 0, or labels of one class only, mean that there is nothing to calibrate: the line is then the identity.
    """
    predictions = predictions.counted()
    if len(np.unique(predictions.labels)) < 2:
        return Calibration(1.0, 0.0)
    logits = predictions.logits.astype(np.float64)[:, np.newaxis]
    line = LogisticRegression(C=np.inf, tol=1e-8, solver="newton-cholesky").fit(logits, predictions.labels, predictions.weights)
    slope, intercept = float(line.coef_[0, 0]), float(line.intercept_[0])
    return Calibration(slope, intercept) if slope > 0 else Calibration(1.0, 0.0)


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Exact area under the ROC curve; None where only one class is present."""
    if labels.min() == labels.max():
        return None
    return float(roc_auc_score(labels, scores, sample_weight=weights))


def grouped_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """GAUC: AUC within each group, averaged with the group's rows as weights; groups of one class are left out.

        AUC_g = sum over clicks i and non-clicks j of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2)  /  sum_i w_i sum_j w_j

    With weights w, a group counts as much as its rows' weights together.

    Source: arXiv 1706.06978, equation 7. None where no group has both classes.
    """
    order = np.lexsort((scores, groups))
    labels, scores, groups = labels[order], scores[order], groups[order]
    weights = np.ones(len(labels)) if weights is None else weights[order]
    new_group = np.r_[True, groups[1:] != groups[:-1]]
    new_score = new_group | np.r_[True, scores[1:] != scores[:-1]]
    group, tie = np.cumsum(new_group) - 1, np.cumsum(new_score) - 1
    clicks, others = np.where(labels == 1, weights, 0.0), np.where(labels == 1, 0.0, weights)

    others_in_tie = np.bincount(tie, others)
    others_before_tie = np.cumsum(others_in_tie) - others_in_tie
    others_before_group = others_before_tie[tie[new_group]]
    others_below = (others_before_tie + others_in_tie / 2)[tie] - others_before_group[group]  # ties half

    click_sums, other_sums = np.bincount(group, clicks), np.bincount(group, others)
    pairs = click_sums * other_sums
    mixed = pairs > 0
    if not mixed.any():
        return None
    areas = np.bincount(group, clicks * others_below)[mixed] / pairs[mixed]
    return float(np.average(areas, weights=(click_sums + other_sums)[mixed]))


@dataclass(frozen=True)
class CalibrationBins:
    """Rows sorted by prediction and cut into bins of equally many: mean prediction, click rate, rows and weight of each."""

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray
    weights: np.ndarray


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS,
                     weights: np.ndarray | None = None) -> CalibrationBins:
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    rows = np.array([len(part) for part in parts])
    of_part = [None if weights is None else weights[part] for part in parts]
    return CalibrationBins(
        predicted=np.array([np.average(probabilities[part], weights=weight) for part, weight in zip(parts, of_part, strict=True)]),
        observed=np.array([np.average(labels[part], weights=weight) for part, weight in zip(parts, of_part, strict=True)]),
        rows=rows,
        weights=rows if weights is None else np.array([weight.sum() for weight in of_part]),
    )


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """ECE = sum over bins of rows_b / rows * |mean prediction_b - click rate_b|; with weights, their sums instead of rows."""
    bins = calibration_bins(labels, probabilities, weights=weights)
    return float(np.average(np.abs(bins.predicted - bins.observed), weights=bins.weights))


def normalized_entropy(logloss: float, click_rate: float) -> float | None:
    """NE = logloss / entropy of the click rate; 1 is what the click rate alone achieves (He et al., ADKDD 2014)."""
    if click_rate in (0.0, 1.0):
        return None
    entropy = -(click_rate * np.log(click_rate) + (1 - click_rate) * np.log(1 - click_rate))
    return float(logloss / entropy)


def click_metrics(predictions: Predictions) -> dict[str, float | int | None]:
    """All metrics of a split. Rows of weight 0 count in none.

    Returns:
      rows, positives (both without weights), click_rate, auc, gauc (None without groups), logloss (nats), calibration_bias =
      mean prediction / click rate - 1, ece, normalized_entropy. A metric that the split does not define is None.

    Raises:
      UserError: every weight is 0, or a logit is not finite (`NotFiniteError`).
    """
    predictions = predictions.counted()
    if broken := int((~np.isfinite(predictions.logits)).sum()):
        raise NotFiniteError(f"{broken:,} of {len(predictions.logits):,} click logits are not finite, so no metric is defined: train with a "
                             "lower learning rate, or look for numbers in the log that are out of all proportion")
    labels, probabilities = predictions.labels, predictions.probabilities
    weights = None if predictions.weights is None else predictions.weights.astype(np.float64)
    click_rate = float(np.average(labels, weights=weights))
    logloss = float(log_loss(labels, probabilities, labels=[0, 1], sample_weight=weights))
    grouped = predictions.groups is not None
    return {
        "rows": len(labels),
        "positives": int(labels.sum()),
        "click_rate": click_rate,
        "auc": auc(labels, predictions.logits, weights),
        "gauc": grouped_auc(labels, predictions.logits, predictions.groups, weights) if grouped else None,
        "logloss": logloss,
        "calibration_bias": float(np.average(probabilities, weights=weights) / click_rate - 1) if click_rate else None,
        "ece": expected_calibration_error(labels, probabilities, weights),
        "normalized_entropy": normalized_entropy(logloss, click_rate),
    }

