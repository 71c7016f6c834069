"""Scores a file with a served model, block by block, in the order of its rows."""

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing.errors import UserError
from preprocessing.sources import Descriptor, Layout, Rejection, column_names
from serving.reading import MAX_REJECTED_SHARE, Block, Reading
from serving.score_checks import absent_and_repeated, has_header, require_csv_outputs

REJECTIONS_SHOWN = 5
SECONDS_BETWEEN_LINES = 10.0


@dataclass
class _Rejected:
    """Counts the malformed rows, and keeps the first few to name them."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[Rejection] = field(default_factory=list)

    def add(self, rejections: list[Rejection]) -> None:
        self.reasons.update(rejection.reason for rejection in rejections)
        self.first += rejections[: REJECTIONS_SHOWN - len(self.first)]

    def named(self) -> list[str]:
        more = self.reasons.total() - len(self.first)
        return [f"line {line}: {reason}" for line, reason, _ in self.first] + ([f"and {more:,} more"] if more else [])


def check_paths(source: Path, output: Path | None) -> None:
    """Checks what can be checked before a server is asked.

    Raises:
      UserError: the source is no file, the output is a folder, or the folder of the output does not exist.
    """
    if not source.is_file():
        raise UserError(f"input {source} does not exist: give a CSV file with a header, or a Parquet or TFRecord file")
    if output is not None and not output.parent.is_dir():
        raise UserError(f"output {output}: folder {output.parent} does not exist: create it first")
    if output is not None and output.is_dir():
        raise UserError(f"output {output} is a folder: give the CSV file to write, such as {output / 'scores.csv'}")


def score_file(client, source: Path, output: Path | None, reading: Reading, max_rejected_share: float = MAX_REJECTED_SHARE) -> int:
    """Writes one line of answers a row of `source` and returns the number of rows.

    A malformed row (wrong number of columns, text in a numeric column, not UTF-8, as in preprocessing) keeps its line
    in the output, without values; the first few are named on standard error.

    Args:
      client: a `serving.client.predict_client.PredictClient`.
      source: CSV with a header, plain or gzipped, or Parquet or TFRecord, with every column of `reading`.
      output: CSV to write, complete or not at all; None writes to standard output, complete or not at all too.
      reading: which columns to read, and how.
      max_rejected_share: above this share of malformed rows nothing is written.

    Raises:
      UserError: the file is absent, empty, lacks a column, or has too many malformed rows; or a call failed.
    """
    check_paths(source, output)
    rows, rejected = 0, _Rejected()
    with _answer_file(output) as sink, _Progress(source) as progress:
        for block in _read_blocks(source, reading):
            answers = client.predict(client_columns(block))
            if not rows:
                require_csv_outputs(
                    {name: answer.ndim for name, answer in answers.items()},
                    "choose another --signature, or score with `python -m serving.batch --format parquet`",
                )
                sink.write((",".join(answers) + "\n").encode())
            _write_answers(sink, answers, block)
            rows += len(block)
            rejected.add(block.rejections)
            progress.update(rows, block.bytes_read)
        if not rows:
            raise UserError(f"input {source} has a header and no rows: nothing to score")
        _check_share(source, rejected, rows, max_rejected_share)
    if rejected.first:
        print(f"{rejected.reasons.total():,} of {rows:,} rows are malformed and have no score:", file=sys.stderr)
        print("\n".join(f"  {text}" for text in rejected.named()), file=sys.stderr)
    return rows


def client_columns(block: Block) -> dict[str, np.ndarray]:
    """The features of a block as `PredictClient.predict` takes them, each `[well-formed rows, ...]`."""
    return {
        name: _client_column(column) for name, column in zip(block.features.schema.names, block.features.columns, strict=True)
    }


def _client_column(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    if pa.types.is_floating(column.type):
        return column.to_numpy()
    if pa.types.is_dictionary(column.type):
        return pc.fill_null(column.cast(pa.string()), "").to_numpy(zero_copy_only=False)
    lists = np.empty(len(column), object)
    lists[:] = column.to_pylist()
    return lists


def _read_blocks(source: Path, reading: Reading) -> Iterator[Block]:
    try:
        if has_header(reading.layout, str(source)):
            _check_header(column_names(str(source), reading.layout), source, reading.layout)
        yield from reading.blocks(Descriptor(0, 1, str(source)))
    except OSError as error:
        raise UserError(f"input {source} cannot be read: {error}") from error


def _check_share(source: Path, rejected: _Rejected, rows: int, max_rejected_share: float) -> None:
    count = rejected.reasons.total()
    if count > max_rejected_share * rows:
        raise UserError(
            f"input {source}: {count:,} of {rows:,} rows ({count / rows:.2%}) are malformed, more than "
            f"--max_rejected_share {max_rejected_share:g} allows, so nothing was written: {'; '.join(rejected.named())}. "
            "Correct the file or --separator, name texts that mean no value with --missing, or raise the share"
        )


def _check_header(names: Sequence[str], source: Path, layout: Layout) -> None:
    absent, twice = absent_and_repeated(names, layout.columns)
    if absent:
        raise UserError(
            f"input {source} lacks the columns {absent} that the model takes: its header has {names}; add or rename them "
            "(a column may be empty), say which columns they are (--schema, or --column INPUT=COLUMN), or choose the --separator that "
            "the file uses"
        )
    if twice:
        raise UserError(f"input {source} has the columns {twice} more than once: rename all but one of each")


@contextmanager
def _answer_file(output: Path | None) -> Iterator[BinaryIO]:
    """A file that gets its name, or is copied to standard output for None, only when it is complete."""
    if output is None:
        with tempfile.TemporaryFile() as sink:
            yield sink
            sink.seek(0)
            shutil.copyfileobj(sink, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _write_answers(sink: BinaryIO, answers: dict[str, np.ndarray], block: Block) -> None:
    places = block.places()
    source = np.full(len(block), -1)  # the answer of each row, none where it is malformed
    source[places] = np.arange(len(places))
    indices = pa.array(source, mask=source < 0)
    table = pa.table({name: pa.array(answer).take(indices) for name, answer in answers.items()})
    pacsv.write_csv(table, sink, pacsv.WriteOptions(include_header=False))


class _Progress:
    """Rows done, rows a second and time left, by the share of the file that has been read; all on standard error."""

    def __init__(self, source: Path):
        self._size = source.stat().st_size
        self._live = sys.stderr.isatty()
        columns = (
            TextColumn("score"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not self._live)
        self._task = self._bar.add_task("score", total=self._size, status="")
        self._start = self._shown = time.monotonic()
        self._rows = 0

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._bar.stop()
        if kind is None:
            print(f"scored {self._status()}", file=sys.stderr)

    def update(self, rows: int, bytes_read: int) -> None:
        self._rows = rows
        self._bar.update(self._task, completed=bytes_read, status=self._status())
        if not self._live and time.monotonic() - self._shown > SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            left = (self._shown - self._start) * (self._size - bytes_read) / max(bytes_read, 1)
            print(f"scored {self._status()}, {left:.0f} s left", file=sys.stderr)

    def _status(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{self._rows:,} rows in {seconds:.1f} s, {self._rows / seconds:,.0f} rows/s"
