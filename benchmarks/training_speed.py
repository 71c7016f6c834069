"""How fast both stages train, beside two peers and the machine's own limits: `python -m benchmarks.training_speed`."""

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.processes import Interrupted, Processes
from benchmarks.speed.network import STAGES, step_flops
from benchmarks.speed.report import ARMS, DESCRIPTIONS, GROWTH, MAGNITUDES, RESULTS, load_records, save, shorten, show
from preprocessing import errors
from preprocessing.errors import UserError
from preprocessing.schema import load_data_folder_schema
from trainer.config import load_config

REPOSITORY = Path(__file__).resolve().parents[1]
ANSWER_SECONDS = 3600

EPILOG = "arms:\n" + "\n".join(
    textwrap.fill(text, 100, initial_indent=f"  {arm:16}", subsequent_indent=" " * 18) for arm, text in DESCRIPTIONS.items()) + """

All arms train on the same rows with the same batch size and dropout, on all cores, each in a process of its own. They
take turns: in every round each arm trains a few steps while the others wait, so that a ratio compares neighbours in
time. With two sizes or more, both stages are then compared on the smallest table and on the largest, with the same
lookups spread over it.

The log, what the arms print and the results stay in --output. An interrupted call goes on with --continue: a size that
was measured with the same settings is not measured again. At 10m values all arms together hold about 18 GB; with less
memory, name fewer --arms at once.

examples:
  python -m benchmarks.training_speed
  python -m benchmarks.training_speed --values 100k --arms finetune pretrain --rounds 3
  python -m benchmarks.training_speed --continue --peers_python peers/bin/python --report docs/results"""


@dataclass(frozen=True)
class Settings:
    """What two measurements must share to be one."""

    rows: int
    batch_size: int
    dropout: float
    rounds: int
    warmup: int
    settle: int
    steps: int
    arms: tuple[str, ...]
    assignments: tuple[str, ...]


@dataclass(frozen=True)
class Contestant:
    """An arm on a folder. Contestants of one experiment take turns."""

    key: str
    arm: str
    folder: Path


@dataclass(frozen=True)
class Experiment:
    """Contestants that are compared. `growth`: stages on the smallest and the largest table; otherwise arms on one log."""

    name: str
    values: int
    contestants: tuple[Contestant, ...]


# The log.

def parse_values(text: str) -> int:
    """100k -> 100000, 10m -> 10000000."""
    number, magnitude = (text[:-1], MAGNITUDES[text[-1]]) if text[-1:] in MAGNITUDES else (text, 1)
    if not number.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number such as 100k or 10m, received {text!r}")
    return int(number) * magnitude


def write_log(processes: Processes, output: Path, rows: int, values: int, spread_over: int | None = None) -> Path:
    name = shorten(values) + (f"-over-{shorten(spread_over)}" if spread_over else "")
    folder = (output / "logs" / f"{name}-{shorten(rows)}-rows").resolve()
    if not folder.is_dir():
        spread = ["--spread_over", str(spread_over)] if spread_over else []
        processes.run(["-m", "benchmarks.speed.log", "--folder", str(folder), "--values", str(values), "--rows", str(rows), *spread])
    return folder


# Measuring.

