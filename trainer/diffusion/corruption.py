"""The forward process: which tokens of each sample are replaced by their mask embedding."""

import tensorflow as tf

from trainer.config import DiffusionConfig
from trainer.diffusion.schedule import draw_times, masking_rate


def mask_tokens(rates: tf.Tensor, labelled: tf.Tensor, tokens: int, seed: tf.Tensor) -> tf.Tensor:
    """Masks each token that there is with its sample's rate, and at least one of them in every sample.

        M_k = 1  iff  u_k < rate or u_k = min_j u_j,   u_k ~ U(0, 1),   u_{N+1} = 1 for the label of a sample without one

    The minimum is masked anyway unless nothing else is, so the second condition only mends empty masks.

    Args:
      rates: float [B].
      labelled: bool [B], whether the sample has a label, which is the last token.
      tokens: N + 1.
      seed: int [2]; equal seeds give equal masks.

    Returns:
      bool [B, N+1], True where corrupted, so that there is something to predict.
    """
    uniform = tf.random.stateless_uniform((tf.shape(rates)[0], tokens), seed)  # (B, N+1)
    of_labels = tf.where(labelled[:, tf.newaxis], uniform[:, -1:], 1.0)
    uniform = tf.concat([uniform[:, :-1], of_labels], axis=1)
    return (uniform < rates[:, tf.newaxis]) | (uniform <= tf.reduce_min(uniform, axis=1, keepdims=True))


def corrupt(config: DiffusionConfig, labelled: tf.Tensor, tokens: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws t, then the mask bool [B, tokens] of q(x^t | x^0): P(M_k = 1 | t) = lambda(t), tokens independent.

    Args:
      labelled, tokens: see `mask_tokens`.
      seed: int [2].
    """
    time_seed, mask_seed = tf.unstack(tf.random.split(seed, 2))
    times = draw_times(config, tf.shape(labelled)[0], tokens, time_seed)
    return mask_tokens(masking_rate(config, times), labelled, tokens, mask_seed)
