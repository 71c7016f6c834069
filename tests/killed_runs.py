"""Runs both stages in forked processes that are killed at given moments: `python killed_runs.py DATA FOLDER SETTINGS MOMENTS`.

TensorFlow is imported once, here, and runs in the forked children only. FOLDER/whole is trained without interruption;
FOLDER/killed by one child after another, each killed by SIGKILL at its moment, the same command again after each.

MOMENTS is a JSON list of [stage, what, n]: when the stage does `what` for the n-th time in that process, see `WHERE`.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from child_processes import fork

from trainer import checkpoints, prediction, progress, task

# What is interrupted: owner, name, and whether the n-th call is made before the kill.
WHERE = {
    "step": (progress.StepProgress, "_count", True),
    "write: tensors on disk, no checksums": (checkpoints, "seal", False),
    "write: sealed, not yet renamed": (checkpoints, "seal", True),
    "write: renamed, older ones not yet removed": (checkpoints.StageCheckpoints, "_keep_around", False),
    "validation": (prediction.Predictor, "validate", False),
}
STAGES = ("pretrain", "finetune")
SAVE_AT_EVERY_STEP = ["--set", "checkpoint_minutes=1e-9"]


def kill_at(what: str, n: int) -> None:
    owner, name, after = WHERE[what]
    original, calls = getattr(owner, name), 0

    def counted(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == n and after:
            original(*arguments, **keywords)
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    setattr(owner, name, counted)


def both_stages(data: str, model: Path, settings: list[str], moment: tuple[str, str, int] | None = None) -> int:
    """Runs both stages in a fork. Returns its exit code, or minus the signal that ended it."""
    def run() -> int:
        for stage in STAGES:
            if moment and moment[0] == stage:
                kill_at(*moment[1:])
            if code := task.main([f"--stage={stage}", "--data_dir", data, "--model_dir", str(model), *settings]):
                return code
        return 0

    return os.waitstatus_to_exitcode(os.waitpid(fork(run, model.with_suffix(".log")), 0)[1])


def main(data: str, folder: Path, settings: list[str], moments: list[tuple[str, str, int]]) -> None:
    assert both_stages(data, folder / "whole", settings) == 0
    for moment in moments:
        ended = both_stages(data, folder / "killed", [*settings, *SAVE_AT_EVERY_STEP], moment)
        assert ended == -signal.SIGKILL, (moment, ended)
    assert both_stages(data, folder / "killed", settings) == 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # what was printed before a kill is in the log
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
