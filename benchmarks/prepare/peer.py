"""One peer in a process of its own: `python -m benchmarks.prepare.peer --arm pandas --log log --output records`.

A peer is a module with `prepare(log, output)`, which turns a folder written by `benchmarks.prepare.log` into TFRecords.
"""

import argparse
import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preprocessing.environment import start_tensorflow

MODULES = {"pandas": "pandas_sklearn", "tft": "tft_dicts"}
FIRST_ROW = "first_row"


def note_first_row(output: Path) -> None:
    """Leaves a file in `output` that shows that rows are being read."""
    (output / FIRST_ROW).touch()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Prints how long the block took, as preprocessing does of its own."""
    start = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare.peer", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=MODULES, required=True, help="which peer")
    parser.add_argument("--log", type=Path, required=True, help="folder written by `python -m benchmarks.prepare.log`")
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the records")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True)
    start_tensorflow()
    importlib.import_module(f"benchmarks.prepare.{MODULES[arguments.arm]}").prepare(arguments.log, arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
