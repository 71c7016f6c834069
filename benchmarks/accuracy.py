"""Arms x seeds on one data set: `python -m benchmarks.accuracy --suite frappe --input FOLDER`.

Every run is the commands a user types. A run that has finished is not repeated, so an interrupted suite continues. The
test split is read once, at the end of a run; epochs are chosen on the validation split.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import ttest_rel

from preprocessing import errors
from preprocessing.errors import UserError
from preprocessing.files import write_atomically
from trainer.checkpoints import StageCheckpoints
from trainer.config import load_config
from trainer.progress import print_table

REPOSITORY = Path(__file__).resolve().parents[1]
SUITES = REPOSITORY / "benchmarks" / "suites"
METRICS = ("auc", "logloss", "gauc", "ece")


@dataclass(frozen=True)
class Arm:
    """One way of training: settings on top of the suite's, and whether it is pre-trained."""

    name: str
    assignments: tuple[str, ...]
    pretrained: bool


@dataclass(frozen=True)
class Suite:
    """Arms to compare on one data set, and the control that they are compared with."""

    name: str
    dataset: str
    config: Path
    control: str
    arms: tuple[Arm, ...]

    @classmethod
    def load(cls, name: str) -> "Suite":
        path = SUITES / f"{name}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in SUITES.glob("*.yaml"))
            raise UserError(f"suite {name!r} is unknown: choose one of {known}")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        arms = tuple(Arm(arm, tuple(settings.get("set", ())), settings["pretrained"]) for arm, settings in content["arms"].items())
        return cls(name, content["dataset"], REPOSITORY / content["config"], content["control"], arms)


def _command(module: str, *arguments: str, log: Path) -> None:
    """Runs one of our commands, its output appended to `log`."""
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=REPOSITORY, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise UserError(f"`python -m {module} {' '.join(arguments)}` failed with exit code {done.returncode}; see {log}")


def run_arm(suite: Suite, arm: Arm, seed: int, data_dir: Path, work_dir: Path) -> dict:
    """Trains one arm with one seed and returns its row: metrics on valid and test, passes over the data, seconds."""
    model_dir = work_dir / arm.name / f"seed-{seed}"
    row_file = model_dir / "row.json"
    if row_file.is_file():
        return json.loads(row_file.read_text(encoding="utf-8"))
    model_dir.mkdir(parents=True, exist_ok=True)
    assignments = [*arm.assignments, f"seed={seed}"]
    folders = ["--data_dir", str(data_dir), "--model_dir", str(model_dir)]
    settings = ["--config", str(suite.config), *(part for assignment in assignments for part in ("--set", assignment))]
    stages = ["pretrain", "finetune"] if arm.pretrained else ["finetune"]
    start = time.monotonic()
    for stage in stages:
        scratch = [] if arm.pretrained else ["--from_scratch"]
        _command("trainer.task", f"--stage={stage}", *scratch, *folders, *settings, log=model_dir / "log.txt")
    seconds = time.monotonic() - start
    row = {"arm": arm.name, "seed": seed, "configuration": _configuration_hash(suite.config, assignments),
           "passes": {stage: len(StageCheckpoints(model_dir, stage).history()) for stage in stages}, "seconds": round(seconds, 1)}
    for split in ("valid", "test"):
        _command("trainer.task", "--stage=evaluate", f"--split={split}", *folders, log=model_dir / "log.txt")
        row[split] = json.loads((model_dir / "report" / "metrics.json").read_text(encoding="utf-8"))
    write_atomically(row_file, json.dumps(row))
    return row


def _configuration_hash(config: Path, assignments: Sequence[str]) -> str:
    return hashlib.sha256(load_config(config, assignments).to_yaml().encode()).hexdigest()[:12]


