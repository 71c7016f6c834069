"""The processes of the benchmark: servers, and clients that ask them side by side."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Processes
from benchmarks.serving.models import MODELS
from preprocessing.errors import UserError

READY_SECONDS = 600
ANSWER_SECONDS = 300
POLL_SECONDS = 0.2  # at which servers look for new versions
START_SECONDS = 0.1  # until all clients have read what they are to do
_READY = re.compile(r"serving \S+ version \d+ on (\S+:\d+)")


@dataclass(frozen=True)
class Target:
    """A server that is measured.

    Attributes:
      address: HOST:PORT of gRPC.
      names: by `MODELS`, what it calls the models.
      pid: of our own server; None for one that somebody else has started.
    """

    address: str
    names: dict[str, str]
    pid: int | None = None


@contextmanager
def started_server(processes: Processes, exports: Path, printed: Path, flags: Sequence[str] = ()) -> Iterator[Target]:
    """A server of all models under `exports`, which lies about on a port of its own until the block ends."""
    printed.parent.mkdir(parents=True, exist_ok=True)
    config = printed.with_suffix(".config")
    config.write_text(models_config(exports), encoding="utf-8")
    command = ["-m", "serving.server", "--model_config_file", str(config), "--port", "0", "--poll_seconds", str(POLL_SECONDS), *flags]
    with printed.open("w", encoding="utf-8") as file, processes.started(
            command, stdout=subprocess.PIPE, stderr=file) as process:  # fmt: skip
        ready = _READY.fullmatch(processes.read_line(process, READY_SECONDS))
        if not ready:
            raise UserError(f"the server did not start within {READY_SECONDS} s: see what it printed in {printed}")
        yield Target(ready[1], {model: model for model in MODELS}, process.pid)


def models_config(exports: Path) -> str:
    """A ModelServerConfig of all models, as our server and TensorFlow Serving read it."""
    blocks = "".join(f'  config {{ name: "{model}" base_path: "{exports / model}" model_platform: "tensorflow" }}\n' for model in MODELS)
    return f"model_config_list {{\n{blocks}}}\n"


@dataclass
class Sample:
    """What some clients saw side by side.

    Attributes:
      begins, milliseconds: of each call that was answered, in no order; begins by `time.monotonic()`.
      statuses: of all calls.
      seconds: for how long they asked, unless they were stopped.
    """

    begins: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def failures(self) -> dict[str, int]:
        return {status: number for status, number in sorted(self.statuses.items()) if status != "OK"}


class Clients:
    """Client processes that ask in one way; more of them start when more are needed, and wait between measurements.

    Args:
      processes: ends them.
      way: of `benchmarks.serving.worker`.
      about: what the way needs: ("--server", "HOST:PORT") or ("--version", "DIR").
      printed: a file for their standard error.
    """

    def __init__(self, processes: Processes, way: str, about: Sequence[str], printed: Path):
        self._processes, self._printed = processes, printed
        self._command = ["-m", "benchmarks.serving.worker", "--way", way, *about]
        self._stack, self._running = ExitStack(), []

    def close(self) -> None:
        self._stack.close()

    def ask(self, number: int, files: Sequence[Path], settle: float, seconds: float) -> Sample:
        """Lets `number` clients ask for these requests by turns, each the next one as soon as it has its answer."""
        self.begin(number, files, settle, seconds)
        return self.answers()

    def begin(self, number: int, files: Sequence[Path], settle: float, seconds: float, stop: Path | None = None) -> float:
        """The same without waiting for the end, which `answers` does; returns when they begin to count.

        Args:
          stop: a file that ends it earlier, once somebody writes it.
        """
        self._start(number)
        begin = time.monotonic() + START_SECONDS + settle
        self._asked = number, seconds
        for place, process in enumerate(self._running[:number]):
            turned = [str(file) for file in (*files[place % len(files):], *files[:place % len(files)])]  # not all the same at once
            self._send(process, {"files": turned, "begin": begin, "end": begin + seconds, "stop": str(stop) if stop else None})
        return begin

    def answers(self) -> Sample:
        """What the clients saw that `begin` has set to work.

        Raises:
          UserError: a client gave no answer.
        """
        number, seconds = self._asked
        sample = Sample(seconds=seconds)
        for process in self._running[:number]:
            answer = self._read(process, seconds + ANSWER_SECONDS)
            sample.begins += answer["begins"]
            sample.milliseconds += answer["milliseconds"]
            sample.statuses.update(answer["statuses"])
        return sample

    def _start(self, number: int) -> None:
        self._printed.parent.mkdir(parents=True, exist_ok=True)
        new = []
        while len(self._running) < number:
            file = self._stack.enter_context(self._printed.open("a", encoding="utf-8"))
            process = self._stack.enter_context(self._processes.started(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file))  # fmt: skip
            new.append(process)
            self._running.append(process)
        for process in new:
            self._read(process, READY_SECONDS)

    def _send(self, process: subprocess.Popen, asked: dict) -> None:
        try:
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise self._silent() from error

    def _read(self, process: subprocess.Popen, seconds: float) -> dict:
        line = self._processes.read_line(process, seconds)
        if not line:
            raise self._silent()
        return json.loads(line)

    def _silent(self) -> UserError:
        return UserError(f"a client ended early or gave no answer in time: see what it printed in {self._printed}")
