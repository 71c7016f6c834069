"""The forward process: which tokens of each sample are replaced by their mask embedding."""

import tensorflow as tf

from trainer.config import DiffusionConfig
from trainer.diffusion.schedule import draw_times, masking_rate


def mask_tokens(rates: tf.Tensor, tokens: int, seed: tf.Tensor) -> tf.Tensor:
    """Masks each token with its sample's rate, and at least one token in every sample.

        M_k = 1  iff  u_k < rate or u_k = min_j u_j,   u_k ~ U(0, 1)

    The minimum is masked anyway unless nothing else is, so the second condition only mends empty masks.

    Args:
      rates: float [B].
      tokens: N + 1.
      seed: int [2]; equal seeds give equal masks.

    Returns:
      bool [B, N+1], True where corrupted.
    """
    uniform = tf.random.stateless_uniform((tf.shape(rates)[0], tokens), seed)  # (B, N+1)
    return (uniform < rates[:, tf.newaxis]) | (uniform <= tf.reduce_min(uniform, axis=1, keepdims=True))


def corrupt(config: DiffusionConfig, batch: tf.Tensor, tokens: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws t, then the mask bool [batch, tokens] of q(x^t | x^0): P(M_k = 1 | t) = lambda(t), tokens independent."""
    time_seed, mask_seed = tf.unstack(tf.random.split(seed, 2))
    times = draw_times(config, batch, tokens, time_seed)
    return mask_tokens(masking_rate(config, times), tokens, mask_seed)
