"""What the networks of all baselines have in common: the bias of the click logit."""

from abc import abstractmethod

import tensorflow as tf

from preprocessing.schema import Schema
from trainer.config import Config


class ClickNetwork(tf.keras.layers.Layer):
    """The click logit of a sample's embedded features.

        logit = b + f(e_1, ..., e_F)

    b starts at the log-odds of the training click rate, as an untrained f is nearly zero.

    Args:
      schema: a resolved schema.
      config: the run's configuration.
      click_rate: training click rate, in (0, 1).

    Shapes: [B, F, w] -> [B]; w is `config.model.table_width`.
    """

    def __init__(self, schema: Schema, config: Config, click_rate: float, **kwargs):
        super().__init__(**kwargs)
        log_odds = float(tf.math.log(click_rate / (1.0 - click_rate)))
        self.bias = self.add_weight("bias", (), initializer=tf.keras.initializers.Constant(log_odds))

    @abstractmethod
    def score(self, values: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        """f of embeddings [B, F, w]: float [B]."""

    def call(self, values: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        return self.bias + self.score(values, training, seed)


def concatenated(values: tf.Tensor) -> tf.Tensor:
    """[B, F, w] -> [B, F w]."""
    return tf.reshape(values, (-1, values.shape[1] * values.shape[2]))
