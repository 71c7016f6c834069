"""Matrix products of the network, which training may compute in bfloat16, and the dense layers that consist of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf
import tensorflow_recommenders as tfrs

_in_bfloat16: ContextVar[bool] = ContextVar("products in bfloat16", default=False)


@contextmanager
def bfloat16_products(enabled: bool = True) -> Iterator[None]:
    """Products of this module that are traced inside round to bfloat16, where `enabled`; those outside are float32."""
    token = _in_bfloat16.set(enabled)
    try:
        yield
    finally:
        _in_bfloat16.reset(token)


def matmul(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """x @ kernel: [..., m, k] x [..., k, n] -> [..., m, n], float32.

    Inside `bfloat16_products` operands, results and gradients of the product are rounded to bfloat16 (8 significant bits)
    and sums are kept in float32. Everything between two products stays float32: in bfloat16 it would lose accuracy, and
    on a CPU time.
    """
    return _rounded_matmul(x, tf.convert_to_tensor(kernel)) if _in_bfloat16.get() else tf.matmul(x, kernel)


def _rounded(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.bfloat16)


@tf.custom_gradient
def _rounded_matmul(x: tf.Tensor, kernel: tf.Tensor):
    x, kernel = _rounded(x), _rounded(kernel)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        upstream = _rounded(upstream)
        of_x = tf.matmul(upstream, kernel, transpose_b=True)
        of_kernel = tf.matmul(x, upstream, transpose_a=True)
        return tf.cast(of_x, tf.float32), tf.cast(of_kernel, tf.float32)

    return tf.cast(tf.matmul(x, kernel), tf.float32), gradient


class Dense(tf.keras.layers.Dense):
    """Keras' dense layer with `matmul` as its product: [..., k] -> [..., n]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if not _in_bfloat16.get():
            return super().call(inputs)
        outputs = matmul(tf.reshape(inputs, (-1, inputs.shape[-1])), self.kernel)
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        outputs = tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
        return self.activation(tf.ensure_shape(outputs, [*inputs.shape[:-1], self.units]))


class Cross(tfrs.layers.dcn.Cross):
    """x_0 * (W x + b) + x, the cross layer of TensorFlow Recommenders with our `Dense` inside."""

    def __init__(self, **kwargs):
        super().__init__(kernel_initializer="glorot_uniform", **kwargs)

    def build(self, input_shape: tf.TensorShape) -> None:
        super().build(input_shape)
        self._dense = Dense(input_shape[-1], kernel_initializer="glorot_uniform")
