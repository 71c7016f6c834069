"""The forward process: which tokens of each sample are replaced by their mask embedding."""

import tensorflow as tf

from trainer.config import DiffusionConfig
from trainer.diffusion.schedule import draw_times, masking_rate


def mask_tokens(rates: tf.Tensor, scorable: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Masks each token that can be predicted with its sample's rate, and at least one of them in every sample that has any.

        M_k = 1  iff  u_k < rate or u_k = min_j u_j,   u_k ~ U(0, 1) for scorable tokens

    Where anything is masked the smallest u is, too, so the second condition only mends masks that would be empty.

    Args:
      rates: float [B].
      scorable: bool [B, N+1], whether there is something to predict: a label may be absent, or a value unknown.
      seed: int [2]; equal seeds give equal masks, and a sample's do not depend on the others.

    Returns:
      bool [B, N+1], True where masked and to be predicted.
    """
    uniform = tf.where(scorable, tf.random.stateless_uniform(tf.shape(scorable), seed), 1.0)  # (B, N+1)
    masked = (uniform < rates[:, tf.newaxis]) | (uniform <= tf.reduce_min(uniform, axis=1, keepdims=True))
    return masked & scorable


def corrupt(config: DiffusionConfig, scorable: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws t, then the mask of q(x^t | x^0): P(M_k = 1 | t) = lambda(t), tokens independent.

    Args:
      scorable: bool [B, N+1], see `mask_tokens`.
      seed: int [2].

    Returns:
      The mask, bool [B, N+1], and lambda(t) of every sample, float [B].
    """
    time_seed, mask_seed = tf.unstack(tf.random.split(seed, 2))
    times = draw_times(config, tf.shape(scorable)[0], scorable.shape[1], time_seed)
    rates = masking_rate(config, times)
    return mask_tokens(rates, scorable, mask_seed), rates
