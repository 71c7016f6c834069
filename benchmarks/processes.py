"""Child processes that never outlive their parent's `with` block, whatever ends it: success, failure or a signal."""

import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import UserError

POLL_SECONDS = 0.1
GRACE_SECONDS = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Processes:
    """Starts commands, each in a session of its own, and ends whatever is left of them on exit.

    Signals are only noted by their handler and acted upon at the next poll, so that no child can slip through between
    its start and its being known.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signal: int | None = None
        self._previous_handlers: dict[int, object] = {}
        self._running: list[subprocess.Popen] = []

    def __enter__(self):
        self._previous_handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for process in self._running:
            _end(process)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        self._signal = number

    def check_signals(self) -> None:
        """Raises `Interrupted` if a signal has arrived."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    @contextmanager
    def started(self, command: Sequence[str], python: str = sys.executable, **options):
        """Echoes and starts `python COMMAND`, yields the process, and ends its whole session afterwards.

        Args:
          command: what follows the interpreter.
          python: the interpreter.
          options: of `subprocess.Popen`; the standard input is empty unless they say otherwise.
        """
        self.check_signals()
        print(f"\n$ {shlex.join(['python', *command])}", flush=True)
        options = {"stdin": subprocess.DEVNULL, **options}
        process = subprocess.Popen([python, *command], cwd=self._folder, start_new_session=True, **options)
        self._running.append(process)
        try:
            yield process
        finally:
            _end(process)
            self._running.remove(process)

    def run(self, command: Sequence[str]) -> None:
        """Runs `python COMMAND` to its end.

        Raises:
          UserError: it ended with another exit code than 0.
          Interrupted: a signal arrived meanwhile.
        """
        with self.started(command) as process:
            while process.poll() is None:
                self.check_signals()
                time.sleep(POLL_SECONDS)
            if process.returncode != 0:
                raise UserError(f"`python {shlex.join(command)}` ended with exit code {process.returncode}: "
                                "its own message is above")

    def read_line(self, process: subprocess.Popen, seconds: float) -> str:
        """Waits for the first line on the standard output (a pipe) of a started process; empty where none came."""
        give_up = time.monotonic() + seconds
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in text and time.monotonic() < give_up:
                self.check_signals()
                if selector.select(POLL_SECONDS):
                    chunk = os.read(process.stdout.fileno(), 4096)
                    if not chunk:
                        return ""
                    text += chunk
        return text.partition(b"\n")[0].decode() if b"\n" in text else ""


def _end(process: subprocess.Popen) -> None:
    """Asks a process to end, waits for a while, then kills everything that is left in its session's group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
