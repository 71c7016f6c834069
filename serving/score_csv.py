"""Scores a CSV file with a served model, block by block, in the order of its rows."""

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing import values  # what a cell means must not differ
from preprocessing.errors import UserError
from preprocessing.rows import rejections
from preprocessing.sources import Batch, Descriptor, Layout, Rejection, column_names, read
from preprocessing.values import RowReasons

REJECTIONS_SHOWN = 5
MAX_REJECTED_SHARE = 0.01
SECONDS_BETWEEN_LINES = 10.0

Reader = Callable[[pa.Array, RowReasons], np.ndarray]


@dataclass
class _Block:
    """A stretch of the file: the well-formed rows, where they belong among all its rows, and the malformed ones.

    Attributes:
      columns: by name, as `PredictClient.predict` takes them; each `[good rows, ...]`.
      places: int64 `[good rows]`, places among the `rows` of the block.
      rows: number of rows, malformed ones included.
      bytes_read: how far into the (compressed) file the reader was after this block.
    """

    columns: dict[str, np.ndarray]
    places: np.ndarray
    rows: int
    rejections: list[Rejection]
    bytes_read: int


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
      UserError: the source is no file, or the folder of the output does not exist.
    """
    if not source.is_file():
        raise UserError(f"input {source} does not exist: give a CSV file with a header")
    if output is not None and not output.parent.is_dir():
        raise UserError(f"output {output}: folder {output.parent} does not exist: create it first")


def score_csv(client, source: Path, output: Path | None, separator: str = ",", missing: Sequence[str] = (),
              max_rejected_share: float = MAX_REJECTED_SHARE, list_separators: Mapping[str, str] | None = None) -> int:  # fmt: skip
    """Writes one line of answers a row of `source` and returns the number of rows.

    A malformed row (wrong number of columns, text in a numeric column, not UTF-8, as in preprocessing) keeps its line
    in the output, without values; the first few are named on standard error.

    Args:
      client: a `serving.predict_client.PredictClient`.
      source: CSV with a header that has every column of the client's signature; plain or gzipped.
      output: CSV to write, complete or not at all; None writes to standard output, complete or not at all too.
      separator: between the columns of `source`.
      missing: texts that mean no value in numeric columns, beside the empty one.
      max_rejected_share: above this share of malformed rows nothing is written.
      list_separators: by column of lists or of vectors, what stands between the values of a cell; by default "|".

    Raises:
      UserError: the file is absent, empty, lacks a column, or has too many malformed rows; or a call failed.
    """
    check_paths(source, output)
    readers = _readers(client.input_specs(), tuple(missing), list_separators or {})
    layout = Layout(source.name, tuple(readers), format="csv", separator=separator)
    rows, rejected = 0, _Rejected()
    with _answer_file(output) as sink, _Progress(source) as progress:
        for block in _read_blocks(source, layout, readers):
            answers = client.predict(block.columns)
            if not rows:
                sink.write((",".join(answers) + "\n").encode())
            _write_answers(sink, answers, block)
            rows += block.rows
            rejected.add(block.rejections)
            progress.update(rows, block.bytes_read)
        if not rows:
            raise UserError(f"input {source} has a header and no rows: nothing to score")
        _check_share(source, rejected, rows, max_rejected_share)
    if rejected.first:
        print(f"{rejected.reasons.total():,} of {rows:,} rows are malformed and have no score:", file=sys.stderr)
        print("\n".join(f"  {text}" for text in rejected.named()), file=sys.stderr)
    return rows


def _readers(specs, missing: tuple[str, ...], list_separators: Mapping[str, str]) -> dict[str, Reader]:
    """How the column of each tensor of the signature is read."""
    odd = {name: spec.dtype.name for name, spec in specs.items() if spec.dtype.name not in ("string", "float32")}
    if odd:
        raise UserError(f"the signature takes {odd}, and a CSV file can give string and float32 only: choose another --signature")
    several = [name for name, spec in specs.items() if spec.shape.rank == 2]
    if not list_separators.keys() <= set(several):
        raise UserError(f"--list_separator names {sorted(list_separators)}: expected columns of lists or vectors, which are {several}")
    return {name: _reader(name, spec, missing, list_separators.get(name, "|")) for name, spec in specs.items()}


def _reader(name: str, spec, missing: tuple[str, ...], list_separator: str) -> Reader:
    role, several = f"column {name!r}", spec.shape.rank == 2
    if spec.dtype.name == "string":
        if several:
            return lambda column, reasons: _objects(values.lists(column, list_separator, (), role, reasons))
        return lambda column, reasons: _objects(column.cast(pa.binary()))
    if several:
        return lambda column, reasons: values.vectors(column, spec.shape[1], list_separator, missing, role, reasons)
    return lambda column, reasons: values.single_precision(values.numbers(column, missing, role, reasons))


def _objects(column: pa.Array) -> np.ndarray:
    objects = np.empty(len(column), object)
    objects[:] = column.to_pylist()
    return objects


def _read_blocks(source: Path, layout: Layout, readers: Mapping[str, Reader]) -> Iterator[_Block]:
    try:
        _check_header(column_names(str(source), layout), source, layout.columns)
        for batch in read(Descriptor(0, 1, str(source)), layout):
            yield _typed(batch, readers)
    except OSError as error:
        raise UserError(f"input {source} cannot be read: {error}") from error


def _typed(batch: Batch, readers: Mapping[str, Reader]) -> _Block:
    reasons = RowReasons(len(batch.columns))
    columns = {name: reader(batch.columns[name], reasons) for name, reader in readers.items()}
    good = reasons.good
    return _Block(
        {name: column[good] for name, column in columns.items()}, _places(batch)[good],
        len(batch.columns) + len(batch.rejections), sorted(batch.rejections + rejections(batch, reasons)), batch.bytes_read,
    )  # fmt: skip


def _places(batch: Batch) -> np.ndarray:
    """The place of each row of a batch among all the rows of its block, unreadable ones included."""
    places = np.arange(len(batch.columns))
    if not batch.rejections:
        return places
    lines = [line for line, _ in batch.locate(places)]
    return places + np.searchsorted([rejection.line for rejection in batch.rejections], lines)


def _check_share(source: Path, rejected: _Rejected, rows: int, max_rejected_share: float) -> None:
    count = rejected.reasons.total()
    if count > max_rejected_share * rows:
        raise UserError(
            f"input {source}: {count:,} of {rows:,} rows ({count / rows:.2%}) are malformed, more than "
            f"--max_rejected_share {max_rejected_share:g} allows, so nothing was written: {'; '.join(rejected.named())}. "
            "Correct the file or --separator, name texts that mean no value with --missing, or raise the share"
        )


def _check_header(names: Sequence[str], source: Path, wanted: Sequence[str]) -> None:
    absent = [name for name in wanted if name not in names]
    if absent:
        raise UserError(
            f"input {source} lacks the columns {absent} that the model takes: its header has {names}; add or rename them "
            "(a column may be empty), or choose the --separator that the file uses"
        )
    twice = [name for name in wanted if names.count(name) > 1]
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


def _write_answers(sink: BinaryIO, answers: dict[str, np.ndarray], block: _Block) -> None:
    source = np.full(block.rows, -1)  # the answer of each row, none where it is malformed
    source[block.places] = np.arange(len(block.places))
    indices = pa.array(source, mask=source < 0)
    table = pa.table({name: pa.array(answer).take(indices) for name, answer in answers.items()})
    pacsv.write_csv(table, sink, pacsv.WriteOptions(include_header=False))


class _Progress:
    """Rows done, rows a second and time left, by the share of the file that has been read; all on standard error."""

    def __init__(self, source: Path):
        self._size = source.stat().st_size
        self._live = sys.stderr.isatty()
        columns = (TextColumn("score"), BarColumn(), TextColumn("{task.fields[status]}"), TextColumn("left"), TimeRemainingColumn())
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
