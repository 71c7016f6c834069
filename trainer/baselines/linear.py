"""Baselines with a weight for every value: logistic regression, factorization machine, DeepFM.

A value's weight w(x_k) is one more column of the shared table, the last one, so that weight and embedding come from one
gather, and lazy updates and decay hold for both.
"""

import tensorflow as tf

from preprocessing.schema import Schema
from trainer.backbones.tower import DeepTower
from trainer.baselines.network import ClickNetwork, concatenated
from trainer.config import Config
from trainer.products import Dense


class LogisticRegression(ClickNetwork):
    """logit = b + sum_k w(x_k). The table has this one column."""

    def score(self, values: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        return tf.reduce_sum(values, axis=(1, 2))


class FactorizationMachine(ClickNetwork):
    """Second-order factorization machine.

        logit = b + sum_k w(x_k) + sum_{i<j} v_i . v_j
        sum_{i<j} v_i . v_j = (|sum_k v_k|^2 - sum_k |v_k|^2) / 2

    By the second line it takes F d operations a sample instead of the F^2 d of `tfrs.layers.feature_interaction.DotInteraction`,
    which gives every pair for itself.

    Source: S. Rendle, Factorization Machines, ICDM 2010, equation 1 and lemma 3.1.
    """

    def score(self, values: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        vectors, weights = values[..., :-1], values[..., -1]  # (B, F, d), (B, F)
        pairs = tf.square(tf.reduce_sum(vectors, axis=1)) - tf.reduce_sum(tf.square(vectors), axis=1)  # (B, d)
        return tf.reduce_sum(weights, axis=1) + tf.reduce_sum(pairs, axis=1) / 2


class DeepFm(FactorizationMachine):
    """A factorization machine beside a deep tower on the same embeddings.

        logit = logit_FM + u . DeepTower([v_1; ...; v_F])

    Source: arXiv 1703.04247, equation 1.
    """

    def __init__(self, schema: Schema, config: Config, click_rate: float, **kwargs):
        super().__init__(schema, config, click_rate, **kwargs)
        settings = config.model.mlp
        self._deep = DeepTower(settings.hidden_units, settings.batch_norm, config.finetune.dropout)
        self._head = Dense(1, use_bias=False)

    def score(self, values: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        deep = self._deep(concatenated(values[..., :-1]), training=training, seed=seed)
        return super().score(values, training, seed) + self._head(deep)[:, 0]
