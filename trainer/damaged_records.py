"""Damaged TFRecord files: found by their checksums, named by file and byte, salvaged record by record.

A record is framed as `length uint64 | masked crc32c of length | data | masked crc32c of data`, little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). Sound files are read by TensorFlow
alone; the walk in Python is for files that TensorFlow has refused.
"""

import dataclasses
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.framing import masked_crc

READ_BUFFER_BYTES = 4 << 20
WORST_FILES_SHOWN = 5
_HEADER = struct.Struct("<QI")  # length, its checksum
_CHECKSUM = struct.Struct("<I")
_GZIP = 31  # window bits of zlib for a gzip stream
_INFLATE_BYTES = 1 << 16
_SEARCH_BYTES = 1 << 20
_CUT_OFF = "the file ends inside a record"
_MEND = "Restore the file (manifest.json has its sha256), or run `python -m preprocessing.task` again"


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """A TFRecord file of a data folder.

    Attributes:
      path: the file; compressed by gzip where it ends with `.gz`.
      rows: records it should hold; after `verified`, those that are sound.
      bytes: its size, where the manifest tells it.
      damaged: whether some of its records are to be left out.
      unlabelled: how many of `rows` have no label, or one that is not used.
      first_row: place of its first row in the split.
    """

    path: str
    rows: int
    bytes: int | None = None
    damaged: bool = False
    unlabelled: int = 0
    first_row: int = 0

    @property
    def labelled(self) -> int:
        return self.rows - self.unlabelled

    @property
    def compression(self) -> str:
        return "GZIP" if self.path.endswith(".gz") else ""


class Damage(NamedTuple):
    """Where a file stops being what was written: byte offset (of the uncompressed records) and record from 0."""

    offset: int
    record: int
    reason: str


def read_records(files: Sequence[RecordFile]) -> tf.data.Dataset:
    """The serialized records of files of one compression, one file after another."""
    paths = [file.path for file in files]
    return tf.data.TFRecordDataset(paths, files[0].compression, buffer_size=READ_BUFFER_BYTES)


def refuse_changed_sizes(files: Sequence[RecordFile]) -> None:
    """Raises a `UserError` for a file that is shorter or longer than it was written; reads nothing else."""
    for file in files:
        if file.bytes is not None and os.path.getsize(file.path) != file.bytes:
            name_damage([file])
            raise UserError(f"{file.path} has {os.path.getsize(file.path):,} bytes, but manifest.json says {file.bytes:,}. "
                            f"{_MEND}")


def name_damage(files: Sequence[RecordFile]) -> None:
    """Raises a `UserError` for the first file that is not what was written; returns if all are sound."""
    for file in files:
        if _count(file) != file.rows:
            damage = _first_damage(file)
            place = f"byte {damage.offset:,}" + (" of its uncompressed records" if file.compression else "")
            raise UserError(f"{file.path} is damaged at {place} (record {damage.record:,}): {damage.reason}. {_MEND}; or leave "
                            "damaged records out: --set input.corrupt_records=0.001 allows a thousandth of a split's records")


