"""SIGTERM and SIGINT while training: never in the middle of a step or of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """A signal asked the process to stop. Uncaught, the process exits with 128 + its number, as shells expect.

    Attributes:
      name: of the signal.
      note: what became of the work under way.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.note = "no step was under way"


class Interruption:
    """Raises `Interrupted` at a signal: at once, or inside `held()` when that block ends.

    The first signal counts and later ones are ignored, since wrappers and terminals often send two.

    Args:
      alone: whether this process may stop when it likes. If not, a signal is only noted, until `stop`.
    """

    def __init__(self, alone: bool = True) -> None:
        self.pending: int | None = None
        self._alone = alone
        self._held = False

    def receive(self, number: int, _frame) -> None:
        """The signal handler."""
        if self.pending is not None:
            return
        self.pending = number
        if self._alone and not self._held:
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds signals back; a block of many steps looks at `pending` to end early."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._alone and self.pending is not None:
            raise Interrupted(self.pending)

    def stop(self) -> NoReturn:
        """Raises `Interrupted` now, as if by SIGTERM where the signal came to another process."""
        raise Interrupted(self.pending or signal.SIGTERM)


@contextmanager
def interruptible(alone: bool = True) -> Iterator[Interruption]:
    """Handles `SIGNALS` inside the block, in the main thread; Python cannot handle them in another one."""
    interruption = Interruption(alone)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.signal(number, interruption.receive) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
