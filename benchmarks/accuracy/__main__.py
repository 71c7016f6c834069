"""Arms x seeds on one data set: `python -m benchmarks.accuracy --suite frappe --input FOLDER`.

Every run is the commands a user types, which its log shows. A run that has finished is a row on disk and is not repeated; one
that was interrupted or killed continues from its checkpoint when the same command is called again. Epochs are chosen on the
validation split; the test split is predicted once, at the end of a run.

Arms of the same configuration, also of other suites on the same data, share their runs, and arms that are pre-trained alike
share that. Remove runs/DATASET/runs to repeat all, after a change of the code say; rows name the commit they come from. A page that was
begun on another machine is continued with `--rows` and the .jsonl files beside it: what is in them is not trained again. The committed
pages are made with `--output docs/results`.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy import elsewhere, task
from benchmarks.accuracy.plan import Planned, plan
from benchmarks.accuracy.report import Results, main_table, write
from benchmarks.accuracy.schedule import Job, Schedule
from benchmarks.accuracy.suite import REPOSITORY, Suite, load_suite, suite_path
from benchmarks.processes import Interrupted
from preprocessing import errors
from preprocessing.environment import available_cores
from preprocessing.errors import UserError
from preprocessing.schema import load_data_folder_schema, train_checksum
from trainer.progress import print_table

FAILURES_SHOWN = 3
PRELOAD = "benchmarks.accuracy.preload"
EXAMPLES = """examples:
  python -m benchmarks.accuracy --suite frappe --input frappe --jobs 2
  python -m benchmarks.accuracy --suite frappe --input frappe --report_only
  python -m benchmarks.accuracy --suite frappe --input frappe --rows docs/results/frappe*.jsonl
  python -m benchmarks.accuracy --suite frappe_switches --input frappe --valid_only --seeds 1 --arms DGenCTR "linear schedule"
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, help="a file of benchmarks/suites, without .yaml; or the path of one")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--input", help="folder with the publisher's files of the suite's data set, which is preprocessed once")
    data.add_argument("--data_dir", type=Path, help="instead: a data folder that is preprocessed already")
    parser.add_argument("--seeds", type=int, help="seeds 1 to N (default: the suite's)")
    parser.add_argument("--arms", nargs="*", help="only these arms; of a curve, its arms or single points")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores (default: 1)")
    parser.add_argument("--valid_only", action="store_true", help="for tuning: never read the test split; the page is of the validation split")
    parser.add_argument("--report_only", action="store_true", help="train nothing; write the page from the runs that have finished")
    parser.add_argument("--rows", nargs="+", type=Path, default=[], help="rows of runs that finished on other machines, from the .jsonl files of "
                        "their pages: of equal configuration, seed and data they are taken as they are")
    parser.add_argument("--work_dir", type=Path, default=Path("runs"), help="data folder, runs and pre-trainings, by data set (default: runs)")
    parser.add_argument("--output", type=Path, help="where the page goes, docs/results say (default: into the data set's part of --work_dir)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    if arguments.jobs < 1 or (arguments.seeds is not None and arguments.seeds < 1):
        raise UserError("--jobs and --seeds: expected a number from 1 on")
    path = suite_path(arguments.suite)
    suite = load_suite(path)
    names = _chosen(suite, arguments.arms)
    work_dir = arguments.work_dir.resolve() / suite.dataset
    data_dir = _data_folder(suite, arguments, work_dir)
    seeds = range(1, (arguments.seeds or suite.seeds) + 1)
    checksum = train_checksum(data_dir)
    planned = plan(suite, names, seeds, data_dir, checksum, work_dir)
    runs = [one.run for one in planned]
    if arguments.rows:
        print(f"--rows: {elsewhere.take(arguments.rows, runs, checksum)} runs are known from there", flush=True)
    splits = ("valid",) if arguments.valid_only else ("valid", "test")
    if arguments.output:
        elsewhere.refuse_loss(arguments.output, path.stem, runs, splits, suite.sliced_by, trains=not arguments.report_only)
    failed = [] if arguments.report_only else _train(planned, splits, suite.sliced_by, arguments.jobs)
    _report(suite, path, planned, arguments, work_dir)
    if failed:
        shown = "; ".join(failed[:FAILURES_SHOWN]) + (f"; and {len(failed) - FAILURES_SHOWN} more" if len(failed) > FAILURES_SHOWN else "")
        raise UserError(f"{len(failed)} runs failed: {shown}. Mend what their logs say and call the same command again: what has "
                        "finished is not repeated")


def _chosen(suite: Suite, arms: Sequence[str] | None) -> list[str]:
    """The names of the runs that are asked for, all by default."""
    names = list(suite.run_names())
    if not arms:
        return names
    of_curves = {arm: [curve.arm_at(arm, point) for curve in suite.curves for point in curve.points]
                 for curve in suite.curves for arm in curve.arms}
    unknown = [arm for arm in arms if arm not in names and arm not in of_curves]
    if unknown:
        raise UserError(f"--arms {' '.join(unknown)}: suite {suite.title} has {', '.join(map(repr, [*names, *of_curves]))}")
    wanted = {name for arm in arms for name in (arm, *of_curves.get(arm, ()))}
    return [name for name in names if name in wanted]


def _data_folder(suite: Suite, arguments: argparse.Namespace, work_dir: Path) -> Path:
    """The data folder, preprocessed if it is not there yet."""
    data_dir = (arguments.data_dir or work_dir / "data").resolve()
    if not arguments.data_dir and not data_dir.is_dir():
        work_dir.mkdir(parents=True, exist_ok=True)
        log = work_dir / "preprocessing.txt"
        command = ["preprocessing.task", f"--dataset={suite.dataset}", "--input", str(Path(arguments.input).resolve()), "--output", str(data_dir)]
        print(f"python -m {' '.join(command)}", flush=True)
        with open(log, "a", encoding="utf-8") as file:
            done = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, stdout=file, stderr=file, check=False)
        if done.returncode:
            raise UserError(f"`python -m {' '.join(command)}` failed with exit code {done.returncode}; see {log}")
    known = [field.name for field in load_data_folder_schema(data_dir).id_fields]
    for field in suite.sliced_by:
        if field not in known:
            raise UserError(f"suite {suite.title}: slices.fields: the data folder {data_dir} has no single-valued field {field!r}, but {known}")
    return data_dir


