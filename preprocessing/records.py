"""Rows to serialized `tf.train.Example` records, a batch at a time.

Features stand in a fixed order, so that equal rows are equal bytes. (The C++ coder of tfx_bsl and Python's protobuf
write map entries in an order that changes from record to record.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.encoded import Encoded
from preprocessing.rows import Rows

# Tags of the messages: field number << 3 | wire type 2 (length-delimited).
_FIRST = b"\x0a"  # Example.features, Features.feature, the map's key, the one member `value` of each kind of list
_SECOND = b"\x12"  # the map's value
_BYTES_LIST = b"\x0a"
_FLOAT_LIST = b"\x12"
_INT64_LIST = b"\x1a"

_TABLE_BITS = 21  # of the integers whose varints are looked up instead of computed: at most 16 MB

Feature = np.ndarray | tuple[np.ndarray, np.ndarray] | pa.Array


def serialize_records(encoded: Encoded, rows: Rows) -> pa.Array:
    """Serializes rows: what the transform graph gave, and label, group, time stamp, key and weight.

    Returns:
      A large_binary array [rows] of serialized `tf.train.Example`. A row without label has no feature `label`, and an
      empty list no feature either.
    """
    labelled = rows.label >= 0
    features: dict[str, Feature] = {
        "ids": encoded.ids, "values": encoded.values, "label": (rows.label[labelled], labelled.astype(np.int64)),
    }
    scalars = {"group": rows.group, "timestamp": rows.timestamp, "weight": rows.weight}
    features |= {name: column[:, None] for name, column in scalars.items() if column is not None}
    if rows.key is not None:
        features["key"] = rows.key
    features |= encoded.lists
    for name, (vector, missing) in encoded.vectors.items():
        features |= {name: vector, f"{name}_missing": missing[:, None]}
    features |= {name: row[:, None] for name, row in encoded.vector_rows.items()}
    return serialize_features(features)


def serialize_features(features: Mapping[str, Feature]) -> pa.Array:
    """Serializes columns.

    Args:
      features: by name, all of as many rows: an array [rows, n] of integers or floats; or (values of all rows one after
        another, int64 [rows] of them a row), absent where a row has none; or an array of texts, one a row.

    Returns:
      A large_binary array [rows] of serialized `tf.train.Example`.
    """
    entries = [_entry(name, feature) for name, feature in features.items()]
    sizes = sum(entry.sizes for entry in entries)
    heads = _by_size(sizes, lambda size: _FIRST + _varint(size))
    return _joined(heads, *(part for entry in entries for part in (entry.heads, entry.payloads)))


@dataclass
class _Entry:
    """One feature of all rows: what stands before its values, its values, and the bytes of both."""

    heads: pa.Array
    payloads: pa.Array
    sizes: np.ndarray


def _entry(name: str, feature: Feature) -> _Entry:
    if isinstance(feature, pa.Array):
        payloads, kind, may_be_absent = feature.cast(pa.large_binary()), _BYTES_LIST, False
    elif isinstance(feature, tuple):
        (payloads, kind), may_be_absent = _packed(*feature), True
    else:
        (payloads, kind), may_be_absent = _packed(feature.ravel(), np.full(len(feature), feature.shape[1])), False

    def head(size: int) -> bytes:
        """Everything of the map's entry that stands before a payload of this size."""
        if may_be_absent and not size:
            return b""
        one_value = _FIRST + _varint(size)
        one_list = kind + _varint(len(one_value) + size) + one_value
        value = _SECOND + _varint(len(one_list) + size) + one_list
        key = _FIRST + _varint(len(name)) + name.encode()
        return _FIRST + _varint(len(key) + len(value) + size) + key + value

    payload_sizes = pc.binary_length(payloads).to_numpy()
    heads = _by_size(payload_sizes, head)
    return _Entry(heads, payloads, pc.binary_length(heads).to_numpy() + payload_sizes)


def _by_size(sizes: np.ndarray, make: Callable[[int], bytes]) -> pa.Array:
    """What `make` makes of each row's size; called once a different size."""
    different = np.flatnonzero(np.bincount(sizes))
    place = np.searchsorted(different, sizes)
    return pa.array([make(int(size)) for size in different], pa.large_binary()).take(pa.array(place))


def _joined(*parts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def _packed(values: np.ndarray, counts: np.ndarray) -> tuple[pa.Array, bytes]:
    """The values of each row packed into bytes, and the tag of their kind of list."""
    rows = np.concatenate([[0], np.cumsum(counts)])  # where each row's values start
    if values.dtype.kind == "f":
        data = np.ascontiguousarray(values, "<f4")
        return _slices(data, 4 * rows), _FLOAT_LIST
    encoded = _varints(values)
    return _slices(encoded.buffers()[2], np.frombuffer(encoded.buffers()[1], np.int64)[rows]), _INT64_LIST


def _slices(data: np.ndarray | pa.Buffer, offsets: np.ndarray) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _varint(value: int) -> bytes:
    return _varints(np.array([value]))[0].as_py()


def _varints(values: np.ndarray) -> pa.Array:
    """Each integer as a base-128 varint (a negative one: ten bytes, as two's complement): large_binary [values]."""
    bits = int(values.max(initial=0)).bit_length()
    if bits <= _TABLE_BITS and values.min(initial=0) >= 0:
        return _varint_table(bits).take(pa.array(values))
    return _computed_varints(values)


@lru_cache
def _varint_table(bits: int) -> pa.Array:
    return _computed_varints(np.arange(1 << bits))


def _computed_varints(values: np.ndarray) -> pa.Array:
    """Groups of 7 bits from the lowest, each with a bit that says if more follow."""
    left = values.astype(np.int64).view(np.uint64)
    sizes = np.ones(len(left), np.int64)
    for shift in range(7, int(left.max(initial=0)).bit_length(), 7):
        sizes += left >= np.uint64(1 << shift)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    data, place = np.empty(offsets[-1], np.uint8), offsets[:-1]
    while len(left):
        more = left > 0x7F
        data[place] = (left & np.uint64(0x7F)).astype(np.uint8) | (more.view(np.uint8) << 7)
        left, place = left[more] >> np.uint64(7), place[more] + 1
    return _slices(data, offsets)