@contextmanager
def naming_damage(files: Sequence[RecordFile]) -> Iterator[None]:
    """Turns TensorFlow's report of a damaged file into a `UserError` that names it."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.FailedPreconditionError):
        name_damage(files)
        raise


def verified(files: Sequence[RecordFile], allowed_share: float, split: str) -> list[RecordFile]:
    """Reads every file and returns those with sound records, `rows` being their number.

    Prints that it does so, and each damaged file.

    Args:
      files: all files of a split.
      allowed_share: share of the split's records that may be damaged.
      split: its name, for messages.

    Raises:
      UserError: more records are damaged, with the worst files; or a file holds more records than were written.
    """
    print(f"{split}: checking every record of {len(files):,} files", flush=True)
    found = [_verify(file) for file in files]
    lost = {file.path: (file.rows - sound.rows, file.rows) for file, sound in zip(files, found, strict=True) if sound.damaged}
    worst = sorted(lost.items(), key=lambda item: -item[1][0])
    lines = [f"{path}: {bad:,} of {rows:,} records are damaged" for path, (bad, rows) in worst]
    total, bad = sum(file.rows for file in files), sum(bad for bad, _ in lost.values())
    if bad > allowed_share * total:
        raise UserError(f"split {split!r} has {bad:,} damaged records of {total:,}, a share of {bad / total:.3g} where "
                        f"input.corrupt_records allows {allowed_share:g}. Worst: {'; '.join(lines[:WORST_FILES_SHOWN])}. {_MEND}")
    for line in lines:
        print(f"{line} and left out", flush=True)
    return [file for file in found if file.rows]


def _verify(file: RecordFile) -> RecordFile:
    count = _count(file)
    if count == file.rows:
        return file
    if count is None or count < file.rows:
        rows = sum(1 for _ in _sound_records(file))
        unlabelled = sum(map(_lacks_label, _sound_records(file))) if file.unlabelled else 0
        return dataclasses.replace(file, rows=rows, unlabelled=unlabelled, damaged=True)
    raise UserError(f"{file.path} holds {count:,} records, but manifest.json says {file.rows:,}. {_MEND}")


def _lacks_label(record: bytes) -> bool:
    return "label" not in tf.train.Example.FromString(record).features.feature


def salvaged(files: Sequence[RecordFile], folder: Path) -> list[RecordFile]:
    """The files, with every damaged one replaced by a copy of its sound records in `folder`."""
    return [_copy(file, folder / f"{number:05d}-{Path(file.path).name}") if file.damaged else file
            for number, file in enumerate(files)]


def _copy(file: RecordFile, path: Path) -> RecordFile:
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=file.compression)) as writer:
        for record in _sound_records(file):
            writer.write(record)
    return RecordFile(str(path), file.rows, unlabelled=file.unlabelled)


def _count(file: RecordFile) -> int | None:
    """How many records TensorFlow reads, or None where it refuses."""
    batches = read_records([file]).batch(8192)
    try:
        return int(batches.reduce(np.int64(0), lambda total, batch: total + tf.size(batch, tf.int64)))
    except tf.errors.DataLossError:
        return None


def _first_damage(file: RecordFile) -> Damage:
    end = count = 0
    with _content(file) as content:
        for record in _walk(content):
            if record.data is None:
                return Damage(record.offset, count, record.reason)
            end, count = record.end, count + 1
    return Damage(end, count, f"it ends after {count:,} records, where manifest.json says {file.rows:,}" if count != file.rows
                  else "its gzip checksum does not match")


def _sound_records(file: RecordFile) -> Iterator[bytes]:
    with _content(file) as content:
        yield from (record.data for record in _walk(content) if record.data is not None)


class _Record(NamedTuple):
    offset: int
    end: int
    data: bytes | None  # None: damaged
    reason: str = ""


def _walk(content: mmap.mmap | bytes) -> Iterator[_Record]:
    """Every record in order. After a damaged length, the next place where a length and its checksum agree."""
    offset, size = 0, len(content)
    while offset < size:
        length = _length_at(content, offset)
        if length is None:
            end = _next_length(content, offset + 1)
            reason = _CUT_OFF if size - offset < _HEADER.size else "the checksum of its length does not match"
            yield _Record(offset, end, None, reason)
        elif (end := offset + _HEADER.size + length + _CHECKSUM.size) > size:
            yield _Record(offset, size, None, _CUT_OFF)
            return
        else:
            data = content[offset + _HEADER.size:end - _CHECKSUM.size]
            sound = _CHECKSUM.unpack(content[end - _CHECKSUM.size:end])[0] == masked_crc(data)
            yield _Record(offset, end, data) if sound else _Record(offset, end, None, "its checksum does not match")
        offset = end


def _length_at(content: mmap.mmap | bytes, offset: int) -> int | None:
    header = content[offset:offset + _HEADER.size]
    if len(header) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack(header)
    return length if checksum == masked_crc(header[:8]) else None


def _next_length(content: mmap.mmap | bytes, start: int) -> int:
    """The first offset from `start` on where a record may begin, or the end."""
    last = len(content) - _HEADER.size - _CHECKSUM.size
    for block in range(start, last, _SEARCH_BYTES):
        lengths = np.ndarray(min(_SEARCH_BYTES, last - block), "<u8", content, block, strides=(1,))  # one at every byte
        for found in np.flatnonzero((lengths > 0) & (lengths <= last)):
            if _length_at(content, block + int(found)) is not None:
                return block + int(found)
    return len(content)


@contextmanager
def _content(file: RecordFile) -> Iterator[mmap.mmap | bytes]:
    """A file's uncompressed bytes, as far as they can be had."""
    with ExitStack() as stack:
        stream = stack.enter_context(open(file.path, "rb"))
        if file.compression:
            plain = stack.enter_context(tempfile.TemporaryFile())
            _inflate(stream, plain)
            plain.flush()
            stream = plain
        empty = os.fstat(stream.fileno()).st_size == 0
        yield b"" if empty else stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _inflate(source: BinaryIO, target: BinaryIO) -> None:
    """Decompresses up to the first error. Around it goes byte by byte, as zlib gives nothing of a block with an error."""
    stream = zlib.decompressobj(_GZIP)
    while block := source.read(_INFLATE_BYTES):
        before = stream.copy()
        try:
            target.write(stream.decompress(block))
        except zlib.error:
            _inflate_bytes(before, block, target)
            return


def _inflate_bytes(stream, block: bytes, target: BinaryIO) -> None:
    try:
        target.writelines(stream.decompress(bytes([value])) for value in block)
    except zlib.error:
        return
