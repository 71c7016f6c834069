"""What the process of a run is told and how it begins. Importing this does not import TensorFlow."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path

from benchmarks.accuracy.plan import Run
from preprocessing import errors

LOG_FILE = "log.txt"


@dataclass(frozen=True)
class Task:
    """What a worker is told.

    Attributes:
      splits: to predict, "valid" first.
      sliced_by: fields of the slices.
      threads: of TensorFlow's operations; all cores where None.
      commit: of the code that runs.
    """

    run: Run
    splits: tuple[str, ...]
    sliced_by: tuple[str, ...]
    threads: int | None
    commit: str

    @property
    def log(self) -> Path:
        return Path(self.run.folder) / LOG_FILE

    @property
    def is_done(self) -> bool:
        """Whether the row on disk has all that is asked for."""
        row = self.run.row()
        return bool(row) and all(split in row and set(self.sliced_by) <= row[split]["slices"].keys() for split in self.splits)


def commands(run: Run, splits: Sequence[str], sliced_by: Sequence[str]) -> list[str]:
    """What a user would type for this run."""
    folders = ("--data_dir", run.data_dir, "--model_dir", str(run.model_dir))
    lines = []
    if run.pretraining:
        own = ("--data_dir", run.data_dir, "--model_dir", run.pretraining.folder)
        lines += [_command("pretrain", *own, *run.pretraining.settings.flags),
                  shlex.join(["cp", "-r", f"{run.pretraining.folder}/pretrain", f"{run.model_dir}/pretrain"])]
    lines.append(_command("finetune", *(() if run.pretraining else ("--from_scratch",)), *folders, *run.settings.flags))
    sliced = ("--slices", ",".join(sliced_by)) if sliced_by else ()
    return lines + [_command("evaluate", f"--split={split}", *sliced, *folders) for split in splits]


def _command(stage: str, *flags: str) -> str:
    return shlex.join(["python", "-m", "trainer.task", f"--stage={stage}", *flags])


def main(task: Task) -> None:
    """What the process of a run calls. Ends it with exit code 0, or another one after an explanation in the run's log."""
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    task.log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from benchmarks.accuracy.worker import execute  # only now, so that the log says why if it fails

    sys.exit(errors.run(lambda _: execute(task), []))


def end_with_the_parent() -> None:
    """Asks this process to save and stop when the benchmark is gone, so that a second call finds its folders free."""
    connection.wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
