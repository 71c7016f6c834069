"""A multi-layer perceptron on the concatenated tokens."""

import tensorflow as tf

from trainer.backbones.tower import DeepTower
from trainer.config import MlpConfig


class MlpBackbone(DeepTower):
    """The deep tower alone: [B, N+1, d] -> [B, last hidden width]."""

    def __init__(self, config: MlpConfig, dropout_rate: float, **kwargs):
        super().__init__(config.hidden_units, config.batch_norm, dropout_rate, **kwargs)

    def call(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        start = tf.reshape(tokens, (-1, tokens.shape[1] * tokens.shape[2]))  # (B, (N+1) d)
        return super().call(start, training, seed)
