"""TFRecord files of `tf.train.Example`, plain or gzipped: batches of lists of bytes, int64 or float.

What can be counted is rejected: a record that does not agree with its checksum, is no Example, or holds a feature of
another type than the records before it. What cannot be counted is an error: behind the end of a truncated file, or a
length that does not agree with its checksum, nobody knows how many rows are lost, and so no share of them can be allowed.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.framing import unframed
from preprocessing.sources.blocks import opened, readable
from preprocessing.sources.layout import Batch, Descriptor, Layout, Rejection, row_texts, shown_bytes

ROWS_MAY_LACK_COLUMNS = True
BLOCK_BYTES = 4 << 20
_FRAME_BYTES = 16  # around a record's content
_TYPES = {"bytes_list": schema_pb2.BYTES, "int64_list": schema_pb2.INT, "float_list": schema_pb2.FLOAT}
_ARROW_TYPES = {pa.large_list(pa.large_binary()): schema_pb2.BYTES, pa.large_list(pa.int64()): schema_pb2.INT,
                pa.large_list(pa.float32()): schema_pb2.FLOAT}
_SHOWN_TYPES = {schema_pb2.BYTES: "bytes", schema_pb2.INT: "int64", schema_pb2.FLOAT: "float"}


class _Block(NamedTuple):
    """Sound records of a file, and the number of each, from 1; damaged ones stand among the rejections."""

    records: list[bytes]
    numbers: np.ndarray
    rejections: list[Rejection]
    bytes_read: int


def column_names(path: str, layout: Layout) -> list[str]:
    """The features of the first records of a file."""
    if not os.path.getsize(path):
        raise UserError(f"file {path} is empty: expected a TFRecord file of tf.train.Example; remove it or write it again")
    for block in _blocks(path):
        columns, _, _ = _Decoder(None).decode(block.records, block.numbers)
        if columns.schema.names:
            return columns.schema.names
    raise UserError(
        f"file {path} has no record that is a tf.train.Example with features: expected at least one; remove the file or write "
        "it again"
    )


def pieces(path: str, layout: Layout) -> list[Descriptor]:
    """A file as one piece of work: where its records begin is known only by reading it from the start."""
    column_names(path, layout)
    return [Descriptor(0, 1, path, size=os.path.getsize(path))]


def read(piece: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads a file into batches; a feature that no record of a batch has is a column of nulls.

    Raises:
      UserError: the file is truncated, or the length of a record damaged.
    """
    wanted = layout.wanted(column_names(piece.path, layout))
    decoder = _Decoder(wanted)
    for block in _blocks(piece.path):
        decoded, numbers, rejections = decoder.decode(block.records, block.numbers)
        columns = [decoded[name] if name in decoded.schema.names else pa.nulls(len(decoded)) for name in wanted]
        columns = pa.RecordBatch.from_arrays(columns, names=wanted)
        yield Batch(columns, sorted(block.rejections + rejections), block.bytes_read, row_texts(columns, numbers))


# ---- Records of a file ----


def _blocks(path: str) -> Iterator[_Block]:
    first, rest, final = 1, b"", False
    with _opened(path) as (stream, raw):
        while not final:
            with readable(path):
                chunk = stream.read(BLOCK_BYTES)
            final = not chunk
            rest += chunk
            records, sound, end, damaged = unframed(rest)
            rest = rest[end:]
            numbers = np.arange(first, first + len(records))
            first += len(records)
            if damaged or final and rest:
                raise _broken(path, first, damaged)
            if records:
                reason = "damaged: does not agree with its checksum"
                rejections = [Rejection(int(numbers[place]), reason, shown_bytes(records[place]))
                              for place in np.flatnonzero(~sound)]
                yield _Block([records[place] for place in np.flatnonzero(sound)], numbers[sound], rejections, raw.tell())


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """As `opened`; a file whose first length agrees with its checksum is not gzipped, whatever the length's bytes say."""
    with open(path, "rb") as raw:
        start = raw.read(_FRAME_BYTES)
        if not unframed(start).damaged:
            raw.seek(0)
            yield raw, raw
            return
    with opened(path) as streams:
        yield streams


