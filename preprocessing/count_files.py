"""Counts on the disk: a log may have more different values than fit into memory, and than Beam should carry.

A worker writes what it has counted whenever that is much, texts dealt out to partitions by a hash of the text. Whoever
adds up the counts of an owner reads one partition of all files at a time: a text is in one partition only.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.files import replaced_file
from preprocessing.splits import hash_texts
from preprocessing.statistics import Accumulator, FieldCounts, NumberCounts, ValueCounts

PARTITIONS = 16
VALUES_IN_MEMORY = 1 << 20
_TEXTS = pa.schema({"value": pa.large_string(), "count": pa.int64()})
_SALT = "partition"


class CountWriter:
    """Adds up the counts of one descriptor, and writes them to files when they are many, and at the end.

    Attributes:
      files: by owner of table rows, the files with its counts.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self._accumulators: dict[str, Accumulator] = {}
        self._flushes = 0
        self.files: dict[str, list[Path]] = {}

    def add(self, counts: Mapping[str, FieldCounts]) -> None:
        for owner, some in counts.items():
            self._accumulators.setdefault(owner, Accumulator()).add(some)
        if sum(accumulator.size for accumulator in self._accumulators.values()) > VALUES_IN_MEMORY:
            self.flush()

    def flush(self) -> None:
        """Writes what has been added since the last time; texts as they came, since their readers have to add up anyhow."""
        texts = {owner: one.parts for owner, one in self._accumulators.items() if isinstance(one.parts[0], ValueCounts)}
        numbers = {owner: one.total() for owner, one in self._accumulators.items() if owner not in texts}
        for counts, write, suffix in ((texts, _write_texts, ".arrow"), (numbers, _write_numbers, ".npz")):
            if counts:
                path = self._folder / f"{self._name}-{self._flushes:04d}{suffix}"
                write(path, counts)
                for owner in counts:
                    self.files.setdefault(owner, []).append(path)
        self._accumulators.clear()
        self._flushes += 1


def _write_texts(path: Path, counts: Mapping[str, Sequence[ValueCounts]]) -> None:
    """One record batch for each owner and partition, in this order; how often each was missing stands in the metadata."""
    about = json.dumps({owner: sum(part.missing for part in parts) for owner, parts in counts.items()})
    with replaced_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, \
            pa.ipc.new_file(sink, _TEXTS.with_metadata({"missing": about})) as writer:
        for parts in counts.values():
            table = pa.concat_tables([part.table for part in parts]).combine_chunks()
            partition = hash_texts(table["value"].combine_chunks(), _SALT) % PARTITIONS
            order = np.argsort(partition, kind="stable")
            ends = np.searchsorted(partition[order], np.arange(PARTITIONS), side="right")
            for rows in np.split(order, ends[:-1]):
                writer.write_batch(table.take(pa.array(rows)).cast(_TEXTS).combine_chunks().to_batches()[0] if len(rows)
                                   else pa.RecordBatch.from_pylist([], _TEXTS))


def read_texts(paths: Sequence[Path], owner: str) -> Iterator[ValueCounts]:
    """The counts of an owner, one partition after another, each the sum over all files."""
    files = [pa.ipc.open_file(pa.memory_map(str(path))) for path in paths]
    missing = [json.loads(file.schema.metadata[b"missing"]) for file in files]
    firsts = [list(of_file).index(owner) * PARTITIONS for of_file in missing]
    for partition in range(PARTITIONS):
        batches = [file.get_batch(first + partition) for file, first in zip(files, firsts, strict=True)]
        absent = sum(of_file[owner] for of_file in missing) if partition == 0 else 0
        yield ValueCounts.merge([ValueCounts(pa.Table.from_batches(batches), absent)])


def _write_numbers(path: Path, counts: Mapping[str, NumberCounts]) -> None:
    arrays = {}
    for owner, one in counts.items():
        scalars = np.array([one.shift, one.missing, one.low, one.high])
        arrays |= {f"{owner} cells": one.cells, f"{owner} counts": one.counts, f"{owner} scalars": scalars}
    with replaced_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_numbers(paths: Sequence[Path], owner: str) -> NumberCounts:
    """The counts of an owner, added up file by file."""
    return NumberCounts.merge(_numbers_in(path, owner) for path in paths)


def _numbers_in(path: Path, owner: str) -> NumberCounts:
    with np.load(path, allow_pickle=False) as arrays:
        cells, counts, scalars = (arrays[f"{owner} {what}"] for what in ("cells", "counts", "scalars"))
        return NumberCounts(cells, counts, *(int(one) for one in scalars))
