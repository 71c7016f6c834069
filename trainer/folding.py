"""Batch normalisation folded into the product before it, for a network that only predicts from now on."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf

Folded = tuple[tf.Variable, tf.Variable]  # kernel [k, n], bias [n]

_folded: ContextVar[dict[tf.keras.layers.Layer, Folded] | None] = ContextVar("folded layers", default=None)


@contextmanager
def folded_batch_norms() -> Iterator[None]:
    """Predictions that are traced inside have one product where there was one with a batch normalisation behind it.

        BN(V x) = s * (V x - mu) + beta = (s * V) x + (beta - s * mu),      s = gamma / sqrt(sigma^2 + epsilon)

    The folded kernels are variables of their own, made of the weights and moving moments as they are when a layer is first traced.
    """
    token = _folded.set({})
    try:
        yield
    finally:
        _folded.reset(token)


def folded(dense: tf.keras.layers.Dense, norm: tf.keras.layers.BatchNormalization) -> Folded | None:
    """What stands for a dense layer without bias and the normalisation behind it; None outside `folded_batch_norms`."""
    layers = _folded.get()
    if layers is None:
        return None
    if dense not in layers:
        with tf.init_scope():  # a function that is being traced must not own them: others share them
            scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
            layers[dense] = (
                tf.Variable(scale * dense.kernel, trainable=False, name="folded_kernel"),
                tf.Variable(norm.beta - scale * norm.moving_mean, trainable=False, name="folded_bias"),
            )
    return layers[dense]
