"""How fast preprocessing is and how much memory it takes, beside two usual ways: `python -m benchmarks.preprocessing`."""

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prepare import report
from benchmarks.prepare.arms import ARMS, DESCRIPTIONS, command
from benchmarks.prepare.log import parse_rows
from benchmarks.prepare.measure import measure
from benchmarks.prepare.report import COMPARED, FEWER_ROWS, GROWTH, RESULTS, Results, shorten
from benchmarks.processes import Interrupted, Processes
from preprocessing import errors

REPOSITORY = Path(__file__).resolve().parents[1]
FEWER = 5  # plain TFT is measured a second time on so many times fewer rows

ARMS_TEXT = "\n".join(textwrap.fill(text, 100, initial_indent=f"  {arm:15}", subsequent_indent=" " * 17)
                      for arm, text in DESCRIPTIONS.items())
EPILOG = f"""arms:
{ARMS_TEXT}

All arms but tft prepare the same --rows, one after another, in every round in the other order, so that a ratio compares
neighbours in time. tft, which takes long, prepares --tft_rows beside ours, and a fifth of them, so that a line through both
tells what a larger log would take. Last, ours prepares --growth times the rows, to see what its memory grows by.

What was measured is kept in --output as it comes; an interrupted call goes on with --continue. At the defaults: 15 minutes,
3 GB of memory (pandas) and 6 GB of disk, most of it for the log of ten million rows (--growth 0 leaves it out).

examples:
  python -m benchmarks.preprocessing
  python -m benchmarks.preprocessing --rows 100k --arms ours pandas --rounds 1 --growth 0
  python -m benchmarks.preprocessing --continue --report docs/results"""


@dataclass(frozen=True)
class Run:
    """An arm that prepares a log of so many rows, in round `number`."""

    part: str
    arm: str
    rows: int
    number: int


def plan(arguments: argparse.Namespace) -> list[Run]:
    """All runs, in the order in which they are measured; each only once."""
    arms = [arm for arm in ARMS if arm in arguments.arms]
    runs = list(_rounds(COMPARED, [arm for arm in arms if arm != "tft"], arguments.rows, arguments.rounds))
    if "tft" in arms:
        beside = [arm for arm in ("ours", "tft") if arm in arms]
        runs += _rounds(FEWER_ROWS, beside, arguments.tft_rows, arguments.tft_rounds)
        runs += _rounds(FEWER_ROWS, ["tft"], arguments.tft_rows // FEWER, 1)
    if "ours" in arms and arguments.growth:
        runs += _rounds(GROWTH, ["ours"], arguments.growth * arguments.rows, 1)
    return list({(run.arm, run.rows, run.number): run for run in reversed(runs)}.values())[::-1]


def _rounds(part: str, arms: Sequence[str], rows: int, rounds: int) -> Iterator[Run]:
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else arms[::-1]:
            yield Run(part, arm, rows, number)


def perform(processes: Processes, run: Run, folder: Path) -> dict:
    """Writes the log unless it is there, measures the run, and returns its record."""
    log, name = folder / "logs" / shorten(run.rows), f"{run.arm}-{shorten(run.rows)}"
    if not log.is_dir():
        processes.run(["-m", "benchmarks.prepare.log", "--folder", str(log), "--rows", str(run.rows)])
    record = {"part": run.part, "arm": run.arm, "rows": run.rows, "round": run.number, "cores": os.cpu_count(),
              "load": os.getloadavg()[0]}
    output = folder / "records" / name
    record |= measure(processes, command(run.arm, log, output), output, folder / "printed" / f"{name}.txt", run.rows)
    print(f"{name}, round {run.number + 1}: {record['seconds']:.1f} s, {run.rows / record['seconds']:,.0f} rows/s", flush=True)
    return {**record, "finished": time.strftime("%Y-%m-%d %H:%M")}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocessing", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=parse_rows, default=1_000_000, help="rows of the log, all splits together (default: 1m)")
    parser.add_argument("--tft_rows", type=parse_rows, default=100_000, help="rows of the log for the arm tft (default: 100k)")
    parser.add_argument("--growth", type=int, default=10,
                        help="times the rows that ours prepares last; 0: not at all (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every arm (default: 3)")
    parser.add_argument("--tft_rounds", type=int, default=1,
                        help="runs of the arm tft, and of ours on its log (default: 1)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM",
                        help="only these (default: all; see below)")
    parser.add_argument("--output", type=Path, default=Path("runs") / RESULTS,
                        help=f"where everything goes (default: runs/{RESULTS})")
    parser.add_argument("--report", type=Path, help=f"a folder that gets {RESULTS}.jsonl and {RESULTS}.md as well")
    parser.add_argument("--continue", action="store_true", dest="resume", help="keep what was measured before")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    folder = arguments.output.resolve()
    path = folder / f"{RESULTS}.jsonl"
    results = Results.load(path) if arguments.resume else Results([])
    with Processes(REPOSITORY) as processes:
        for one in plan(arguments):
            if not results.has(one.arm, one.rows, one.number):
                results.runs.append(perform(processes, one, folder))
                report.save(results, folder)
    report.show(results)
    if arguments.report:
        report.save(results, arguments.report)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code, 128 + the signal's number where one ended the program."""
    try:
        return errors.run(run, argv)
    except Interrupted as interruption:
        print(f"\ninterrupted by {interruption}: every arm has ended; go on with --continue", file=sys.stderr)
        return interruption.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
