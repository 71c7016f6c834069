"""Rows to serialized `tf.train.Example` records, a batch at a time.

Features stand in a fixed order, so that equal rows are equal bytes. (The C++ coder of tfx_bsl and Python's protobuf
write map entries in an order that changes from record to record.)
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Tags of the messages: field number << 3 | wire type 2 (length-delimited).
_FIRST = b"\x0a"  # Example.features, Features.feature, the map's key, Int64List.value, FloatList.value
_ENTRY_VALUE = b"\x12"
_FLOAT_LIST = b"\x12"
_INT64_LIST = b"\x1a"


def serialize_records(ids: np.ndarray, values: np.ndarray, label: np.ndarray,
                      group: np.ndarray | None, timestamp: np.ndarray | None) -> pa.Array:
    """Serializes rows.

    Args:
      ids: int64 [rows, F], not negative.
      values: float32 [rows, numeric].
      label: int64 [rows]; group: int64 [rows], not negative, or None; timestamp: float [rows] or None.

    Returns:
      A binary array [rows] of serialized `tf.train.Example`.
    """
    features = [_feature("ids", _INT64_LIST, _varints(ids))]
    features.append(_feature("values", _FLOAT_LIST, _floats(values)))
    features.append(_feature("label", _INT64_LIST, _varints(label[:, None])))
    if group is not None:
        features.append(_feature("group", _INT64_LIST, _varints(group[:, None])))
    if timestamp is not None:
        features.append(_feature("timestamp", _FLOAT_LIST, _floats(timestamp[:, None])))
    return _delimited(_FIRST, _concatenated(*features))


def _feature(name: str, list_tag: bytes, packed: pa.Array) -> pa.Array:
    key = _FIRST + bytes([len(name)]) + name.encode()
    feature = _delimited(list_tag, _delimited(_FIRST, packed))
    return _delimited(_FIRST, _concatenated(pa.scalar(key, pa.binary()), _delimited(_ENTRY_VALUE, feature)))


def _concatenated(*parts: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*parts, b"")


def _delimited(tag: bytes, payload: pa.Array) -> pa.Array:
    """Tag, length as a varint, payload."""
    lengths = pc.binary_length(payload).to_numpy()
    distinct, place = np.unique(lengths, return_inverse=True)
    return _concatenated(pa.scalar(tag, pa.binary()), _varints(distinct[:, None]).take(pa.array(place)), payload)


def _floats(values: np.ndarray) -> pa.Array:
    packed = np.ascontiguousarray(values, "<f4")
    return _slices(packed.tobytes(), np.full(len(values), 4 * values.shape[1]))


def _varints(values: np.ndarray) -> pa.Array:
    """Each row's integers as base-128 varints one after another: groups of 7 bits from the lowest, then more or not."""
    bits = max(1, int(values.max(initial=0)).bit_length())
    integer = np.uint32 if bits <= 32 else np.uint64
    shifts = np.arange(0, bits, 7, dtype=integer)
    parts = values.astype(integer).reshape(-1, 1) >> shifts  # [integers, groups]
    more = np.zeros(parts.shape, bool)
    more[:, :-1] = parts[:, 1:] > 0
    used = np.ones(parts.shape, bool)
    used[:, 1:] = more[:, :-1]
    encoded = (parts & integer(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
    sizes = used.sum(axis=1).reshape(values.shape).sum(axis=1)
    return _slices(encoded[used].tobytes(), sizes)


def _slices(data: bytes, sizes: np.ndarray) -> pa.Array:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
