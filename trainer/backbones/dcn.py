"""DCN-V2 on the concatenated tokens: cross layers beside a deep tower."""

import tensorflow as tf

from trainer.backbones.tower import DeepTower
from trainer.config import DcnConfig
from trainer.products import Cross

EPSILON = 1e-8  # the variance of embeddings that have just been drawn with `embedding_init: 0.0001`


class DcnBackbone(tf.keras.layers.Layer):
    """Parallel DCN-V2.

        h = [h_1; ...; h_{N+1}]                       concatenated tokens, (N+1) d wide
        x_0 = LayerNorm(h)                            h itself with `layer_norm: false`, as published
        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l         cross tower, l = 0..L-1
        y_D = DeepTower(h)                            deep tower
        output [x_L; y_D]

    A cross layer adds products of its inputs. Embeddings that a decay keeps near 0.01 have products near 0.0001, which say nothing
    beside x_l; of inputs of unit length all powers count.

    Shapes: tokens [B, N+1, d] -> [B, (N+1) d + last hidden width].
    Source: arXiv 2008.13535, equations 1 and 6 (parallel structure).
    """

    def __init__(self, config: DcnConfig, dropout_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._norm = tf.keras.layers.LayerNormalization(epsilon=EPSILON) if config.layer_norm and config.cross_layers else None
        self._crosses = [Cross() for _ in range(config.cross_layers)]
        self._deep = DeepTower(config.hidden_units, config.batch_norm, dropout_rate) if config.hidden_units else None

    def call(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        start = tf.reshape(tokens, (-1, tokens.shape[1] * tokens.shape[2]))  # (B, (N+1) d)
        towers = [self._crossed(self._norm(start) if self._norm else start)] * bool(self._crosses)
        if self._deep:
            towers.append(self._deep(start, training=training, seed=seed))
        return tf.concat(towers, axis=1)  # (B, h)

    def _crossed(self, start: tf.Tensor) -> tf.Tensor:
        crossed = start
        for cross in self._crosses:
            crossed = cross(start, crossed)
        return crossed
