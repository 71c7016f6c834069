"""Scores a CSV file with a served model, block by block, in the order of its rows."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing.errors import UserError

ARROW_TYPES = {tf.string: pa.binary(), tf.float32: pa.float32()}
SECONDS_BETWEEN_LINES = 10.0


def score_csv(client, source: Path, output: Path | None, separator: str = ",", missing: Sequence[str] = ()) -> int:
    """Writes one line of answers a row of `source` and returns the number of rows.

    Args:
      client: a `serving.client.PredictClient`.
      source: CSV with a header that has every column of the client's signature; plain or .gz.
      output: CSV to write, complete or not at all; None writes to standard output as answers come.
      separator: between the columns of `source`.
      missing: texts that mean no value in numeric columns, beside the empty one.

    Raises:
      UserError: the file is absent, empty, lacks a column, or has a malformed row; or a call failed.
    """
    if not source.is_file():
        raise UserError(f"input {source} does not exist: give a CSV file with a header")
    options = _convert_options(client.input_dtypes(), missing)
    with source.open("rb") as file, _answer_file(output) as sink, _Progress(source, file) as progress:
        rows, header_written = 0, False
        for columns in _read_blocks(file, source, separator, options):
            answers = client.predict(columns)
            if not header_written:
                sink.write((",".join(answers) + "\n").encode())
                header_written = True
            _write_answers(sink, answers)
            rows += len(next(iter(answers.values())))
            progress.update(rows)
        if not rows:
            raise UserError(f"input {source} has a header and no rows: nothing to score")
    return rows


def _convert_options(dtypes: dict[str, tf.DType], missing: Sequence[str]) -> pacsv.ConvertOptions:
    odd = {name: dtype.name for name, dtype in dtypes.items() if dtype not in ARROW_TYPES}
    if odd:
        raise UserError(f"the signature takes {odd}, and a CSV file can give string and float32 only: choose another --signature")
    types = {name: ARROW_TYPES[dtype] for name, dtype in dtypes.items()}
    return pacsv.ConvertOptions(column_types=types, include_columns=list(types), null_values=["", *missing],
                                strings_can_be_null=False)  # fmt: skip


def _read_blocks(file: BinaryIO, source: Path, separator: str, options: pacsv.ConvertOptions) -> Iterator[dict[str, np.ndarray]]:
    """Yields blocks of about a megabyte as one array a column: bytes, or float32 with NaN where empty."""
    parse = pacsv.ParseOptions(delimiter=separator)
    read = pacsv.ReadOptions(use_threads=False)  # names the row of an error
    try:
        with source.open("rb") as head:
            _check_header(pacsv.open_csv(_unpacked(head, source), read, parse).schema.names, source, options.include_columns)
        for batch in pacsv.open_csv(_unpacked(file, source), read, parse, options):
            yield {name: _to_numpy(batch.column(name)) for name in batch.schema.names}
    except pa.ArrowInvalid as error:
        raise UserError(f"input {source}: {error}: correct it (row 1 is the header)") from error
    except OSError as error:
        raise UserError(f"input {source} cannot be read: {error}") from error


def _unpacked(file: BinaryIO, source: Path):
    return pa.CompressedInputStream(file, "gzip") if source.suffix == ".gz" else file


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


def _to_numpy(column: pa.Array) -> np.ndarray:
    if pa.types.is_binary(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.fill_null(float("nan")).to_numpy(zero_copy_only=False)


@contextmanager
def _answer_file(output: Path | None) -> Iterator[BinaryIO]:
    """A file that gets its name only when it is complete and on disk; standard output for None."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not output.parent.is_dir():
        raise UserError(f"output {output}: folder {output.parent} does not exist: create it first")
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _write_answers(sink: BinaryIO, answers: dict[str, np.ndarray]) -> None:
    pacsv.write_csv(pa.table(answers), sink, pacsv.WriteOptions(include_header=False))


class _Progress:
    """Rows done, rows a second and time left, by the share of the file that has been read; all on standard error."""

    def __init__(self, source: Path, file: BinaryIO):
        self._file = file
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

    def update(self, rows: int) -> None:
        self._rows = rows
        done = self._file.tell()
        self._bar.update(self._task, completed=done, status=self._status())
        if not self._live and time.monotonic() - self._shown > SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            left = (self._shown - self._start) * (self._size - done) / max(done, 1)
            print(f"scored {self._status()}, {left:.0f} s left", file=sys.stderr)

    def _status(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{self._rows:,} rows in {seconds:.1f} s, {self._rows / seconds:,.0f} rows/s"
