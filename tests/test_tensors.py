"""Tensors of a request as arrays: the quick ways give what TensorFlow's own conversion gives."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.status import StatusError
from serving.server.tensors import to_array


def typed(dtype, shape, **values):
    """A proto with its values in their typed field, as clients in other languages write them."""
    proto = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(("proto", "expected"), [
    (tf.make_tensor_proto([[b"a", b""], [b"b\x00", "\u65e5".encode()]]), [[b"a", b""], [b"b\x00", "\u65e5".encode()]]),
    (tf.make_tensor_proto([b"\x00", b"\x00\x00"]), [b"\x00", b"\x00\x00"]),
    (tf.make_tensor_proto(b"alone"), b"alone"),
    (tf.make_tensor_proto([], tf.string), []),
    (tf.make_tensor_proto(np.empty([2, 0], object), tf.string), [[], []]),
    (typed(types_pb2.DT_STRING, [3], string_val=[b"a"]), [b"a"] * 3),
    (tf.make_tensor_proto([[1.5, float("inf")]], tf.float32), [[1.5, float("inf")]]),
    (tf.make_tensor_proto([2**40, -1], tf.int64), [2**40, -1]),
    (tf.make_tensor_proto(np.array([True, False])), [True, False]),
    (tf.make_tensor_proto(np.array([1.0, 2.0], tf.bfloat16.as_numpy_dtype)), [1.0, 2.0]),
    (tf.make_tensor_proto(0.25, tf.float64), 0.25),
    (tf.make_tensor_proto(np.zeros([0, 2], np.float32)), np.zeros([0, 2])),
    (typed(types_pb2.DT_FLOAT, [2, 2], float_val=[1.0, 2.0, 3.0, 4.0]), [[1.0, 2.0], [3.0, 4.0]]),
    (typed(types_pb2.DT_INT64, [3], int64_val=[7]), [7, 7, 7]),
])  # fmt: skip
def test_values_dtype_and_shape_are_those_of_tensorflow(proto, expected):
    array, same = to_array("x", proto, 1000), tf.make_ndarray(proto)
    assert (array.dtype, array.shape) == (same.dtype, same.shape) == (same.dtype, np.shape(expected))
    assert array.tolist() == same.tolist() == np.asarray(expected, same.dtype).tolist()
    assert array.flags.writeable


@pytest.mark.parametrize("shape", [[2**33, 0], [0, 2**33], [2**20, 2**13, 0], [2**62, 2**62, 0], [251]])
def test_a_shape_beyond_the_limit_is_refused_though_a_dimension_is_zero(shape):
    size = 4 * math.prod(max(dimension, 1) for dimension in shape)
    with pytest.raises(StatusError, match=rf"x: shape .* counts as {size} bytes, more than the 1000 that a request may have"):
        to_array("x", typed(types_pb2.DT_FLOAT, shape), 1000)
