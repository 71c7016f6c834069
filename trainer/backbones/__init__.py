"""Backbones by name. A backbone maps tokens [B, N+1, d] to a hidden state that the scoring functions read.

The hidden state is [B, N+1, h], one vector a token, or [B, h], one vector that all scoring functions share: a network on
the concatenated tokens (DCN-V2, MLP) has no separate state per token, and repeating it N+1 times would only cost memory.

Dropout is drawn from `seed`, int [2], and left out where there is none; `training` chooses the moments of batch normalisation.
"""

import tensorflow as tf

from trainer.backbones.dcn import DcnBackbone
from trainer.backbones.mlp import MlpBackbone
from trainer.backbones.stream import HstuBackbone, TransformerBackbone
from trainer.config import ModelConfig

BACKBONES = {"dcn": DcnBackbone, "hstu": HstuBackbone, "transformer": TransformerBackbone, "mlp": MlpBackbone}


def build_backbone(config: ModelConfig, dropout_rate: float) -> tf.keras.layers.Layer:
    """The backbone that `config.backbone` names, with its section of the configuration and the dropout of the stage."""
    return BACKBONES[config.backbone](getattr(config, config.backbone), dropout_rate, name="backbone")
