"""What both phases of the pipeline share: descriptors are dealt out, each is read batch by batch, progress is shown."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from preprocessing.errors import DISK_FULL, UserError
from preprocessing.findings import Findings
from preprocessing.progress import ProgressDisplay, ProgressFile
from preprocessing.rows import Rows, read_rows
from preprocessing.schema import Schema
from preprocessing.sources import Descriptor

_DATA_FOLDER_NEEDS = "a data folder takes about as much as the log"


class FileWorker(beam.DoFn):
    """Reads the rows of one descriptor, shows progress, and leaves what it found.

    A file that cannot be read to its end becomes a finding: Beam would try it again, and wrap the reason in its own.

    Args:
      schema: what a row is.
      work: folder of the phase, which all workers and the driver share.
    """

    def __init__(self, schema: Schema, work: Path):
        self._schema, self._work = schema, work

    def batches(self, descriptor: Descriptor, found: Findings) -> Iterator[Rows]:
        progress = ProgressFile(progress_folder(self._work), descriptor.name)
        for rows in read_rows(descriptor, self._schema):
            found.add(rows)
            yield rows
            progress.update(rows.bytes_read, found.seen)

    def read(self, descriptor: Descriptor, use: Callable[[Iterator[Rows], Findings], None]) -> Findings:
        """Hands the descriptor's batches to `use` and leaves the findings."""
        found = Findings(descriptor.path)
        try:
            use(self.batches(descriptor, found), found)
        except UserError as error:
            found.error = str(error)
        found.write(self._work, descriptor)
        return found


def run_phase(title: str, descriptors: Sequence[Descriptor], options: PipelineOptions, work: Path, console: Console,
              transforms: Callable[[beam.PCollection], beam.PCollection],
              needs: str = _DATA_FOLDER_NEEDS) -> None:
    """Runs `transforms` over the descriptors and shows progress under `title`; `needs` is said where the disk is full."""
    total = sum(one.size for one in descriptors)
    progress = ProgressDisplay(title, progress_folder(work), total, console)
    with _explain_when_full(work, needs), progress, beam.Pipeline(options=options) as pipeline:
        transforms(pipeline | "Files" >> beam.Create(descriptors) | "Spread" >> beam.Reshuffle())


@contextmanager
def _explain_when_full(work: Path, needs: str = _DATA_FOLDER_NEEDS) -> Iterator[None]:
    """Beam wraps what a worker raises into texts of its own."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        told = [os.strerror(code) for code in DISK_FULL if os.strerror(code) in str(error)]
        if not told:
            raise
        raise UserError(f"nothing more can be written to {work} ({told[0]}): {needs}, and is written beside an old one that it replaces; "
                        "nothing of it is left; free some space, or choose another --output") from error


def progress_folder(work: Path) -> Path:
    """Where the workers of a phase write how far they are."""
    return work / "progress"
