"""HSTU: pointwise attention over the tokens of a sample, read as a set."""

import tensorflow as tf

from trainer.config import HstuConfig
from trainer.layers import dropout
from trainer.products import Dense


class HstuBlock(tf.keras.layers.Layer):
    """One residual block.

        U, V, Q, K = split(SiLU(LN(x) W_1))
        A = SiLU(Q K^T) / n                 per head; n tokens; no softmax, no causal mask
        x <- x + Dropout((LN(A V) * U) W_2)

    Shapes: [B, n, width] -> [B, n, width]. Source: arXiv 2402.17152, equations 1 to 3.
    """

    def __init__(self, config: HstuConfig, dropout_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._heads = config.heads
        self._head_width = config.width // config.heads
        self._input_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._output_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._split = Dense(4 * config.width, activation="swish")
        self._output = Dense(config.width)
        self._dropout_rate = dropout_rate

    def _to_heads(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(x, (-1, x.shape[1], self._heads, self._head_width))
        return tf.transpose(x, (0, 2, 1, 3))  # (B, heads, n, width / heads)

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None, query_scales: tf.Tensor | None = None) -> tf.Tensor:
        gate, value, query, key = tf.split(self._split(self._input_norm(x)), 4, axis=-1)  # each (B, n, width)
        value, query, key = self._to_heads(value), self._to_heads(query), self._to_heads(key)
        if query_scales is not None:
            query *= query_scales[:, tf.newaxis]
        attention = tf.nn.silu(tf.matmul(query, key, transpose_b=True)) / x.shape[1]  # (B, heads, n, n)
        attended = tf.transpose(tf.matmul(attention, value), (0, 2, 1, 3))  # (B, n, heads, width / heads)
        attended = self._output_norm(tf.reshape(attended, (-1, x.shape[1], x.shape[2])))
        return x + dropout(self._output(attended * gate), self._dropout_rate, seed)

