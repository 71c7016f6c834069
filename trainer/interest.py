"""One token for a field with several values a row: their mean, or what a target makes of a history."""

import math

import tensorflow as tf

from trainer.config import InterestConfig
from trainer.products import Dense, matmul


class ListValues:
    """The values of a list field in a batch, one after another, without what fills the rows up.

    So nothing is computed for, or depends on, what fills up, and the cost is that of the values that there are.

    Args:
      lists: local ids int [B, L], -1 where there is none, anywhere in a row.

    Attributes:
      ids: int [M], row by row.
      rows: int64 [M], the row of each, ascending.
      batch: B.
    """

    def __init__(self, lists: tf.Tensor):
        self._lists = lists
        self._cells = tf.where(lists >= 0)  # (M, 2)
        self.ids = tf.gather_nd(lists, self._cells)
        self.rows = self._cells[:, 0]
        self.batch = tf.shape(lists, tf.int64)[0]

    def recency(self) -> tf.Tensor:
        """How many values of the row follow each one, int [M]: 0 for the last, which is the most recent."""
        following = tf.cumsum(tf.cast(self._lists >= 0, tf.int32), axis=1, exclusive=True, reverse=True)  # (B, L)
        return tf.gather_nd(following, self._cells)

    def sums(self, values: tf.Tensor) -> tf.Tensor:
        """Sums of values [M, n] by row, [B, n]."""
        return self._padded(tf.math.segment_sum(values, self.rows))

    def maxima(self, values: tf.Tensor) -> tf.Tensor:
        """Maxima of values [M] and 0 by row, [B]."""
        return tf.maximum(self._padded(tf.math.segment_max(values, self.rows)), 0.0)

    def _padded(self, by_row: tf.Tensor) -> tf.Tensor:
        """With zeros for the rows behind the last that has a value."""
        missing = self.batch - tf.shape(by_row, tf.int64)[0]
        return tf.pad(by_row, [[0, missing]] + [[0, 0]] * (by_row.shape.rank - 1))


class MeanToken(tf.keras.layers.Layer):
    """The mean of a row's values: sum_j e(x_j) / n; e_0, learned, where there are none. [M, d] -> [B, d]."""

    def __init__(self, dim: int, stddev: float, **kwargs):
        super().__init__(**kwargs)
        self.empty = self.add_weight("empty", (dim,), initializer=tf.keras.initializers.RandomNormal(stddev=stddev))

    def call(self, embeddings: tf.Tensor, values: ListValues) -> tf.Tensor:
        sums = values.sums(tf.concat([embeddings, tf.ones_like(embeddings[:, :1])], axis=1))  # (B, d + 1)
        counts = sums[:, -1:]
        return tf.where(counts > 0, sums[:, :-1] / tf.maximum(counts, 1.0), self.empty)


class TargetAttention(tf.keras.layers.Layer):
    """What a target with embedding q makes of a history x_1..x_n, oldest first.

        interest = sum_j w_j e(x_j) + w_0 e_0,    w_j = exp(s_j) / Z,    w_0 = 1 / Z,    Z = 1 + sum_j exp(s_j)
        s_j = q^T W e(x_j) / sqrt(d) + r_b(j)                                       attention "dot"
        s_j = v . swish(A e(x_j) + B (q * e(x_j)) + C q + c) + r_b(j)               attention "mlp"

    e_0 is learned and has the score 0: where nothing of a history concerns the target, or the history is empty, the weight
    goes there, so that how much of it concerns the target is not normalised away. r is a learned score of recency, of the
    bucket b(j) = floor(log2(1 + n - j)). W joins the projections of queries and keys of scaled dot products: neither costs
    anything an item. With A, B and C the unit sees the difference of both embeddings, too.

    Args:
      config: the kind of attention.
      dim: embedding width d.
      max_length: the longest history.
      stddev: standard deviation of the initial e_0.
      has_target: without, q is learned.

    Shapes: embeddings of all values [M, d], queries [B, d] -> [B, d].
    Source: arXiv 1706.03762 (scaled dot product), arXiv 1706.06978 (activation unit, intensity that is not normalised away).
    """

    def __init__(self, config: InterestConfig, dim: int, max_length: int, stddev: float, has_target: bool, **kwargs):
        super().__init__(**kwargs)
        self._dim = dim
        self._longest = max_length
        self.empty = self._add_normal("empty", stddev)
        self.recency = self.add_weight("recency", (recency_buckets(max_length),), initializer="zeros")
        self.query = None if has_target else self._add_normal("query", stddev)
        self._of_query = self._of_item = self._of_both = self._score = None
        if config.attention == "dot":
            self.kernel = self.add_weight("kernel", (dim, dim), initializer="glorot_uniform")
        else:
            self._of_query = self._dense(dim, config.hidden_units)
            self._of_item = self._dense(2 * dim, config.hidden_units, use_bias=False)
            self._score = self._dense(config.hidden_units, 1, use_bias=False)

    def _add_normal(self, name: str, stddev: float) -> tf.Variable:
        return self.add_weight(name, (self._dim,), initializer=tf.keras.initializers.RandomNormal(stddev=stddev))

    def _dense(self, width: int, units: int, **kwargs) -> Dense:
        layer = Dense(units, **kwargs)
        layer.build((None, width))
        return layer

    def call(self, embeddings: tf.Tensor, values: ListValues, queries: tf.Tensor | None) -> tf.Tensor:
        if self.query is not None:
            queries = tf.repeat(self.query[tf.newaxis], values.batch, axis=0)
        scores = self._scores(embeddings, values, queries) + self._recency_scores(values)  # (M,)
        highest = tf.stop_gradient(values.maxima(scores))  # (B,)
        weights = tf.exp(scores - tf.gather(highest, values.rows))[:, tf.newaxis]  # (M, 1)
        sums = values.sums(tf.concat([weights * embeddings, weights], axis=1))  # (B, d + 1)
        of_empty = tf.exp(-highest)[:, tf.newaxis]
        return (sums[:, :-1] + of_empty * self.empty) / (sums[:, -1:] + of_empty)

    def _scores(self, embeddings: tf.Tensor, values: ListValues, queries: tf.Tensor) -> tf.Tensor:
        if self._score is None:
            projected = tf.gather(matmul(queries, self.kernel), values.rows)  # (M, d)
            return tf.reduce_sum(projected * embeddings, axis=1) / math.sqrt(self._dim)
        both = tf.gather(queries, values.rows) * embeddings
        hidden = self._of_item(tf.concat([embeddings, both], axis=1)) + tf.gather(self._of_query(queries), values.rows)
        return self._score(tf.nn.silu(hidden))[:, 0]

    def _recency_scores(self, values: ListValues) -> tf.Tensor:
        buckets = tf.constant([_bucket(place) for place in range(self._longest)])
        return tf.gather(self.recency, tf.gather(buckets, tf.minimum(values.recency(), self._longest - 1)))


def recency_buckets(max_length: int) -> int:
    """How many buckets b(j) the places of a history have."""
    return _bucket(max_length - 1) + 1


def _bucket(recency: int) -> int:
    return (recency + 1).bit_length() - 1
