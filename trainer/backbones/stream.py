"""A stream of tokens through blocks that attend: what HSTU and the transformer share."""

import tensorflow as tf

from trainer.backbones.hstu import HstuBlock
from trainer.backbones.transformer import TransformerBlock
from trainer.config import HstuConfig, TransformerConfig
from trainer.layers import layer_seed
from trainer.products import Dense


class _StreamBackbone(tf.keras.layers.Layer):
    """A linear map to the stream's width, residual blocks, a closing layer norm. [B, N+1, d] -> [B, N+1, width].

    Tokens have no positions: what field one belongs to is in its field embedding. With `query_scales`, float [N+1], each block
    multiplies the queries of each token by its scale.
    """

    block: type[tf.keras.layers.Layer]

    def __init__(self, config: HstuConfig | TransformerConfig, dropout_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._widen = Dense(config.width)
        self._blocks = [self.block(config, dropout_rate) for _ in range(config.layers)]
        self._norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)

    def call(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None,
             query_scales: tf.Tensor | None = None) -> tf.Tensor:
        x = self._widen(tokens)
        for number, block in enumerate(self._blocks):
            x = block(x, seed=layer_seed(seed, number), query_scales=query_scales)
        return self._norm(x)


class HstuBackbone(_StreamBackbone):
    """HSTU blocks (`trainer.backbones.hstu`)."""

    block = HstuBlock


class TransformerBackbone(_StreamBackbone):
    """Pre-norm transformer blocks (`trainer.backbones.transformer`)."""

    block = TransformerBlock
