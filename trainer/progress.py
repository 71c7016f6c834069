"""What a person sees while steps run: a live bar on a terminal, a line now and then elsewhere; and where the time went."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from trainer.loss_parts import FIELD, LOSS

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


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the time that the block takes to `seconds[phase]`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - start


def describe_losses(losses: Mapping[str, float], digits: int = 4) -> str:
    """ "loss 3.2 (label 0.5, worst item 1.9)": the whole, its other parts and the largest field's, where there are parts."""
    fields = {name.removeprefix(FIELD): value for name, value in losses.items() if name.startswith(FIELD)}
    parts = [f"{name} {value:.{digits}f}" for name, value in losses.items() if name != LOSS and not name.startswith(FIELD)]
    if fields:
        worst = max(fields, key=fields.get)
        parts.append(f"worst {worst} {fields[worst]:.{digits}f}")
    return f"loss {losses[LOSS]:.{digits}f}" + (f" ({', '.join(parts)})" if parts else "")


class StepProgress:
    """Counts the steps of an epoch, and shows samples a second, the loss and the time left.

    The first step of a process compiles, so it is no measure of the later ones and belongs to the start-up.

    Args:
      title: what is running, for example "pretrain epoch 2/10".
      steps: steps of this epoch.
      samples_per_step: batch size.
      spent: seconds by phase, to which "start-up" and "training" are added.
      done: steps of this epoch that an earlier process has done.
      later_epochs: epochs after this one; early stopping may spare some of them.
      validation_seconds: how long a validation takes; None where that is not known yet.
      compiles: whether the first step compiles.

    Attributes:
      losses: of the last step: "loss", and in pre-training the label's and the fields'.
      done: steps of this epoch.
    """

    def __init__(self, title: str, steps: int, samples_per_step: int, spent: dict[str, float], done: int = 0,
                 later_epochs: int = 0, validation_seconds: float | None = None, compiles: bool = False):
        self._title = title
        self._steps = steps
        self._samples_per_step = samples_per_step
        self._later_epochs = later_epochs
        self._validation_seconds = validation_seconds
        self._spent = spent
        self._compiles = compiles
        self._live = sys.stdout.isatty()
        self._timed_steps = 0
        self._seconds = 0.0
        self._last = 0.0
        self.done = done
        self.losses: dict[str, float] = {"loss": float("nan")}

    @property
    def samples_per_second(self) -> float:
        """0 before there is a step to measure by."""
        return self._timed_steps * self._samples_per_step / self._seconds if self._seconds else 0.0

    def track(self, batches: Iterable) -> Iterator:
        """Yields the batches and reports after each."""
        report = self._bar if self._live else self._lines
        with report() as show:
            self._last = time.monotonic()
            for batch in batches:
                yield batch
                self._count()
                show()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in this block is not the steps' time."""
        start = time.monotonic()
        yield
        self._last += time.monotonic() - start

    def _count(self) -> None:
        self.done += 1
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if self._compiles:
            self._compiles = False
            self._spent["start-up"] = self._spent.get("start-up", 0.0) + seconds
            return
        self._spent["training"] = self._spent.get("training", 0.0) + seconds
        self._timed_steps += 1
        self._seconds += seconds

    def _times_left(self) -> tuple[str, str]:
        """Of the epoch, training and validation apart, and of the stage."""
        seconds_per_step = self._seconds / self._timed_steps
        training, validation = seconds_per_step * (self._steps - self.done), self._validation_seconds or 0.0
        epoch = f"{_clock(training)} + {'?' if self._validation_seconds is None else _clock(validation)} validation"
        later = self._later_epochs * (seconds_per_step * self._steps + validation)
        return epoch, _clock(training + validation + later)

    def _short_status(self) -> str:
        losses = describe_losses(self.losses, 3)
        if not self._timed_steps:
            return losses
        epoch, stage = self._times_left()
        return f"{self.samples_per_second:,.0f}/s {losses} left {epoch} of {stage}"

    def _status(self) -> str:
        losses = describe_losses(self.losses)
        if not self._timed_steps:
            return losses
        epoch, stage = self._times_left()
        return f"{self.samples_per_second:,.0f} samples/s  {losses}  left {epoch}, at most {stage} of the stage"

    @contextmanager
    def _bar(self) -> Iterator[Callable[[], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(8), TextColumn("{task.completed}/{task.total}"),
                   TextColumn("{task.fields[status]}"))
        with Progress(*columns, console=Console(), transient=True) as bar:
            task = bar.add_task(self._title, total=self._steps, completed=self.done, status="starting")
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
