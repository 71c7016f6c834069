"""The Beam pipeline of offline scoring: descriptors of files in, a folder of scores out.

    files -> blocks of rows -> RunInference -> pieces on the disk -> one shard a descriptor

Rows pass through as record batches of some ten thousand, and between stages that a runner may separate go the places of
pieces only.
"""

import json
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from preprocessing.errors import UserError
from preprocessing.files import write_atomically
from preprocessing.findings import Findings, check_rejected, read_findings, rejection_reasons
from preprocessing.folder import new_data_folder
from preprocessing.progress import ProgressFile
from preprocessing.schema import MANIFEST_FILE
from preprocessing.shards import REJECTED, RejectedRows
from preprocessing.sources import Descriptor
from preprocessing.splits import TRAIN
from preprocessing.worker import progress_folder, run_phase
from serving.batch.inference import SavedModelHandler
from serving.batch.output import KIND, piece_path, shard_path, write_piece, write_shard
from serving.reading import Block, Reading

_WORK = ".work"  # hidden, so gone when the folder is published
_KEY = "key "  # before the name of a key's column, which may be a feature too
_NEEDS = "the scores and keys of all rows take up to twice their size while they are written"

Place = tuple[Descriptor, int]  # a block's: its descriptor, and its number in it


@dataclass(frozen=True)
class ScoringJob:
    """What to score, apart from Beam's own options.

    Attributes:
      version_dir: the SavedModel, where all workers reach it; version: its number, if it has one.
      signature: with one tensor a column.
      reading: which columns to read, and how.
      output: the folder to write; form: "csv" or "parquet".
      call_rows: rows that one call of the model takes at most.
      max_rejected_share: above this share of malformed rows the run fails.
      command: the command line, for the manifest.
    """

    version_dir: Path
    version: int | None
    signature: str
    reading: Reading
    descriptors: tuple[Descriptor, ...]
    output: Path
    form: str
    call_rows: int
    max_rejected_share: float
    overwrite: bool
    command: tuple[str, ...]


class _ReadBlocks(beam.DoFn):
    """Descriptor -> (place, features and keys); leaves rejected rows and findings."""

    def __init__(self, reading: Reading, folder: Path, work: Path):
        self._reading, self._folder, self._work = reading, folder, work

    def process(self, descriptor: Descriptor) -> Iterator[tuple[Place, pa.RecordBatch]]:
        found, rejected = Findings(descriptor.path), RejectedRows(self._folder, descriptor)
        progress = ProgressFile(progress_folder(self._work), descriptor.name)
        try:
            with rejected:
                for number, block in enumerate(self._reading.blocks(descriptor)):
                    rejected.write(block.rejections)
                    found.add_rejections(block.rejections)
                    found.rows[TRAIN] += block.features.num_rows  # scores have no splits
                    yield (descriptor, number), _with_keys(block)
                    progress.update(block.bytes_read, found.seen)
        except UserError as error:  # Beam would try again, and wrap it
            found.error = str(error)
        found.write(self._work, descriptor)


def _with_keys(block: Block) -> pa.RecordBatch:
    names = [*block.features.schema.names, *(_KEY + name for name in block.keys.schema.names)]
    return pa.RecordBatch.from_arrays([*block.features.columns, *block.keys.columns], names=names)


class _WritePiece(beam.DoFn):
    """(place, scored block) -> (index of the descriptor, number of the block), with keys and scores on the disk."""

    def __init__(self, work: Path):
        self._work = work

    def process(self, scored: tuple[Place, PredictionResult]) -> Iterator[tuple[int, int]]:
        (descriptor, number), result = scored
        keys = {name.removeprefix(_KEY): column for name, column in _named(result.example) if name.startswith(_KEY)}
        write_piece(
            piece_path(self._work, descriptor, number), pa.RecordBatch.from_pydict({**keys, **dict(_named(result.inference))})
        )
        yield descriptor.index, number


def _named(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    return zip(batch.schema.names, batch.columns, strict=True)


class _WriteShard(beam.DoFn):
    """(index of the descriptor, numbers of its blocks) -> its shard on the disk."""

    def __init__(self, descriptors: Sequence[Descriptor], folder: Path, work: Path, form: str):
        self._descriptors, self._folder, self._work, self._form = descriptors, folder, work, form

    def process(self, pieces: tuple[int, Iterable[int]]) -> None:
        index, numbers = pieces
        descriptor = self._descriptors[index]
        paths = [piece_path(self._work, descriptor, number) for number in sorted(set(numbers))]
        write_shard(shard_path(self._folder, descriptor, self._form), paths, self._form)


def score(job: ScoringJob, options: PipelineOptions, console: Console) -> None:
    """Writes the folder `job.output`, or leaves nothing.

    Raises:
      UserError: a file cannot be read, or too many of its rows are malformed.
    """
    start = time.monotonic()
    with new_data_folder(job.output, job.overwrite) as folder:
        work = folder / _WORK
        run_phase("scoring", job.descriptors, options, work, console, lambda files: _scored(files, job, folder, work), _NEEDS)
        found = read_findings(work, job.descriptors)
        check_rejected(found, job.max_rejected_share)
        rows, seconds = sum(sum(one.rows) for one in found), time.monotonic() - start
        _write_manifest(folder, job, found, seconds)
    rejected = rejection_reasons(found).total()
    listed = f", listed in {job.output / REJECTED}" if rejected else ""
    rate = f"{seconds:.1f} s, {rows / seconds:,.0f} rows/s"
    console.print(f"scored {rows:,} rows{_of_version(job)} in {rate}; {rejected:,} rejected{listed}")


def _scored(files: beam.PCollection, job: ScoringJob, folder: Path, work: Path) -> beam.PCollection:
    handler = SavedModelHandler(str(job.version_dir.absolute()), job.signature, job.call_rows)
    return (files
            | "Read" >> beam.ParDo(_ReadBlocks(job.reading, folder, work))
            | "Score" >> RunInference(KeyedModelHandler(handler))
            | "Pieces" >> beam.ParDo(_WritePiece(work))
            | "OfOneFile" >> beam.GroupByKey()
            | "Shards" >> beam.ParDo(_WriteShard(job.descriptors, folder, work, job.form)))  # fmt: skip


def _of_version(job: ScoringJob) -> str:
    return "" if job.version is None else f" with version {job.version}"


def _write_manifest(folder: Path, job: ScoringJob, found: Sequence[Findings], seconds: float) -> None:
    """Last of all: a folder with a manifest is complete."""
    files = [{"path": shard_path(folder, one, job.form).name, "input": one.path, "rows": sum(seen.rows)}
             for one, seen in zip(job.descriptors, found, strict=True)]  # fmt: skip
    reasons = rejection_reasons(found)
    content = {
        "kind": KIND, "model": str(job.version_dir), "version": job.version, "signature": job.signature,
        "keys": list(job.reading.keys), "rows": sum(file["rows"] for file in files), "rejected": reasons.total(),
        "reasons": dict(reasons.most_common()), "files": files, "seconds": round(seconds, 3), "command": shlex.join(job.command),
    }  # fmt: skip
    write_atomically(folder / MANIFEST_FILE, json.dumps(content, indent=1, ensure_ascii=False))
