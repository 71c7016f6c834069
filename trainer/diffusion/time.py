"""What a network may be told of the time t of a sample."""

import math

import tensorflow as tf

from trainer.products import Dense

WAVES = 16
SHORTEST, LONGEST = 0.02, 4.0  # periods, in masking rate


def masked_share(mask: tf.Tensor) -> tf.Tensor:
    """Share [B] of the tokens that a mask bool [B, N+1] hides: the masking rate that a sample looks like."""
    return tf.reduce_mean(tf.cast(mask, tf.float32), axis=1)


class TimeInput(tf.keras.layers.Layer):
    """A vector of the masking rate lambda(t), added to every token.

        c = [sin(2 pi lambda / p_j), cos(2 pi lambda / p_j)]_j W,   periods p_j from 4 down to 0.02, geometrically, j = 1..16

    W starts at zero, so that the network starts as the one without. For absorbing diffusion the optimal denoiser does not depend
    on t (arXiv 2406.03736), as the visible tokens tell how much is masked; hence this is an option.

    Shapes: [B] -> [B, d]. Source of the features: arXiv 1706.03762, section 3.5.
    """

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self._to_token = Dense(dim, use_bias=False, kernel_initializer="zeros")
        steps = [wave / (WAVES - 1) for wave in range(WAVES)]
        self._frequencies = [2.0 * math.pi / LONGEST * (LONGEST / SHORTEST) ** step for step in steps]

    def call(self, rates: tf.Tensor) -> tf.Tensor:
        angles = rates[:, tf.newaxis] * tf.constant(self._frequencies)  # (B, 16)
        return self._to_token(tf.concat([tf.sin(angles), tf.cos(angles)], axis=1))  # (B, d)
