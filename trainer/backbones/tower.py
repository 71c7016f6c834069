"""The deep tower of DCN-V2, of the MLP backbone and of the baselines."""

from collections.abc import Sequence

import tensorflow as tf

from trainer.folding import folded
from trainer.layers import BatchNorm, dropout, layer_seed
from trainer.products import Dense

# One step in ten weighs the running statistics: an epoch of a small log has only tens of steps.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


class DeepTower(tf.keras.layers.Layer):
    """Hidden layers with optional batch normalisation.

        y_{l+1} = Dropout(ReLU(BN(V_l y_l)))          V_l y_l + c_l without BN

    `tfrs.layers.blocks.MLP` is these layers without normalisation, dropout and products in bfloat16.

    Args:
      hidden_units: widths of the layers; none of them leaves the input as it is.
      batch_norm: whether each layer is normalised over the batch, before its activation.
      dropout_rate: share of each layer's outputs that are set to zero in training.

    Shapes: [B, k] -> [B, last width].
    """

    def __init__(self, hidden_units: Sequence[int], batch_norm: bool, dropout_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._dropout_rate = dropout_rate
        self._dense = [Dense(units, use_bias=not batch_norm) for units in hidden_units]
        self._norms = [BatchNorm(**BATCH_NORM) for _ in hidden_units] if batch_norm else []

    def call(self, x: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        for number in range(len(self._dense)):
            x = tf.nn.relu(self._product(number, x, training))
            x = dropout(x, self._dropout_rate, layer_seed(seed, number))
        return x

    def _product(self, number: int, x: tf.Tensor, training: bool) -> tf.Tensor:
        """BN(V x), or V x + c without BN."""
        dense = self._dense[number]
        if not self._norms:
            return dense(x)
        norm = self._norms[number]
        one = None if training else folded(dense, norm)
        if one is not None:
            kernel, bias = one
            return tf.nn.bias_add(tf.matmul(x, kernel), bias)
        return norm(dense(x), training=training)
