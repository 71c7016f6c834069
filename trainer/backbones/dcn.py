"""DCN-V2 on the concatenated tokens: cross layers beside a deep tower."""

import tensorflow as tf

from trainer.config import DcnConfig
from trainer.layers import BatchNorm, dropout, layer_seed
from trainer.products import Cross, Dense

# One step in ten weighs the running statistics: an epoch of a small log has only tens of steps.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


class DcnBackbone(tf.keras.layers.Layer):
    """Parallel DCN-V2.

        x_0 = [h_1; ...; h_{N+1}]                     concatenated tokens, (N+1) d wide
        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l         cross tower, l = 0..L-1
        y_{l+1} = Dropout(ReLU(BN(V_l y_l)))          deep tower, y_0 = x_0; V_l y_l + c_l without BN
        output [x_L; y_D]

    Shapes: tokens [B, N+1, d] -> [B, (N+1) d + last hidden width].
    Source: arXiv 2008.13535, equations 1 and 6 (parallel structure).
    """

    def __init__(self, config: DcnConfig, dropout_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._crosses = [Cross() for _ in range(config.cross_layers)]
        self._dropout_rate = dropout_rate
        self._deep = [Dense(units, use_bias=not config.batch_norm) for units in config.hidden_units]
        self._norms = [BatchNorm(**BATCH_NORM) for _ in config.hidden_units] if config.batch_norm else []

    def call(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        start = tf.reshape(tokens, (-1, tokens.shape[1] * tokens.shape[2]))  # (B, (N+1) d)
        crossed = start
        for cross in self._crosses:
            crossed = cross(start, crossed)
        deep = start
        for number, layer in enumerate(self._deep):
            deep = layer(deep)
            if self._norms:
                deep = self._norms[number](deep, training=training)
            deep = dropout(tf.nn.relu(deep), self._dropout_rate, layer_seed(seed, number))
        towers = [crossed] * bool(self._crosses) + [deep] * bool(self._deep)
        return tf.concat(towers, axis=1)  # (B, h)
