"""How TFRecord files frame a record: `length uint64 | crc of length | data | crc of data`, little-endian, crcs masked CRC-32C.

Source: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from functools import lru_cache
from typing import NamedTuple, TypeVar

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Integers = TypeVar("Integers", int, np.ndarray)

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data`, rotated and shifted, so that a record may hold records with their checksums."""
    return _masked(google_crc32c.value(data))


def _masked(crcs: Integers) -> Integers:
    return ((crcs >> 15 | crcs << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(records: pa.Array) -> pa.Buffer | bytes:
    """The bytes of a TFRecord file with these records, a binary or large_binary array without nulls."""
    if not len(records):
        return b""
    lengths = pc.binary_length(records).to_numpy()
    distinct, place = np.unique(lengths, return_inverse=True)
    headers = pa.array([_header(int(length)) for length in distinct], pa.large_binary()).take(pa.array(place))
    crcs = np.fromiter(map(google_crc32c.value, records.to_pylist()), np.int64, len(records))
    ends = np.arange(len(records) + 1, dtype=np.int64) * _CHECKSUM.size
    footers = pa.Array.from_buffers(pa.large_binary(), len(records),
                                    [None, pa.py_buffer(ends), pa.py_buffer(_masked(crcs).astype("<u4"))])
    parts = (headers, records.cast(pa.large_binary()), footers, pa.scalar(b"", pa.large_binary()))
    size = int(lengths.sum()) + len(records) * (_LENGTH.size + 2 * _CHECKSUM.size)
    return pc.binary_join_element_wise(*parts).buffers()[2][:size]


@lru_cache(4096)
def _header(length: int) -> bytes:
    packed = _LENGTH.pack(length)
    return packed + _CHECKSUM.pack(masked_crc(packed))


class Unframed(NamedTuple):
    """The records that a stretch of a TFRecord file begins with.

    Attributes:
      records: up to the end of the stretch or a damaged length.
      sound: whether each agrees with its checksum, bool [records].
      end: the place behind the last one.
      damaged: whether a length behind them does not agree with its checksum, so that nothing behind it can be found.
    """

    records: list[bytes]
    sound: np.ndarray
    end: int
    damaged: bool


def unframed(data: bytes) -> Unframed:
    """Takes records out of their frames."""
    records, crcs, end, damaged = [], [], 0, False
    while end + _HEADER_BYTES <= len(data):
        header = data[end:end + _HEADER_BYTES]
        (length,) = _LENGTH.unpack_from(header)
        if header != _header(length):
            damaged = True
            break
        start = end + _HEADER_BYTES
        if start + length + _CHECKSUM.size > len(data):
            break
        records.append(data[start:start + length])
        crcs += _CHECKSUM.unpack_from(data, start + length)
        end = start + length + _CHECKSUM.size
    found = _masked(np.fromiter(map(google_crc32c.value, records), np.int64, len(records)))
    return Unframed(records, found == np.array(crcs, np.int64), end, damaged)
