"""Dropout from a seed, and batch normalisation of vectors."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.layers import BatchNorm, dropout, layer_seed

SEED = tf.constant([3, 4])


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    y = dropout(tf.ones((1000, 400)), 0.2, SEED).numpy()
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.25)}
    assert (y == 0).mean() == pytest.approx(0.2, abs=0.005)  # five standard errors are 0.003


def test_dropout_is_a_function_of_its_seed():
    x = tf.ones((10, 10))
    np.testing.assert_array_equal(dropout(x, 0.5, SEED), dropout(x, 0.5, SEED))
    assert np.any(dropout(x, 0.5, SEED) != dropout(x, 0.5, layer_seed(SEED, 1)))


def test_nothing_is_dropped_outside_training():
    x = tf.constant([1.0, 2.0])
    assert layer_seed(None, 1) is None
    assert dropout(x, 0.5, None) is x


def test_the_gradient_of_dropout_passes_where_a_value_was_kept():
    x = tf.ones(100)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = dropout(x, 0.5, SEED)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_batch_norm_of_two_samples():
    # Moments of (1, 3): mean 2, variance 1.
    layer = BatchNorm(momentum=0.9, epsilon=0.0)
    np.testing.assert_allclose(layer(tf.constant([[1.0], [3.0]]), training=True), [[-1.0], [1.0]], rtol=1e-5)
    assert layer.moving_mean.numpy() == pytest.approx([0.2])


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_keras(training):
    x = tf.random.stateless_normal((64, 5), SEED) * 3.0 + 1.0
    ours, theirs = BatchNorm(epsilon=1e-5), tf.keras.layers.BatchNormalization(epsilon=1e-5)
    for layer in (ours, theirs):
        layer(x)
    np.testing.assert_allclose(ours(x, training=training), theirs(x, training=training), atol=1e-5)
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]


def test_batch_norm_of_no_samples():
    assert BatchNorm()(tf.zeros((0, 5))).shape == (0, 5)
