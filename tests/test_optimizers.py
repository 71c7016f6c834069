"""Lazy Adam: by hand, against dense Adam, and what it leaves alone."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.optimizers import LazyAdam, cosine_learning_rate, scaled_to_norm


def slices(rows, values):
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), dense_shape=(4, 2))


def table():
    return tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])


def test_first_step_moves_a_row_by_the_learning_rate_against_the_sign():
    # After one step m / sqrt(v) = g / |g| once both are bias-corrected.
    variable = table()
    optimizer = LazyAdam(0.1)
    optimizer.apply_gradients([(slices([2], [[0.5, -3.0]]), variable)])
    assert variable.numpy()[2] == pytest.approx([4.9, 6.1], abs=1e-5)
    assert variable.numpy()[[0, 1, 3]].tolist() == [[1, 2], [3, 4], [7, 8]]


def test_second_step_by_hand():
    # m = 0.9 * 0.1 * 1 + 0.1 * 2 = 0.29, v = 0.999 * 0.001 * 1 + 0.001 * 4 = 0.004999,
    # rate = 0.1 * sqrt(1 - 0.999^2) / (1 - 0.9^2) = 0.1 * 0.04470906 / 0.19.
    variable = tf.Variable([[0.0], [0.0]])
    optimizer = LazyAdam(0.1)
    for value in (1.0, 2.0):
        optimizer.apply_gradients([(tf.IndexedSlices(tf.constant([[value]]), tf.constant([1])), variable)])
    expected = -0.1 - 0.1 * 0.04470906 / 0.19 * 0.29 / np.sqrt(0.004999)
    assert variable.numpy()[1, 0] == pytest.approx(expected, rel=1e-4)


def test_duplicate_rows_are_summed_before_the_step():
    twice, once = table(), table()
    LazyAdam(0.1).apply_gradients([(slices([1, 1], [[1.0, -1.0], [2.0, 4.0]]), twice)])
    LazyAdam(0.1).apply_gradients([(slices([1], [[3.0, 3.0]]), once)])
    np.testing.assert_allclose(twice.numpy(), once.numpy())


def test_decay_reaches_looked_up_rows_only():
    # Without a gradient of its own the row moves by the learning rate towards zero.
    variable = table()
    LazyAdam(0.1, decay=0.01).apply_gradients([(slices([3], [[0.0, 0.0]]), variable)])
    assert variable.numpy()[3] == pytest.approx([6.9, 7.9], abs=1e-4)
    assert variable.numpy()[0].tolist() == [1.0, 2.0]


def test_with_every_row_looked_up_it_is_adam():
    rng = np.random.default_rng(0)
    lazy_table, dense_table = table(), table()
    lazy = LazyAdam(0.01, epsilon=1e-7)
    dense = tf.keras.optimizers.Adam(0.01, epsilon=1e-7, jit_compile=False)
    for _ in range(20):
        gradient = rng.normal(size=(4, 2)).astype(np.float32)
        order = rng.permutation(4)
        lazy.apply_gradients([(slices(order, gradient[order]), lazy_table)])
        dense.apply_gradients([(tf.constant(gradient), dense_table)])
    np.testing.assert_allclose(lazy_table.numpy(), dense_table.numpy(), rtol=1e-5)


def test_a_dense_gradient_is_refused():
    with pytest.raises(TypeError, match="needs sparse gradients .* received"):
        LazyAdam(0.1).apply_gradients([(tf.ones((4, 2)), table())])


def test_cosine_learning_rate_falls_to_a_hundredth():
    # Half way between 1 and 0.01 is 0.505.
    assert [cosine_learning_rate(2.0, progress) for progress in (0.0, 0.5, 1.0, 1.5)] == pytest.approx([2.0, 1.01, 0.02, 0.02])


def scaled(values, limit):
    gradients = [tf.constant(values[:1]), slices([1], [values[1:]])]
    dense, sparse = scaled_to_norm(gradients, tf.linalg.global_norm(gradients), limit)
    return [*dense.numpy().tolist(), *sparse.values.numpy()[0].tolist()]


def test_a_long_gradient_is_scaled_to_the_limit_and_a_short_one_kept():
    # The norm of (2, 3, 6) is 7.
    assert scaled([2.0, 3.0, 6.0], limit=3.5) == [1.0, 1.5, 3.0]
    assert scaled([2.0, 3.0, 6.0], limit=8.0) == [2.0, 3.0, 6.0]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_becomes_zero(broken):
    assert scaled([broken, 3.0, 6.0], limit=1.0) == [0.0, 0.0, 0.0]
