"""DCN-V2 on the concatenated tokens: cross layers beside a deep tower."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.config import DcnConfig

# One step in ten weighs the running statistics: an epoch of a small log has only tens of steps.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


class DcnBackbone(tf.keras.layers.Layer):
    """Parallel DCN-V2.

        x_0 = [h_1; ...; h_{N+1}]                     concatenated tokens, (N+1) d wide
        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l         cross tower, l = 0..L-1
        y_{l+1} = Dropout(ReLU(BN(V_l y_l + c_l)))    deep tower, y_0 = x_0
        output [x_L; y_D]

    Shapes: tokens [B, N+1, d] -> [B, (N+1) d + last hidden width].
    Source: arXiv 2008.13535, equations 1 and 6 (parallel structure).
    """

    def __init__(self, config: DcnConfig, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self._crosses = [tfrs.layers.dcn.Cross(kernel_initializer="glorot_uniform") for _ in range(config.cross_layers)]
        self._deep = []
        for units in config.hidden_units:
            self._deep.append(tf.keras.layers.Dense(units))
            if config.batch_norm:
                self._deep.append(tf.keras.layers.BatchNormalization(**BATCH_NORM))
            self._deep += [tf.keras.layers.ReLU(), tf.keras.layers.Dropout(dropout)]

    def call(self, tokens: tf.Tensor, training: bool = False) -> tf.Tensor:
        start = tf.reshape(tokens, (-1, tokens.shape[1] * tokens.shape[2]))  # (B, (N+1) d)
        crossed = start
        for cross in self._crosses:
            crossed = cross(start, crossed)
        deep = start
        for layer in self._deep:
            deep = layer(deep, training=training)
        towers = [crossed] * bool(self._crosses) + [deep] * bool(self._deep)
        return tf.concat(towers, axis=1)  # (B, h)
