"""What a worker writes for one descriptor: shards of records, sample rows, rejected rows."""

import hashlib
import json
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from preprocessing.files import replaced_file
from preprocessing.framing import framed
from preprocessing.rows import Rows
from preprocessing.schema import SPLITS
from preprocessing.sources import Descriptor, Rejection
from preprocessing.splits import VALID

REJECTED = "rejected"
_GZIP = 31  # zlib's number for gzip with the largest window; it writes no time, so equal rows are equal bytes


class Shards:
    """The shards of a descriptor, one a split that its rows may belong to. Use as a context manager.

    A shard gets its name when the block ends without an error; then `files` describes it, by split.
    """

    def __init__(self, folder: Path, descriptor: Descriptor, compression: str):
        self._folder, self._descriptor, self._compression = folder, descriptor, compression
        self._stack = ExitStack()
        self._shards: dict[int, _Shard] = {}
        self.files: dict[str, dict] = {}

    def __enter__(self) -> None:
        for split, name in enumerate(SPLITS):
            if self._descriptor.split in (None, name):
                temporary = self._stack.enter_context(replaced_file(self._folder / self._relative(name)))
                self._shards[split] = _Shard(temporary, self._compression)

    def __exit__(self, *error) -> None:
        for split, shard in self._shards.items():
            shard.close()
            name = SPLITS[split]
            self.files[name] = {"path": self._relative(name), "rows": shard.rows, "bytes": shard.bytes, "sha256": shard.sha256.hexdigest()}
        self._stack.__exit__(*error)

    def _relative(self, split: str) -> str:
        one = self._descriptor
        return f"{split}/part-{one.index:05d}-of-{one.total:05d}.tfrecord{'.gz' if self._compression else ''}"

    def write(self, split: np.ndarray, records: pa.Array) -> None:
        """Writes serialized records [rows] to the shards of their splits, int8 [rows]."""
        for code, shard in self._shards.items():
            shard.write(records.filter(pa.array(split == code)))


class _Shard:
    """A TFRecord file that knows its rows, bytes and checksum."""

    def __init__(self, path: Path, compression: str):
        self._file = path.open("wb")
        self._compressor = zlib.compressobj(wbits=_GZIP) if compression else None
        self.rows, self.bytes, self.sha256 = 0, 0, hashlib.sha256()

    def write(self, records: pa.Array) -> None:
        self.rows += len(records)
        data = framed(records)
        self._put(self._compressor.compress(data) if self._compressor else data)

    def close(self) -> None:
        if self._compressor:
            self._put(self._compressor.flush())
        self._file.close()

    def _put(self, data: bytes | pa.Buffer) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)


class Samples:
    """The first validation rows of a descriptor: as a server receives them, and as training reads them."""

    def __init__(self, limit: int):
        self._limit = limit
        self._raw: list[bytes] = []
        self._records: list[bytes] = []

    def add(self, rows: Rows, records: pa.Array) -> None:
        chosen = np.flatnonzero(rows.split == VALID)[:self._limit - len(self._raw)]
        self._records += records.take(pa.array(chosen, pa.int64())).to_pylist()
        self._raw += [_raw_example(rows, row).SerializeToString(deterministic=True) for row in chosen]

    def write(self, raw_path: Path, records_path: Path) -> None:
        write_tfrecord(raw_path, self._raw)
        write_tfrecord(records_path, self._records)


def _raw_example(rows: Rows, row: int) -> tf.train.Example:
    """The features of a row as a server receives them; a missing one is absent."""
    example = tf.train.Example()
    for name, column in rows.features.items():
        feature = example.features.feature
        if isinstance(column, pa.Array):
            value = column[row].as_py()
            texts = value if isinstance(value, list) else [] if value is None else [value]
            if texts:
                feature[name].bytes_list.value.extend(text.encode() for text in texts)
        elif not np.isnan(column[row]).any():
            feature[name].float_list.value.extend(np.atleast_1d(column[row]))
    return example


def write_tfrecord(path: Path, records: list[bytes]) -> None:
    with replaced_file(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for record in records:
            writer.write(record)


def read_tfrecord(path: Path) -> list[bytes]:
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


class RejectedRows:
    """The malformed rows of a descriptor, one JSON object a line; no file where there are none. A context manager."""

    def __init__(self, folder: Path, descriptor: Descriptor):
        self._path = folder / REJECTED / f"{descriptor.name}.jsonl"
        self._file = descriptor.path
        self._stack = ExitStack()
        self._stream = None

    def __enter__(self) -> None:
        self._stack.__enter__()

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def write(self, rejections: list[Rejection]) -> None:
        if rejections and self._stream is None:
            temporary = self._stack.enter_context(replaced_file(self._path))
            self._stream = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        for rejection in rejections:
            content = {"file": self._file, **rejection._asdict()}
            self._stream.write(json.dumps(content, ensure_ascii=False) + "\n")
