"""The two layers that cost most beside matrix products, in the forms that are quick on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf

from trainer.distribute.replicas import average_over_replicas

_moments_stay: ContextVar[bool] = ContextVar("moving moments stay", default=False)


@contextmanager
def moving_moments_kept() -> Iterator[None]:
    """Batch normalisation that is traced inside takes the moments of its batch in training, but leaves the moving ones alone.

    For batches of another kind than those that a model is evaluated on: moving moments of both kinds would fit neither.
    """
    token = _moments_stay.set(True)
    try:
        yield
    finally:
        _moments_stay.reset(token)


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Inverted dropout whose mask is a function of the seed.

        y = x * K / (1 - rate),   K ~ Bernoulli(1 - rate)

    The mask is compared from raw random integers: drawing uniform floats, as `tf.nn.dropout` does, takes four times as long.

    Args:
      x: float, any shape.
      rate: share of elements set to zero, in [0, 1).
      seed: int [2], or None outside training: x is returned.
    """
    if seed is None or not rate:
        return x
    bits = tf.random.stateless_uniform(tf.shape(x), seed, minval=None, maxval=None, dtype=tf.int32)
    threshold = round((rate - 0.5) * 2**32)
    return x * tf.where(bits >= threshold, 1.0 / (1.0 - rate), 0.0)


def layer_seed(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """The seed of the `number`-th layer that draws at random in a step; None stays None."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)


class BatchNorm(tf.keras.layers.BatchNormalization):
    """Batch normalisation of vectors [B, C] by the fused kernel, which Keras only takes for images [B, H, W, C].

    Under a strategy of several replicas the moments are those of the global batch, and the kernel is not the fused one.
    """

    def __init__(self, **kwargs):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        super().__init__(**{"synchronized": True} if replicas > 1 else {"fused": True}, **kwargs)

    def build(self, input_shape: tf.TensorShape) -> None:
        super().build((input_shape[0], 1, 1, input_shape[-1]))
        self.input_spec = None

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if training and _moments_stay.get():
            return self._normalized_by_its_own(x)
        image = tf.expand_dims(tf.expand_dims(x, 1), 1)  # (B, 1, 1, C)
        return tf.squeeze(super().call(image, training=training), [1, 2])

    def _normalized_by_its_own(self, x: tf.Tensor) -> tf.Tensor:
        mean = average_over_replicas(tf.reduce_mean(x, axis=0))
        variance = average_over_replicas(tf.reduce_mean(tf.math.squared_difference(x, mean), axis=0))
        return tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