def _broken(path: str, number: int, damaged: bool) -> UserError:
    if number == 1:
        return UserError(
            f"file {path} is not a TFRecord file, or its first record is truncated or damaged: expected records of "
            "tf.train.Example; give the file a name that says what it is (or say it of all files: `format` in the schema), "
            "or copy it again"
        )
    problem = "has a damaged length" if damaged else "is not complete"
    return UserError(
        f"file {path}: record {number:,} {problem}, so nobody knows how many rows are lost from there on: the file is "
        "truncated or damaged; copy it again"
    )


# ---- Records to columns ----


def _parse_example(record: bytes):
    """A `tf.train.Example`. Its class comes with TensorFlow, which takes seconds to import; sound files do without."""
    if "tensorflow" not in sys.modules:
        start_tensorflow()
    from tensorflow import train

    return train.Example.FromString(record)


class _Decoder:
    """Decodes records; a feature has the type that it has in the first record with it.

    Args:
      wanted: the features whose types must agree; None: all.
    """

    def __init__(self, wanted: Sequence[str] | None):
        self._wanted = wanted
        self._types: dict[str, int] = {}

    def decode(self, records: list[bytes], numbers: np.ndarray) -> tuple[pa.RecordBatch, np.ndarray, list[Rejection]]:
        """Returns columns by the features' names, the number of each row, and the records that are not among them."""
        try:
            columns = ExamplesToRecordBatchDecoder(self._schema_if_complete()).DecodeBatch(records)
        except RuntimeError:
            return self._decode_sound(records, numbers)
        found = {field.name: _ARROW_TYPES[field.type] for field in columns.schema
                 if self._is_wanted(field.name) and not pa.types.is_null(field.type)}
        if self._conflict(found):
            return self._decode_sound(records, numbers)
        self._types |= found
        return columns, numbers, []

    def _decode_sound(self, records: list[bytes],
                      numbers: np.ndarray) -> tuple[pa.RecordBatch, np.ndarray, list[Rejection]]:
        """Looks at one record after another."""
        kept, rejections = [], []
        for place, record in enumerate(records):
            reason = self._problem(record)
            if reason:
                rejections.append(Rejection(int(numbers[place]), reason, shown_bytes(record)))
            else:
                kept.append(place)
        decoder = ExamplesToRecordBatchDecoder(self._schema())
        return decoder.DecodeBatch([records[place] for place in kept]), numbers[kept], rejections

    def _problem(self, record: bytes) -> str:
        try:
            features = _parse_example(record).features.feature
        except DecodeError:
            return "not a tf.train.Example"
        kinds = {name: features[name].WhichOneof("kind") for name in sorted(features) if self._is_wanted(name)}
        found = {name: _TYPES[kind] for name, kind in kinds.items() if kind}
        if name := self._conflict(found):
            return (f"feature {name!r} holds {_SHOWN_TYPES[found[name]]}, and {_SHOWN_TYPES[self._types[name]]} in the records "
                    "before")
        self._types |= found
        return ""

    def _is_wanted(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted

    def _conflict(self, found: dict[str, int]) -> str | None:
        """A feature of another type than before."""
        return next((name for name, kind in found.items() if self._types.get(name, kind) != kind), None)

    def _schema_if_complete(self) -> bytes | None:
        """The schema that spares decoding features that nobody wants, once the types of all wanted ones are known."""
        complete = self._wanted is not None and set(self._types) >= set(self._wanted)
        return self._schema() if complete else None

    def _schema(self) -> bytes:
        schema = schema_pb2.Schema()
        for name, kind in self._types.items():
            schema.feature.add(name=name, type=kind)
        return schema.SerializeToString()
