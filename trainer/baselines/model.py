"""A discriminative click model: embeddings of the features, and a network that gives the click logit."""

import tensorflow as tf

from preprocessing.schema import Schema
from trainer.baselines import build_network
from trainer.batch import Batch, blank_features
from trainer.click_model import ClickModel, Features
from trainer.config import Config
from trainer.embedding import FeatureEmbedding


class Baseline(ClickModel):
    """p(click | features) = sigmoid(network(e(x_1), ..., e(x_F))), trained by fine-tuning's loss from random parameters.

    Args:
      schema: a resolved schema.
      config: the run's configuration; `model.kind` names the network.
      click_rate: training click rate; where the logit's bias starts.
    """

    def __init__(self, schema: Schema, config: Config, click_rate: float = 0.5):
        super().__init__(schema, config, "finetune")
        self.embedding = FeatureEmbedding(
            schema, config.model.table_width, config.model.embedding_init, config.model.interest, name="embedding")
        self.network = build_network(schema, config, min(max(click_rate, 1e-6), 1 - 1e-6))
        self._compiled_network = tf.function(self.network, jit_compile=True)
        self.network(self.embedding.values(blank_features(schema)))  # creates its variables

    @property
    def parts(self) -> tuple[tf.keras.layers.Layer, ...]:
        return self.embedding, self.network

    def raw_click_logits(self, features: Features) -> tf.Tensor:
        """logit of p(click | features), float [B]."""
        return self.network(self.embedding.values(features))

    def training_click_logits(self, batch: Batch) -> tf.Tensor:
        """Click logits [B] with dropout."""
        network = self._compiled_network if self.run_config.runtime.xla else self.network
        return network(self.embedding.values(batch), training=True, seed=batch["seed"])
