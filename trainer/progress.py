"""What a person sees while steps run: a live bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

SECONDS_BETWEEN_LINES = 10.0
WIDTH_WITHOUT_TERMINAL = 160


def print_table(title: str, rows: Iterable[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    """Prints a small table; columns after the first are aligned to the right where there is a header."""
    table = Table(*header, show_header=bool(header))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    print(title)
    Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL).print(table)


class StepProgress:
    """Counts the steps of an epoch, and shows samples a second, the loss and the time left.

    Args:
      title: what is running, for example "pretrain epoch 2/10".
      steps: steps of this epoch.
      later_steps: steps of all later epochs; early stopping may spare some of them.
      samples_per_step: batch size.
    """

    def __init__(self, title: str, steps: int, later_steps: int, samples_per_step: int):
        self._title = title
        self._steps = steps
        self._later_steps = later_steps
        self._samples_per_step = samples_per_step
        self._live = sys.stdout.isatty()
        self.loss = float("nan")
        self.seconds = 0.0
        self.done = 0

    @property
    def samples_per_second(self) -> float:
        return self.done * self._samples_per_step / max(self.seconds, 1e-9)

    def track(self, batches: Iterable) -> Iterator:
        """Yields the batches and reports after each."""
        report = self._bar if self._live else self._lines
        with report() as show:
            start = time.monotonic()
            for batch in batches:
                yield batch
                self.done += 1
                self.seconds = time.monotonic() - start
                show()

    def _times_left(self) -> tuple[str, str]:
        """Of the epoch and of the stage."""
        seconds_per_step = self.seconds / max(self.done, 1)
        epoch = seconds_per_step * (self._steps - self.done)
        return _clock(epoch), _clock(epoch + seconds_per_step * self._later_steps)

    def _short_status(self) -> str:
        epoch, stage = self._times_left()
        return f"{self.samples_per_second:,.0f}/s loss {self.loss:.3f} left {epoch} of {stage}"

    def _status(self) -> str:
        epoch, stage = self._times_left()
        return (f"{self.samples_per_second:,.0f} samples/s  loss {self.loss:.4f}  "
                f"left {epoch} of the epoch, at most {stage} of the stage")

    @contextmanager
    def _bar(self) -> Iterator[Callable[[], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(8), TextColumn("{task.completed}/{task.total}"),
                   TextColumn("{task.fields[status]}"))
        with Progress(*columns, console=Console(), transient=True) as bar:
            task = bar.add_task(self._title, total=self._steps, status="")
            yield lambda: bar.update(task, advance=1, status=self._short_status())

    @contextmanager
    def _lines(self) -> Iterator[Callable[[], None]]:
        shown = time.monotonic()

        def show() -> None:
            nonlocal shown
            if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                print(f"{self._title}  step {self.done}/{self._steps}  {self._status()}", flush=True)

        yield show


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
