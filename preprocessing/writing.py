"""Second phase: every row through the transform graph, into the shards of its split."""

from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared
from rich.console import Console

from preprocessing.findings import Findings, read_findings
from preprocessing.job import Job
from preprocessing.records import serialize_records
from preprocessing.rows import Rows
from preprocessing.schema import SPLITS, Schema
from preprocessing.shards import RejectedRows, Samples, Shards, read_tfrecord, write_tfrecord
from preprocessing.sources import Descriptor
from preprocessing.splits import VALID
from preprocessing.tally import Tally
from preprocessing.transform import Transformer
from preprocessing.worker import FileWorker, run_phase

SAMPLE_ROWS = 1000
SAMPLE_KINDS = ("raw", "records")


class _WriteShards(FileWorker):
    """Descriptor -> shards of records, rejected rows, sample rows and a tally."""

    def __init__(self, schema: Schema, folder: Path, work: Path, compression: str, samples: int):
        super().__init__(schema, work)
        self._folder, self._compression, self._samples = folder, compression, samples
        self._shared_transformer = Shared()  # by the threads of one process

    def setup(self) -> None:
        self._transformer = self._shared_transformer.acquire(lambda: Transformer(self._folder, self._schema), tag=str(self._folder))

    def process(self, descriptor: Descriptor) -> None:
        shards = Shards(self._folder, descriptor, self._compression)
        rejected = RejectedRows(self._folder, descriptor)
        samples, tally = Samples(self._samples), Tally.empty(self._schema)

        def write(batches: Iterable[Rows], found: Findings) -> None:
            with shards, rejected:
                for rows in batches:
                    rejected.write(rows.rejections)
                    encoded = self._transformer(rows.features)
                    records = serialize_records(encoded, rows)
                    shards.write(rows.split, records)
                    tally.add(encoded, rows.split, self._schema)
                    samples.add(rows, records)
            found.files = shards.files

        self.read(descriptor, write)
        samples.write(*_sample_paths(self._work, descriptor))
        tally.write(_tally_path(self._work, descriptor))


def write_shards(job: Job, schema: Schema, folder: Path, work: Path, options: PipelineOptions,
                 console: Console) -> tuple[list[Findings], Tally]:
    """Writes the records, the rejected rows and the samples into the data folder.

    Args:
      schema: the resolved schema; `folder` holds its transform graph.

    Raises:
      UserError: a file cannot be read.
    """
    validating = [one for one in job.descriptors if one.split in (None, SPLITS[VALID])]
    samples_each = -(-SAMPLE_ROWS // max(len(validating), 1))
    run_phase("writing", job.descriptors, options, work, console, lambda files: files
              | "Write" >> beam.ParDo(_WriteShards(schema, folder, work, job.compression, samples_each)))
    found = read_findings(work, job.descriptors)
    _gather_samples(folder, work, validating)
    return found, Tally.read_sum((_tally_path(work, one) for one in job.descriptors), schema)


def _tally_path(work: Path, descriptor: Descriptor) -> Path:
    return work / "tallies" / f"{descriptor.name}.npz"


def _sample_paths(work: Path, descriptor: Descriptor) -> tuple[Path, ...]:
    return tuple(work / "samples" / f"{descriptor.name}.{kind}" for kind in SAMPLE_KINDS)


def _gather_samples(folder: Path, work: Path, descriptors: list[Descriptor]) -> None:
    """Puts the workers' sample rows together, in the order of the descriptors."""
    for place, kind in enumerate(SAMPLE_KINDS):
        rows = [row for one in descriptors for row in read_tfrecord(_sample_paths(work, one)[place])]
        write_tfrecord(folder / "samples" / f"{kind}.tfrecord", rows[:SAMPLE_ROWS])