def _train(planned: Sequence[Planned], splits: tuple[str, ...], sliced_by: tuple[str, ...], at_once: int) -> list[str]:
    """Trains what has not finished. Returns titles and logs of the runs that failed."""
    threads = max(available_cores() // at_once, 1) if at_once > 1 else None
    commit, jobs, known_seconds = _commit(), {}, {}
    for one in planned:
        of_run = task.Task(one.run, splits, sliced_by, threads, commit)
        if of_run.is_done:
            known_seconds[one.run.configuration] = one.run.row()["seconds"]
        else:
            jobs.setdefault(one.run.folder, Job(one, of_run, of_run.log))
    print(f"{len(planned)} runs of {len({one.arm for one in planned})} arms, {len(jobs)} of them to do, {at_once} at a time", flush=True)

    def finished(job: Job, progress: str) -> None:
        row = job.planned.run.row()
        shown = ", ".join(f"{split} AUC {row[split]['auc']:.5f} logloss {row[split]['logloss']:.4f}" for split in splits)
        print(f"finished: {job.planned.title}: {shown}, {row['passes']:.1f} passes in {row['seconds']:.0f} s; {progress}", flush=True)

    failed = Schedule(list(jobs.values()), task.main, PRELOAD, at_once, known_seconds).run(finished)
    return [f"{job.planned.title} ({job.log})" for job in failed]


def _commit() -> str:
    """The commit of the code, "+changes" where files differ from it; "unknown" outside a checkout."""
    found = subprocess.run(["git", "describe", "--always", "--dirty=+changes", "--abbrev=10", "--exclude=*"], cwd=REPOSITORY,
                           capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _report(suite: Suite, path: Path, planned: Sequence[Planned], arguments: argparse.Namespace, work_dir: Path) -> None:
    split = "valid" if arguments.valid_only else "test"
    command = f"python -m benchmarks.accuracy --suite {arguments.suite} --input FOLDER --seeds {arguments.seeds or suite.seeds}"
    if arguments.arms:
        command += f" --arms {shlex.join(arguments.arms)}"
    file = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path.name
    results = Results.of(suite, planned, split, command + (" --valid_only" if arguments.valid_only else ""), str(file))
    for section in suite.tables:
        header, *lines = main_table(results, section)
        if lines:
            print_table(section.title, lines, tuple(header))
    output = arguments.output or work_dir / split
    print(f"page: {write(results, path.stem, output)}")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return errors.run(run, argv)
    except Interrupted as stop:
        print(f"stopped by {stop}: the runs under way have saved; the same command continues")
        return stop.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
