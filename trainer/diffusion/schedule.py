"""How much of a sample is masked at time t."""

import math

import tensorflow as tf

from trainer.config import DiffusionConfig


def masking_rate(config: DiffusionConfig, time: tf.Tensor) -> tf.Tensor:
    """lambda(t): the probability that a token is masked at time t, for t in (0, 1].

        linear   lambda(t) = t
        cosine   lambda(t) = 1 - cos(pi t / 2)
        fixed    lambda(t) = fixed_rate (no diffusion: the ablation)
    """
    if config.schedule == "linear":
        return time
    if config.schedule == "cosine":
        return 1.0 - tf.cos(0.5 * math.pi * time)
    return tf.fill(tf.shape(time), config.fixed_rate)


def draw_times(config: DiffusionConfig, batch: tf.Tensor, tokens: int, seed: tf.Tensor) -> tf.Tensor:
    """One t a sample, float [batch]: uniform over {1/T, ..., 1} with T = tokens, or over (0, 1]."""
    uniform = 1.0 - tf.random.stateless_uniform([batch], seed)  # in (0, 1]
    return tf.math.ceil(uniform * tokens) / tokens if config.time == "discrete" else uniform
