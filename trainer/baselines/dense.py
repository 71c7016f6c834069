"""Baselines that are a backbone of `trainer.backbones` on the features alone, with a linear head."""

import tensorflow as tf

from preprocessing.schema import Schema
from trainer.backbones.dcn import DcnBackbone
from trainer.backbones.mlp import MlpBackbone
from trainer.baselines.network import ClickNetwork
from trainer.config import Config
from trainer.products import Dense


class _BackboneAndHead(ClickNetwork):
    """logit = b + u . Backbone(e_1, ..., e_F)."""

    def __init__(self, schema: Schema, config: Config, click_rate: float, backbone: tf.keras.layers.Layer, **kwargs):
        super().__init__(schema, config, click_rate, **kwargs)
        self._backbone = backbone
        self._head = Dense(1, use_bias=False)

    def score(self, values: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        return self._head(self._backbone(values, training=training, seed=seed))[:, 0]


class DcnV2(_BackboneAndHead):
    """DCN-V2 with cross layers parallel to the deep tower (arXiv 2008.13535); its section is `model.dcn`, without `layer_norm`."""

    def __init__(self, schema: Schema, config: Config, click_rate: float, **kwargs):
        as_published = config.model.dcn.model_copy(update={"layer_norm": False})
        super().__init__(schema, config, click_rate, DcnBackbone(as_published, config.finetune.dropout), **kwargs)


class Mlp(_BackboneAndHead):
    """A multi-layer perceptron on the concatenated embeddings; its section is `model.mlp`."""

    def __init__(self, schema: Schema, config: Config, click_rate: float, **kwargs):
        super().__init__(schema, config, click_rate, MlpBackbone(config.model.mlp, config.finetune.dropout), **kwargs)
