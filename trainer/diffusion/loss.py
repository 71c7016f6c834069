"""Cross-entropies of masked features: over a whole field, or over candidates drawn from the batch."""

import numpy as np
import tensorflow as tf

IMPOSSIBLE = -1e9
SAFE_SPREAD = 80.0  # exp(-80) is still a normal float32


@tf.custom_gradient
def full_cross_entropy(queries: tf.Tensor, keys: tf.Tensor, log_prior: tf.Tensor, true: tf.Tensor):
    """Cross-entropies of a field over all its values, one a cell.

        l_i = log Z_i - s_i(x_i),    s_i(v) = q_i . k_v + log p(v),    Z_i = sum_v exp(s_i(v))
        dl_i/dq_i = sum_v softmax_i(v) k_v - k_{x_i}
        sum_i u_i dl_i/dk_v = sum_i softmax_i(v) u_i q_i - sum_{i: x_i = v} u_i q_i

    One [M, V] array is written, exp(s - bound); Z and both gradients are matrix products with it. The usual way, matrix
    product, softmax and their gradients, writes it five times and takes about three times as long. The bound
    max|q| max|k| + max log p stands in for each row's maximum as long as no row can underflow.

    Args:
      queries: q, float [M, d]; keys: k, float [V, d]; log_prior: log p, float [V], not differentiated.
      true: x, int [M].

    Returns:
      l, float [M].
    """
    length = tf.reduce_max(tf.norm(queries, axis=1)) * tf.reduce_max(tf.norm(keys, axis=1))
    bound = length + tf.reduce_max(log_prior)
    scores = tf.matmul(
        tf.concat([queries, tf.ones_like(queries[:, :1])], axis=1),
        tf.concat([keys, (log_prior - bound)[:, tf.newaxis]], axis=1), transpose_b=True)  # (M, V), none above 0
    scores, highest = tf.cond(2.0 * length < SAFE_SPREAD, lambda: (scores, tf.zeros_like(scores[:, 0])), lambda: _from_highest(scores))
    weights = tf.exp(scores)  # (M, V)
    sums = tf.matmul(weights, tf.concat([keys, tf.ones_like(keys[:, :1])], axis=1))  # (M, d + 1)
    mean_keys, totals = sums[:, :-1] / sums[:, -1:], sums[:, -1]
    true_keys = tf.gather(keys, true)  # (M, d)
    true_scores = tf.reduce_sum(queries * true_keys, axis=1) + tf.gather(log_prior, true)

    def gradient(upstream: tf.Tensor):
        upstream = upstream[:, tf.newaxis]  # (M, 1)
        weighted = upstream * queries
        of_keys = tf.matmul(weights, weighted / totals[:, tf.newaxis], transpose_a=True)  # (V, d)
        of_keys -= tf.math.unsorted_segment_sum(weighted, true, tf.shape(keys)[0])
        return upstream * (mean_keys - true_keys), of_keys, None, None

    return tf.math.log(totals) + highest + bound - true_scores, gradient


def _from_highest(scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores [M, V] below each row's maximum, and those maxima [M]."""
    highest = tf.reduce_max(scores, axis=1)
    return scores - highest[:, tf.newaxis], highest


def log_shares(frequencies: np.ndarray) -> np.ndarray:
    """log p(v), float32, of a field's values from their training counts; an unseen value counts as seen half a time."""
    counts = np.maximum(frequencies, 0.5)
    return np.log(counts / counts.sum()).astype(np.float32)


def inclusion_log_probability(log_share: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """log q(v): the log-probability that a value of training share p is among `draws` rows of the batch.

        q(v) = 1 - (1 - p)^draws
    """
    share = tf.minimum(tf.exp(log_share), 1.0 - 1e-6)
    return tf.math.log(-tf.math.expm1(tf.cast(draws, tf.float32) * tf.math.log1p(-share)))


def sampled_cross_entropy(
    true_scores: tf.Tensor, true: tf.Tensor, candidate_scores: tf.Tensor, candidates: tf.Tensor
) -> tf.Tensor:
    """Sampled softmax over S = {true value} + distinct candidates, for scores corrected for how those were drawn.

        -log  exp(s'(x)) / sum_{v in S} exp(s'(v)),   s'(v) = s(v) - log q(v)

    The true value is removed from the candidates. As q -> 1 this is the full softmax.

    Args:
      true_scores, true: s' and value of the M masked cells, [M].
      candidate_scores: s' of the candidates, [M, C]; candidates: [C], distinct values.

    Returns:
      [M].
    """
    negative = tf.where(true[:, tf.newaxis] == candidates, IMPOSSIBLE, candidate_scores)  # (M, C)
    scores = tf.concat([true_scores[:, tf.newaxis], negative], axis=1)  # (M, C + 1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.zeros_like(true), logits=scores)