def summarise(rows: list[dict], control: str) -> list[tuple[str, ...]]:
    """One line an arm: mean and standard deviation of the test metrics, and the paired difference in AUC to the control."""
    arms = {name: {row["seed"]: row for row in rows if row["arm"] == name} for name in dict.fromkeys(row["arm"] for row in rows)}
    lines = []
    for name, runs in arms.items():
        cells = [_mean_and_spread([run["test"][metric] for run in runs.values()]) for metric in METRICS]
        seeds = sorted(runs.keys() & arms.get(control, {}).keys())
        passes = np.mean([sum(run["passes"].values()) for run in runs.values()])
        time_used = np.mean([run["seconds"] for run in runs.values()])
        lines.append((name, str(len(runs)), *cells, _paired_difference(runs, arms.get(control, {}), seeds) if name != control else "",
                      f"{passes:.0f}", f"{time_used:.0f}"))
    return lines


def _mean_and_spread(values: list[float | None]) -> str:
    if any(value is None for value in values):
        return ""
    spread = f" +- {np.std(values, ddof=1):.5f}" if len(values) > 1 else ""
    return f"{np.mean(values):.5f}{spread}"


def _paired_difference(runs: dict[int, dict], control: dict[int, dict], seeds: list[int]) -> str:
    if len(seeds) < 2:
        return ""
    ours, theirs = ([runs_of[seed]["test"]["auc"] for seed in seeds] for runs_of in (runs, control))
    return f"{np.mean(ours) - np.mean(theirs):+.5f} (p = {ttest_rel(ours, theirs).pvalue:.3f})"


HEADER = ("arm", "seeds", "test AUC", "test logloss", "test GAUC", "test ECE", "AUC - control (paired t)", "passes", "seconds")


def write_results(suite: Suite, rows: list[dict], command: str, output: Path) -> None:
    """Writes NAME.jsonl, one row a run, and NAME.md with the table."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / f"{suite.name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    table += ["| " + " | ".join(line) + " |" for line in summarise(rows, suite.control)]
    text = (f"# {suite.name}: {suite.dataset}\n\nCommand: `{command}`; configuration: `{suite.config.relative_to(REPOSITORY)}`; "
            f"arms: `benchmarks/suites/{suite.name}.yaml`; control: `{suite.control}`. Epochs are chosen on the validation split, "
            "the test split is read once at the end of a run. Mean +- sample standard deviation over seeds; passes and seconds "
            "are means and include pre-training.\n\n") + "\n".join(table) + "\n"
    write_atomically(output / f"{suite.name}.md", text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, help="a file of benchmarks/suites, without .yaml")
    parser.add_argument("--input", required=True, help="folder with the publisher's files of the suite's data set")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default: 3)")
    parser.add_argument("--arms", nargs="*", help="only these arms")
    parser.add_argument("--work_dir", type=Path, default=Path("runs"), help="data folder and model folders (default: runs)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "results", help="where the table goes")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    suite = Suite.load(arguments.suite)
    chosen = [arm for arm in suite.arms if not arguments.arms or arm.name in arguments.arms]
    work_dir = arguments.work_dir.resolve() / suite.name
    work_dir.mkdir(parents=True, exist_ok=True)
    data_dir = work_dir / "data"
    if not data_dir.is_dir():
        _command("preprocessing.task", f"--dataset={suite.dataset}", "--input", str(Path(arguments.input).resolve()),
                 "--output", str(data_dir), log=work_dir / "preprocessing.txt")
    rows = []
    for seed in range(1, arguments.seeds + 1):
        for arm in chosen:
            row = run_arm(suite, arm, seed, data_dir, work_dir)
            rows.append(row)
            print(f"{arm.name} seed {seed}: test AUC {row['test']['auc']:.5f} logloss {row['test']['logloss']:.4f} "
                  f"in {row['seconds']:.0f} s", flush=True)
    print_table(f"suite {suite.name}", summarise(rows, suite.control), HEADER)
    command = f"python -m benchmarks.accuracy --suite {suite.name} --input FOLDER --seeds {arguments.seeds}"
    write_results(suite, rows, command, arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
