"""Runs several workers at a time, each in a process that starts with TensorFlow imported; survives failures and signals."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from benchmarks.accuracy.plan import Planned
from benchmarks.processes import Interrupted

HEARTBEAT_SECONDS = 60.0
POLL_SECONDS = 1.0
GRACE_SECONDS = 60.0
HOPELESS = 3


@dataclass
class Job:
    """A worker's task under the name of its run; `target(task)` is what its process does."""

    planned: Planned
    task: object
    log: Path

    @property
    def pretraining(self) -> str | None:
        pretraining = self.planned.run.pretraining
        return pretraining.folder if pretraining else None


@dataclass
class _Running:
    job: Job
    process: multiprocessing.Process
    began: float


class Schedule:
    """Runs jobs, `at_once` at a time, in order; one waits while another is at the pre-training that they share.

    Args:
      jobs: of different runs.
      target: what a worker's process does with its task.
      preload: the module of `target`, imported once for all.
      at_once: processes at a time.
      known_seconds: how long runs have taken before, by configuration.
    """

    def __init__(self, jobs: Sequence[Job], target: Callable[[object], None], preload: str, at_once: int,
                 known_seconds: dict[str, float]):
        self._waiting = list(jobs)
        self._total = len(jobs)
        self._target = target
        self._at_once = at_once
        self._seconds = {configuration: [seconds] for configuration, seconds in known_seconds.items()}
        self._running: list[_Running] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([preload])
        self._signal: int | None = None

    def run(self, finished: Callable[[Job, str], None]) -> list[Job]:
        """Runs all jobs; calls `finished(job, progress)` after each that succeeds. Returns those that failed.

        Where the first `HOPELESS` end and none has succeeded, the cause is none of theirs and the others are not begun.

        Raises:
          Interrupted: a signal; the workers were asked to save and have ended.
        """
        failed: list[Job] = []
        succeeded = False
        with self._noting_signals():
            try:
                while self._waiting or self._running:
                    self._start_what_can()
                    for ended in self._wait():
                        if ended.process.exitcode == 0:
                            succeeded = True
                            self._seconds.setdefault(_configuration(ended.job), []).append(time.monotonic() - ended.began)
                            finished(ended.job, self._progress())
                        else:
                            failed.append(ended.job)
                            print(f"FAILED with exit code {ended.process.exitcode}: {ended.job.planned.title}; see {ended.job.log}", flush=True)
                    if not succeeded and len(failed) >= HOPELESS:
                        self._waiting.clear()
            finally:
                self._stop_all()
        return failed

    def _start_what_can(self) -> None:
        for job in list(self._waiting):
            self._check_signals()
            if len(self._running) == self._at_once:
                return
            if job.pretraining and any(running.job.pretraining == job.pretraining for running in self._running):
                continue
            self._waiting.remove(job)
            process = self._context.Process(target=self._target, args=(job.task,))
            process.start()
            self._running.append(_Running(job, process, time.monotonic()))
            print(f"started: {job.planned.title}; log {job.log}", flush=True)

    def _wait(self) -> list[_Running]:
        """Waits until workers end; says every minute what they do. Returns those that have ended."""
        shown = time.monotonic()
        while not self._ended_within(POLL_SECONDS):
            if time.monotonic() - shown > HEARTBEAT_SECONDS:
                shown = time.monotonic()
                for running in self._running:
                    print(f"  {running.job.planned.title}: {last_line(running.job.log)}", flush=True)
                print(f"  {self._progress()}", flush=True)
        ended = [running for running in self._running if not running.process.is_alive()]
        self._running = [running for running in self._running if running not in ended]
        return ended

    def _ended_within(self, seconds: float) -> bool:
        """Whether a worker has ended of itself: a terminal's Ctrl-C reaches the workers too, and they may end before it is seen here."""
        ended = connection.wait([running.process.sentinel for running in self._running], seconds)
        self._check_signals()
        return bool(ended)

    def _check_signals(self) -> None:
        if self._signal is not None:
            raise Interrupted(self._signal)

    def _progress(self) -> str:
        done = self._total - len(self._waiting) - len(self._running)
        left = self.seconds_left()
        return f"{done} of {self._total} runs" + ("" if left is None else f", about {clock(left)} left")

    def seconds_left(self) -> float | None:
        """Estimated from runs of the same configuration, or of any; None before there is one."""
        means = {configuration: sum(times) / len(times) for configuration, times in self._seconds.items()}
        if not means:
            return None
        overall = sum(means.values()) / len(means)
        waiting = sum(means.get(_configuration(job), overall) for job in self._waiting)
        now = time.monotonic()
        running = sum(max(means.get(_configuration(one.job), overall) - (now - one.began), 0.0) for one in self._running)
        return (waiting + running) / self._at_once

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are acted upon at the next poll."""
        def note(number: int, _frame) -> None:
            self._signal = number

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop_all(self) -> None:
        """Asks the workers to save and end."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.process.join(GRACE_SECONDS)
            if running.process.is_alive():
                running.process.kill()
                running.process.join()


def _configuration(job: Job) -> str:
    return job.planned.run.configuration


def last_line(log: Path) -> str:
    """The last line of a log, of which only the end is read."""
    if not log.is_file():
        return "starting"
    with open(log, "rb") as file:
        file.seek(max(log.stat().st_size - 2000, 0))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "starting")


def clock(seconds: float) -> str:
    """ "0:07" hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
