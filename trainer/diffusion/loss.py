"""Cross-entropies of masked features: over a whole field, or over candidates drawn from the batch."""

import tensorflow as tf

IMPOSSIBLE = -1e9


def full_cross_entropy(scores: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
    """-log softmax(scores)[true]: scores [M, V], true int [M] -> [M]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=true, logits=scores)


def inclusion_log_probability(frequency: tf.Tensor, total: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """log q(v): the log-probability that a value of share p = frequency / total is among `draws` rows of the batch.

        q(v) = 1 - (1 - p)^draws

    A value never seen in training counts as seen half a time, so that its log-probability is finite.
    """
    share = tf.maximum(tf.cast(frequency, tf.float32), 0.5) / tf.cast(total, tf.float32)
    absent = tf.cast(draws, tf.float32) * tf.math.log1p(-tf.minimum(share, 1.0 - 1e-6))
    return tf.math.log(-tf.math.expm1(absent))


def sampled_cross_entropy(
    true_scores: tf.Tensor,
    true_log_q: tf.Tensor,
    true: tf.Tensor,
    candidate_scores: tf.Tensor,
    candidate_log_q: tf.Tensor,
    candidates: tf.Tensor,
) -> tf.Tensor:
    """Sampled softmax over S = {true value} + distinct candidates, corrected for how they were drawn.

        -log  exp(s(x) - log q(x)) / sum_{v in S} exp(s(v) - log q(v))

    The true value is removed from the candidates. As q -> 1 this is the full softmax.

    Args:
      true_scores, true_log_q, true: [M] score, log q and value of the M masked cells.
      candidate_scores: [M, C]; candidate_log_q, candidates: [C], distinct values.

    Returns:
      [M].
    """
    positive = (true_scores - true_log_q)[:, tf.newaxis]  # (M, 1)
    negative = candidate_scores - candidate_log_q  # (M, C)
    negative = tf.where(true[:, tf.newaxis] == candidates, IMPOSSIBLE, negative)
    return full_cross_entropy(tf.concat([positive, negative], axis=1), tf.zeros_like(true))