@dataclass(frozen=True)
class Arm:
    """A contestant whose process waits for its turns."""

    contestant: Contestant
    process: subprocess.Popen
    processes: Processes
    printed: Path

    def ask(self, settle: int, steps: int) -> dict:
        """Lets the arm take a turn; returns what it measured (see `benchmarks.speed.worker`)."""
        try:
            self.process.stdin.write(json.dumps({"settle": settle, "steps": steps}).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.processes.read_line(self.process, ANSWER_SECONDS)
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise UserError(f"arm {self.contestant.key} ended early or gave no answer within {ANSWER_SECONDS} s: see what it printed in "
                            f"{self.printed}; an arm that was killed may have run out of memory, so measure fewer --arms at once")
        return json.loads(answer)


@contextmanager
def started(processes: Processes, contestant: Contestant, settings: Settings, peers_python: str, printed: Path) -> Iterator[Arm]:
    command = ["-m", "benchmarks.speed.worker", "--arm", contestant.arm, "--folder", str(contestant.folder),
               "--batch_size", str(settings.batch_size), "--dropout", str(settings.dropout)]
    command += [part for assignment in settings.assignments for part in ("--set", assignment)]
    python = peers_python if contestant.arm == "fuxictr" else sys.executable
    # Threads of OpenMP spin for a while after each operation, on cores that the next arm in turn needs.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    printed.parent.mkdir(parents=True, exist_ok=True)
    with printed.open("w", encoding="utf-8") as file, processes.started(
            command, python, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment) as process:
        yield Arm(contestant, process, processes, printed)


def measure(processes: Processes, experiment: Experiment, settings: Settings, peers_python: str, output: Path) -> dict:
    """Lets the contestants take turns, and returns the experiment's record."""
    record = {"experiment": experiment.name, "values": experiment.values, "settings": asdict(settings), "cores": os.cpu_count(),
              "flops": _flops_of_a_step(experiment.contestants[0].folder, settings),
              "load": os.getloadavg()[0], "rounds": []}
    name = experiment.name
    with ExitStack() as stack:
        arms = []
        for contestant in experiment.contestants:
            printed = output / "printed" / f"{name}-{contestant.key}.txt"
            arms.append(stack.enter_context(started(processes, contestant, settings, peers_python, printed)))
            warm = arms[-1].ask(0, settings.warmup)
            print(f"{name}  {contestant.key}: ready after {warm['seconds']:.0f} s for {warm['steps']} steps", flush=True)
        for number in range(settings.rounds):
            turn = arms if number % 2 == 0 else arms[::-1]
            record["rounds"].append(_round(turn, settings, f"{name} round {number + 1}/{settings.rounds}"))
    return {**record, "finished": time.strftime("%Y-%m-%d %H:%M")}


def _flops_of_a_step(folder: Path, settings: Settings) -> dict[str, float]:
    field_rows, scoring = load_data_folder_schema(folder).field_rows, load_config(None, settings.assignments).model.scoring
    return {stage: step_flops(stage, settings.batch_size, field_rows, scoring.full_softmax_rows, scoring.sampled_candidates)
            for stage in STAGES}


def _round(turn: Sequence[Arm], settings: Settings, title: str) -> dict[str, dict]:
    answers = {}
    for arm in turn:
        answers[arm.contestant.key] = answer = arm.ask(settings.settle, settings.steps)
        print(f"{title}  {arm.contestant.key}: {1000 * answer['seconds'] / answer['steps']:.1f} ms a step", flush=True)
    return answers


# The program.

def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", nargs="+", type=parse_values, default=[100_000, 1_000_000, 10_000_000], metavar="N",
                        help="distinct values of the logs to measure on (default: 100k 1m 10m)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", help="only these (default: all; see below)")
    parser.add_argument("--rows", type=parse_values, default=1_000_000, help="training rows of each log (default: 1m)")
    parser.add_argument("--batch_size", type=int, default=4096, help="rows a step (default: 4096)")
    parser.add_argument("--dropout", type=float, default=0.2, help="dropout of the deep tower, in every arm (default: 0.2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every arm (default: 5)")
    parser.add_argument("--warmup", type=int, default=10, help="unmeasured steps of every arm before the first round (default: 10)")
    parser.add_argument("--settle", type=int, default=3, help="unmeasured steps at the start of each turn (default: 3)")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each turn (default: 20)")
    parser.add_argument("--only_growth", action="store_true", help="only compare the smallest table with the largest")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="A.B=C",
                        help="override one setting of our own stages; may be repeated")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter of the arm fuxictr (default: this one)")
    parser.add_argument("--output", type=Path, default=Path("runs") / RESULTS, help="where everything goes (default: runs/training_speed)")
    parser.add_argument("--report", type=Path, help="a folder that gets training_speed.jsonl and training_speed.md as well")
    parser.add_argument("--continue", action="store_true", dest="resume", help="keep what was measured with the same settings")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def chosen_arms(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The arms that take part; FuxiCTR only where it is installed, unless it is asked for by name."""
    asked = tuple(arm for arm in ARMS if arm in (arguments.arms or ARMS))
    if "fuxictr" not in asked:
        return asked
    found = subprocess.run([arguments.peers_python, "-c", "import torch, fuxictr.pytorch.models"], capture_output=True, check=False)
    if found.returncode == 0:
        return asked
    advice = "`pip install -e '.[peers]'`, or give --peers_python an interpreter that has torch and fuxictr"
    if arguments.arms:
        raise UserError(f"arm fuxictr: {arguments.peers_python} cannot import torch and fuxictr: {advice}")
    print(f"arm fuxictr is left out, as {arguments.peers_python} cannot import torch and fuxictr: {advice}")
    return tuple(arm for arm in asked if arm != "fuxictr")


def plan(processes: Processes, arguments: argparse.Namespace, arms: Sequence[str]) -> list[Callable[[], Experiment]]:
    """The experiments in turn. Each writes its logs when it is called."""
    rows, sizes = arguments.rows, sorted(set(arguments.values))

    def of_size(values: int) -> Experiment:
        folder = write_log(processes, arguments.output, rows, values)
        return Experiment(shorten(values), values, tuple(Contestant(arm, arm, folder) for arm in arms))

    def growth() -> Experiment:
        folders = {shorten(sizes[0]): write_log(processes, arguments.output, rows, sizes[0]),
                   shorten(sizes[-1]): write_log(processes, arguments.output, rows, sizes[0], sizes[-1])}
        stages = [stage for stage in STAGES if stage in arms]
        return Experiment(GROWTH, sizes[-1], tuple(
            Contestant(f"{stage}-{name}", stage, folder) for stage in stages for name, folder in folders.items()))

    experiments = [] if arguments.only_growth else [lambda values=values: of_size(values) for values in sizes]
    return experiments + ([growth] if len(sizes) > 1 and set(STAGES) & set(arms) else [])


def run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    arms = chosen_arms(arguments)
    settings = Settings(arguments.rows, arguments.batch_size, arguments.dropout, arguments.rounds, arguments.warmup, arguments.settle,
                        arguments.steps, arms, tuple(arguments.assignments))
    path = arguments.output / f"{RESULTS}.jsonl"
    same = json.loads(json.dumps(asdict(settings)))
    with Processes(REPOSITORY) as processes:
        for build in plan(processes, arguments, arms):
            experiment = build()
            records = load_records(path)
            done = next((record for record in records if record["experiment"] == experiment.name), None)
            if not (arguments.resume and done and done["settings"] == same):
                done = measure(processes, experiment, settings, arguments.peers_python, arguments.output)
                records = [record for record in records if record["experiment"] != experiment.name] + [done]
                save(records, arguments.output)
            show(done)
    if arguments.report:
        save(load_records(path), arguments.report)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code, 128 + the signal's number where one ended the program."""
    try:
        return errors.run(run, argv)
    except Interrupted as interruption:
        print(f"\ninterrupted by {interruption}: every arm has ended; go on with --continue", file=sys.stderr)
        return interruption.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
