"""Metrics against values computed by hand."""

import numpy as np
import pytest
from scipy.special import expit

from preprocessing.errors import UserError
from trainer import plots
from trainer.metrics import (
    Predictions,
    auc,
    calibration_bins,
    click_metrics,
    expected_calibration_error,
    grouped_auc,
    normalized_entropy,
)


def test_auc_counts_correctly_ordered_pairs():
    # Pairs (click, no click): (3, 1) and (3, 2) right, (1.5, 1) right, (1.5, 2) wrong.
    assert auc(np.array([1, 0, 1, 0]), np.array([3.0, 1.0, 1.5, 2.0])) == pytest.approx(3 / 4)


def test_auc_of_one_class_is_undefined():
    assert auc(np.array([1, 1]), np.array([0.1, 0.2])) is None


def test_grouped_auc_weighs_groups_by_rows_and_skips_groups_of_one_class():
    groups = np.array([7, 7, 9, 9, 9, 4, 4])
    labels = np.array([1, 0, 1, 0, 0, 1, 1])
    scores = np.array([0.2, 0.9, 0.5, 0.5, 0.1, 0.3, 0.4])
    # Group 7: 0 of 1 pair. Group 9: a tie and a right pair, 1.5 of 2. Group 4: only clicks.
    assert grouped_auc(labels, scores, groups) == pytest.approx((2 * 0.0 + 3 * 0.75) / 5)


def test_grouped_auc_of_one_group_is_the_auc():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 500), rng.integers(0, 50, 500).astype(float)
    assert grouped_auc(labels, scores, np.zeros(500, int)) == pytest.approx(auc(labels, scores))


def test_grouped_auc_without_a_mixed_group_is_undefined():
    assert grouped_auc(np.array([1, 0]), np.array([0.5, 0.5]), np.array([1, 2])) is None


def test_a_weight_counts_a_row_as_often_as_it_says():
    rng = np.random.default_rng(3)
    labels, scores, groups = rng.integers(0, 2, 60).astype(float), rng.normal(size=60).round(1), rng.integers(0, 6, 60)
    weights = rng.integers(0, 4, 60)
    again = np.repeat(np.arange(60), weights)
    weighted = click_metrics(Predictions(labels, scores, groups, weights.astype(np.float32)))
    repeated = click_metrics(Predictions(labels[again], scores[again], groups[again]))
    for name in ("click_rate", "auc", "gauc", "logloss", "calibration_bias", "normalized_entropy"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-6), name
    counted = weights > 0
    assert (weighted["rows"], weighted["positives"]) == (counted.sum(), labels[counted].sum())


def test_rows_without_weight_are_not_drawn():
    # Sorted by logit in 20 bins, the last bin has no weight.
    predictions = Predictions(np.tile([0, 1], 20), np.linspace(-2, 2, 40), weights=np.repeat([1.0, 0.0], [38, 2]))
    (_, bins) = plots.calibration(predictions).axes[0].lines
    assert len(bins.get_xdata()) == 20 and np.isfinite(bins.get_ydata()).all() and bins.get_xdata().max() < expit(1.8)
    patches = plots.score_distribution(predictions).axes[0].patches
    assert max(patch.get_x() + patch.get_width() for patch in patches) < 1.8


def test_weighted_grouped_auc_by_hand():
    # Of group 1, the click (weight 2) beats the first of two non-clicks (weights 1 and 3) and ties with none: 2 of 8.
    # Group 2 has a click (1) above its non-click (5): 1. They count 6 to 6.
    labels, scores = np.array([1, 0, 0, 1, 0]), np.array([0.5, 0.2, 0.9, 0.7, 0.1])
    groups, weights = np.array([1, 1, 1, 2, 2]), np.array([2.0, 1.0, 3.0, 1.0, 5.0])
    assert grouped_auc(labels, scores, groups, weights) == pytest.approx((6 * 0.25 + 6 * 1.0) / 12)


def test_weighted_calibration_bins_by_hand():
    # Bins of two rows: means (0.1 + 3 x 0.3) / 4 and (0.6 + 0.8) / 2; clicks 3 of 4 and 1 of 2.
    labels, probabilities, weights = np.array([0, 1, 1, 0]), np.array([0.1, 0.3, 0.8, 0.6]), np.array([1.0, 3.0, 1.0, 1.0])
    bins = calibration_bins(labels, probabilities, bins=2, weights=weights)
    assert bins.predicted == pytest.approx([0.25, 0.7]) and bins.observed == pytest.approx([0.75, 0.5])
    assert bins.weights == pytest.approx([4, 2])
    # Four bins of one row: off by 0.1, 0.7, 0.6 and 0.2, the second thrice.
    assert expected_calibration_error(labels, probabilities, weights) == pytest.approx((0.1 + 3 * 0.7 + 0.6 + 0.2) / 6)


def test_a_class_without_weight_is_no_class():
    metrics = click_metrics(Predictions(np.array([1.0, 0.0, 0.0]), np.zeros(3), weights=np.array([0.0, 1.0, 1.0])))
    assert metrics["auc"] is None and metrics["click_rate"] == 0 and metrics["positives"] == 0


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(UserError, match="all 2 rows with a label have weight 0, so no metric is defined: correct the column"):
        click_metrics(Predictions(np.array([1.0, 0.0]), np.zeros(2), weights=np.zeros(2)))


def test_calibration_bins_and_error():
    probabilities = np.array([0.1, 0.3, 0.8, 0.6])
    labels = np.array([0, 1, 1, 0])
    bins = calibration_bins(labels, probabilities, bins=2)
    assert bins.predicted == pytest.approx([0.2, 0.7])
    assert bins.observed == pytest.approx([0.5, 0.5])
    # Four bins of one row here: mean of |0.1 - 0|, |0.3 - 1|, |0.6 - 0|, |0.8 - 1|.
    assert expected_calibration_error(labels, probabilities) == pytest.approx(0.4)


def test_normalized_entropy_is_one_for_the_click_rate():
    rate = 0.25
    logloss = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert normalized_entropy(logloss, rate) == pytest.approx(1.0)
    assert normalized_entropy(0.3, 0.0) is None


def test_click_metrics_of_two_rows():
    predictions = Predictions(np.array([1.0, 0.0]), np.array([np.log(3.0), 0.0]))  # probabilities 3/4 and 1/2
    metrics = click_metrics(predictions)
    assert metrics["rows"] == 2 and metrics["positives"] == 1
    assert metrics["auc"] == 1.0 and metrics["gauc"] is None
    assert metrics["logloss"] == pytest.approx(-(np.log(3 / 4) + np.log(1 / 2)) / 2)
    assert metrics["calibration_bias"] == pytest.approx(0.625 / 0.5 - 1)


def test_click_metrics_without_clicks():
    metrics = click_metrics(Predictions(np.zeros(2), np.array([-1.0, -2.0])))
    assert metrics["auc"] is None and metrics["calibration_bias"] is None and metrics["normalized_entropy"] is None
    assert metrics["logloss"] > 0
