"""Tensors of the protocol to numpy arrays and back, as TensorFlow Serving writes them."""

import functools
import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.status import invalid

_VALUE_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
    **dict.fromkeys(
        (types_pb2.DT_INT32, types_pb2.DT_INT16, types_pb2.DT_INT8, types_pb2.DT_UINT16, types_pb2.DT_UINT8), "int_val"
    ),
}


def to_array(key: str, proto: tensor_pb2.TensorProto, max_bytes: int) -> np.ndarray:
    """A tensor of a request as an array; texts are bytes in an object array.

    Args:
      key: the input's name, for the messages.
      proto: the tensor; its dtype has been checked.
      max_bytes: the most memory that it may take: a proto of a few bytes can stand for any number of equal values, or of rows
        without any.

    Raises:
      StatusError: INVALID_ARGUMENT where the proto is no whole tensor, or too large a one.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid(f"tensor parsing error: {key}: a tensor needs a known shape, received {shape}")
    # What is computed of a tensor without values may have as many rows as it: a dimension of 0 counts as 1.
    size = math.prod(max(dimension, 1) for dimension in shape) * _numpy_dtype(proto.dtype).itemsize
    if size > max_bytes:
        raise invalid(
            f"tensor parsing error: {key}: shape {shape} counts as {size} bytes, more than the {max_bytes} that a request may have"
        )
    try:
        return _values(proto, shape, math.prod(shape))
    except (TypeError, ValueError) as error:
        raise invalid(f"tensor parsing error: {key}: {error}") from error


def _values(proto: tensor_pb2.TensorProto, shape: list[int], count: int) -> np.ndarray:
    """The same as `tf.make_ndarray`, which takes twice as long for what clients usually send."""
    if proto.dtype == types_pb2.DT_STRING and len(proto.string_val) == count:
        texts = np.empty(count, object)
        texts[:] = proto.string_val
        return texts.reshape(shape)
    if proto.dtype != types_pb2.DT_STRING and proto.tensor_content:
        return np.frombuffer(proto.tensor_content, _numpy_dtype(proto.dtype)).reshape(shape).copy()
    return tf.make_ndarray(proto)


@functools.cache
def _numpy_dtype(dtype: int) -> np.dtype:
    return np.dtype(tf.DType(dtype).as_numpy_dtype)


def fill_proto(proto: tensor_pb2.TensorProto, values: np.ndarray, dtype: int) -> None:
    """Writes an array into an empty proto, values into their typed field, where clients in any language look for them.

    Args:
      dtype: a number of `types_pb2`, which says more than the array: texts are objects to numpy.
    """
    if dtype not in _VALUE_FIELDS:
        proto.CopyFrom(tf.make_tensor_proto(values, dtype=dtype))
        return
    values = np.asarray(values)  # a scalar text comes as bytes
    proto.dtype = dtype
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, _VALUE_FIELDS[dtype]).extend(values.ravel().tolist())
