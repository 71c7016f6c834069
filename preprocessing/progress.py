"""Progress of workers, wherever they run: each writes how far it is into a small file, and the driver adds them up."""

import struct
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_COUNTS = struct.Struct("<qq")
_POLL_SECONDS = 0.5
_LINE_SECONDS = 15.0


class ProgressFile:
    """A worker's side: bytes of input read and rows seen of one descriptor."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / name

    def update(self, bytes_read: int, rows: int) -> None:
        self._path.write_bytes(_COUNTS.pack(bytes_read, rows))


class ProgressDisplay:
    """The driver's side: a bar on a terminal, a line every 15 seconds elsewhere. Use as a context manager."""

    def __init__(self, title: str, folder: Path, total_bytes: int, console: Console):
        self._title, self._folder, self._total, self._console = title, folder, total_bytes, console
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._bar if console.is_terminal else self._lines, daemon=True)
        self._start = time.monotonic()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if kind is None:
            _, rows = self._counts()
            seconds = time.monotonic() - self._start
            self._console.print(f"{self._title}: {rows:,} rows in {seconds:.1f} s, {rows / seconds:,.0f} rows/s")

    def _counts(self) -> tuple[int, int]:
        contents = [path.read_bytes() for path in self._folder.glob("*")]
        counts = [_COUNTS.unpack(content) for content in contents if len(content) == _COUNTS.size]
        return sum(read for read, _ in counts), sum(rows for _, rows in counts)

    def _rate(self, rows: int) -> str:
        return f"{rows:,} rows, {rows / (time.monotonic() - self._start):,.0f} rows/s"

    def _bar(self) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
                   TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(self._title, total=self._total, rate="")
            while not self._done.wait(_POLL_SECONDS):
                read, rows = self._counts()
                progress.update(task, completed=read, rate=self._rate(rows))

    def _lines(self) -> None:
        while not self._done.wait(_LINE_SECONDS):
            read, rows = self._counts()
            share = read / self._total
            seconds = time.monotonic() - self._start
            left = f"{seconds / share - seconds:,.0f} s left" if share > 0 else "starting"
            self._console.print(f"{self._title}: {share:.0%}, {self._rate(rows)}, {left}")
