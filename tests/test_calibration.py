"""Platt scaling of click logits, from the validation split to the model that is evaluated and exported."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import tiny_schema
from scipy.special import expit, logit

from trainer.config import load_config
from trainer.metrics import Calibration, Predictions, platt_scaling
from trainer.model import DGenCTR


def test_two_groups_are_given_their_click_rates():
    # Logits 0 and 2 are seen with click rates 1/4 and 3/4: the line goes from -log 3 to log 3.
    predictions = Predictions(np.array([1, 0, 0, 0, 1, 1, 1, 0.0]), np.array([0.0] * 4 + [2.0] * 4))
    found = platt_scaling(predictions)
    assert found.intercept == pytest.approx(-np.log(3), rel=1e-4)
    assert found.slope == pytest.approx(np.log(3), rel=1e-4)


def test_weights_count_rows_so_often():
    predictions = Predictions(np.array([1, 0, 1, 0.0]), np.array([0.0, 0.0, 2.0, 2.0]), weights=np.array([1, 3, 3, 1.0]))
    assert platt_scaling(predictions).slope == pytest.approx(np.log(3), rel=1e-4)


def test_an_overconfident_model_is_told_so():
    random = np.random.default_rng(1)
    truth = random.normal(size=20_000)
    labels = (random.random(20_000) < expit(truth)).astype(float)
    found = platt_scaling(Predictions(labels, 2 * truth + 1))
    assert (found.slope, found.intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(-0.5, abs=0.04))


@pytest.mark.parametrize(("labels", "logits"), [([1.0, 1.0], [0.0, 1.0]), ([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.5])])
def test_one_class_or_a_reversed_ranking_stays_as_it_is(labels, logits):
    assert platt_scaling(Predictions(np.array(labels), np.array(logits))) == Calibration(1.0, 0.0)


def test_a_calibrated_model_answers_on_the_line():
    model = DGenCTR(tiny_schema(), load_config(None, ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "model.dcn.layer_norm=false"]), click_rate=0.2)
    features = {"ids": tf.constant([[2, 3, 4], [5, 1, 0]])}
    raw = model.click_logits(features).numpy()
    np.testing.assert_allclose(raw, logit(0.2), atol=0.1)
    model.calibration = Calibration(0.5, 0.25)
    np.testing.assert_allclose(model.click_logits(features), 0.5 * raw + 0.25, rtol=1e-6)
    np.testing.assert_allclose(model(features), expit(0.5 * raw + 0.25), rtol=1e-6)
