"""One arm in a process of its own: it builds its network, then trains as many steps as each line of its input asks for.

    request   {"settle": steps not measured, "steps": steps measured}
    answer    {"steps", "seconds", "cpu_seconds", "peak_bytes", and what else the arm measures}

An arm is a module with `build(options)`, which returns a function `run(steps)` that trains at least so many steps, waits
until they are done and returns {"steps": how many they were, ...}. It ends when its input ends.
"""

import argparse
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

MODULES = {
    "finetune": "ours",
    "pretrain": "ours",
    "finetune_float32": "ours",
    "pretrain_float32": "ours",
    "input": "ours",
    "input_streamed": "ours",
    "keras": "keras_dcn",
    "fuxictr": "fuxictr_dcn",
    "floor": "floor",
}


def measure(run: Callable[[int], dict], settle: int, steps: int) -> dict:
    """Runs `settle` steps, then measures `steps`."""
    if settle:
        run(settle)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = run(steps)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {**result, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the parent held before this program replaced it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.worker", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", required=True, choices=MODULES, help="what to run")
    parser.add_argument("--folder", type=Path, required=True, help="folder written by `python -m benchmarks.speed.log`")
    parser.add_argument("--batch_size", type=int, default=4096, help="rows a step (default: 4096)")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the deep tower (default: 0)")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="A.B=C",
                        help="override one setting of the trainer, in our own arms only; may be repeated")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not look like an answer
    module = importlib.import_module(f"benchmarks.speed.{MODULES[options.arm]}")
    run = module.build(options)
    for line in sys.stdin:
        answers.write(json.dumps(measure(run, **json.loads(line))) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
