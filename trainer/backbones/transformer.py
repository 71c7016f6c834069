"""A transformer encoder over the tokens of a sample, read as a set."""

import tensorflow as tf

from trainer.config import TransformerConfig
from trainer.layers import dropout, layer_seed
from trainer.products import Dense


class TransformerBlock(tf.keras.layers.Layer):
    """One pre-norm block.

        Q, K, V = split(LN(x) W_1 + b_1)
        A = softmax(Q K^T / sqrt(width / heads))       per head; every token sees every token
        x <- x + Dropout(A V W_2 + b_2)
        x <- x + Dropout(GELU(LN(x) W_3 + b_3) W_4 + b_4)

    Shapes: [B, n, width] -> [B, n, width].
    Source: arXiv 1706.03762, sections 3.2 and 3.3; arXiv 2002.04745 (norms before instead of after).
    """

    def __init__(self, config: TransformerConfig, dropout_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._heads = config.heads
        self._head_width = config.width // config.heads
        self._attention_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._split = Dense(3 * config.width)
        self._attention_output = Dense(config.width)
        self._feed_forward_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._inner = Dense(config.feed_forward, activation="gelu")
        self._feed_forward_output = Dense(config.width)
        self._dropout_rate = dropout_rate

    def _attended(self, x: tf.Tensor, query_scales: tf.Tensor | None = None) -> tf.Tensor:
        heads = tf.reshape(self._split(x), (-1, x.shape[1], 3, self._heads, self._head_width))
        query, key, value = tf.unstack(tf.transpose(heads, (2, 0, 3, 1, 4)))  # each (B, heads, n, width / heads)
        if query_scales is not None:
            query *= query_scales[:, tf.newaxis]
        scores = tf.matmul(query * self._head_width**-0.5, key, transpose_b=True)  # (B, heads, n, n)
        mixed = tf.matmul(tf.nn.softmax(scores), value)
        return tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, x.shape[1], x.shape[2]))  # (B, n, width)

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None, query_scales: tf.Tensor | None = None) -> tf.Tensor:
        attended = self._attention_output(self._attended(self._attention_norm(x), query_scales))
        x += dropout(attended, self._dropout_rate, layer_seed(seed, 0))
        fed = self._feed_forward_output(self._inner(self._feed_forward_norm(x)))
        return x + dropout(fed, self._dropout_rate, layer_seed(seed, 1))

