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


def mean_masking_rate(config: DiffusionConfig, tokens: int) -> tf.Tensor:
    """E lambda(t) over the times of a sample of so many tokens, scalar."""
    if config.time == "discrete":
        return tf.reduce_mean(masking_rate(config, tf.range(1, tokens + 1, dtype=tf.float32) / tokens))
    return tf.constant({"linear": 0.5, "cosine": 1.0 - 2.0 / math.pi}[config.schedule])


def draw_times(config: DiffusionConfig, batch: tf.Tensor, tokens: int, seed: tf.Tensor) -> tf.Tensor:
    """One t a sample, float [batch]: uniform over {1/T, ..., 1} with T = tokens, or over (0, 1].

    Stratified, t_i = (pi(i) + u_i) / B with a random order pi of 0..B-1 and u_i ~ U(0, 1]: each t is distributed as before, and the
    mean over a batch varies less. Discrete times are these, rounded up to multiples of 1/T.
    """
    uniform = 1.0 - tf.random.stateless_uniform([batch], seed)  # in (0, 1]
    if config.stratified:
        order = tf.random.experimental.stateless_shuffle(tf.range(batch), tf.random.experimental.stateless_fold_in(seed, 1))
        uniform = (tf.cast(order, tf.float32) + uniform) / tf.cast(batch, tf.float32)
    return tf.math.ceil(uniform * tokens) / tokens if config.time == "discrete" else uniform
