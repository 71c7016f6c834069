"""One run of an arm: its time, its CPU time, the memory of all its processes, its stages, and that no row was lost."""

import mmap
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.prepare.peer import FIRST_ROW
from benchmarks.processes import Processes
from preprocessing.errors import UserError

SAMPLE_SECONDS = 0.2
_STAGE = re.compile(r"^(\w+): (?:[\d,]+ rows in )?([\d.]+) s(?:, [\d,]+ rows/s)?$", re.MULTILINE)
_FRAME_BYTES = 16  # of a TFRecord beside its payload: length, checksum of the length, checksum of the payload
_TAIL = 2000


def measure(processes: Processes, command: Sequence[str], output: Path, printed: Path, rows: int) -> dict:
    """Runs `python COMMAND`, which writes records to the new folder `output`; removes them.

    Returns:
      seconds: from start to end.
      cpu_seconds: of all its processes.
      peak_bytes: the most memory that its processes together held; None where there is no /proc.
      first_row_seconds: from start until rows were being read.
      stages: seconds of each stage, as the command printed them.
      bytes: of the records.

    Raises:
      UserError: the command failed, or the records are not as many as the log's `rows`.
    """
    shutil.rmtree(output, ignore_errors=True)
    printed.parent.mkdir(parents=True, exist_ok=True)
    cpu_before = _children_cpu_seconds()
    with printed.open("w", encoding="utf-8") as file:
        start = time.monotonic()
        with processes.started(command, stdout=file, stderr=subprocess.STDOUT) as process:
            peak, first_row = _watch(processes, process, lambda: _reads_rows(output))
            seconds = time.monotonic() - start
    if process.returncode:
        said = printed.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
        raise UserError(f"arm ended with exit code {process.returncode}; the last that it printed ({printed}): {said}")
    written = list(_records_of(output))
    found = sum(map(count_records, written))
    if found != rows:
        raise UserError(f"{output} holds {found:,} records, expected {rows:,}, one for each row of the log: see {printed}")
    result = {
        "seconds": seconds, "cpu_seconds": _children_cpu_seconds() - cpu_before, "peak_bytes": peak,
        "first_row_seconds": first_row and first_row - start, "bytes": sum(path.stat().st_size for path in written),
        "stages": {name: float(stage) for name, stage in _STAGE.findall(printed.read_text(encoding="utf-8", errors="replace"))},
    }
    shutil.rmtree(output)
    return result


def _watch(processes: Processes, process: subprocess.Popen, reads_rows: Callable[[], bool]) -> tuple[int | None, float | None]:
    """Waits for the end; returns the peak memory, and when `reads_rows` was first true."""
    peak, first_row = 0, None
    while process.poll() is None:
        processes.check_signals()
        peak = max(peak, tree_bytes(process.pid))
        if first_row is None and reads_rows():
            first_row = time.monotonic()
        time.sleep(SAMPLE_SECONDS)
    return peak or None, first_row


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _reads_rows(output: Path) -> bool:
    """A peer's mark, or the progress files that workers of preprocessing write into its hidden folder."""
    return (output / FIRST_ROW).exists() or any(
        path.is_file() for folder in output.parent.glob(f".{output.name}.partial-*") for path in folder.rglob("progress/*"))


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; what they share counts once. 0 where there is no /proc."""
    return sum(_proportional_bytes(one) for one in _tree(pid))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has ended
        return
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    except OSError:
        return 0


def _records_of(output: Path) -> Iterator[Path]:
    """The files of records; a data folder's samples hold some rows a second time."""
    return (path for path in output.rglob("*.tfrecord") if path.parent.name != "samples")


def count_records(path: Path) -> int:
    """Counts the records of a TFRecord file by their lengths."""
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count = position = 0
        while position < len(data):
            position += _FRAME_BYTES + int.from_bytes(data[position:position + 8], "little")
            count += 1
    return count
