"""Cross-entropies of masked features: over a whole field, or over candidates drawn from the batch."""

import numpy as np
import tensorflow as tf

IMPOSSIBLE = -1e9


def full_cross_entropy(scores: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
    """-log softmax(scores)[true]: scores [M, V], true int [M] -> [M]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=true, logits=scores)


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
    return full_cross_entropy(tf.concat([true_scores[:, tf.newaxis], negative], axis=1), tf.zeros_like(true))
