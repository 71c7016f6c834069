"""What a process of a schedule does in tests; apart, so that the process imports nothing that takes long.

`python noting_worker.py FOLDER` is a schedule of two processes, one after the other, that linger until they are asked to end.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.accuracy.plan import Planned, Run, Settings
from benchmarks.accuracy.schedule import Job, Schedule
from benchmarks.accuracy.task import end_with_the_parent


def note(task: tuple[str, str]) -> None:
    """Notes when it began and ended in the file `name` of the folder; fails where the name is "bad"."""
    name, folder = task
    began = time.monotonic()
    time.sleep(0.3)
    Path(folder, name).write_text(json.dumps([began, time.monotonic()]))
    if name == "bad":
        sys.exit(3)


def linger(folder: str) -> None:
    """Waits for SIGTERM or SIGINT, which it notes; ends as a stage that has saved does."""
    def end(number, _frame) -> None:
        Path(folder, "ended").touch()
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    Path(folder, "began").touch()
    time.sleep(3600)


if __name__ == "__main__":
    run = Run("abc", 1, Settings("none.yaml", ()), None, "data", sys.argv[1])
    jobs = [Job(Planned(arm, run), sys.argv[1], Path("none.txt")) for arm in ("first", "second")]
    Schedule(jobs, linger, "json", 1, {}).run(print)
