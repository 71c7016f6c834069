"""Throughput of `python -m serving.batch` at several sizes of a log, its fixed cost told apart."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import Processes
from benchmarks.serving.rows import KEY


def write_log(source: Path, path: Path, rows: int) -> None:
    """Writes the rows of a CSV file over and over until there are `rows`."""
    header, *lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        for start in range(0, rows, len(lines)):
            file.writelines(lines[:rows - start])


def score(processes: Processes, version: Path, log: Path, output: Path, rows: int) -> dict:
    """{"rows", "seconds"} of a run from its start to its end, importing included."""
    shutil.rmtree(output, ignore_errors=True)
    began = time.monotonic()
    processes.run(["-m", "serving.batch", "--model", str(version), "--input", str(log), "--key", KEY, "--output", str(output)])
    seconds = time.monotonic() - began
    shutil.rmtree(output)
    return {"rows": rows, "seconds": seconds}


def rounds(processes: Processes, version: Path, source: Path, folder: Path, sizes: Sequence[int], number: int) -> Iterator[dict]:
    """Runs of all sizes by turns, every other round backwards."""
    folder.mkdir(parents=True, exist_ok=True)
    for rows in sizes:
        write_log(source, folder / f"{rows}.csv", rows)
    for place in range(number):
        for rows in sizes if place % 2 == 0 else sizes[::-1]:
            found = score(processes, version, folder / f"{rows}.csv", folder / "scores", rows)
            print(f"offline round {place + 1}/{number}  {rows:,} rows: {found['seconds']:.1f} s", flush=True)
            yield {**found, "round": place}
