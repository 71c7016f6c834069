"""Runs that finished on another machine: what their page says of them is taken instead of training them again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.measures import average_file
from benchmarks.accuracy.plan import CHECKSUM_DIGITS, Run
from preprocessing.errors import UserError
from preprocessing.files import write_atomically

OF_RUN, OF_AVERAGE = {"configuration", "data", "seed", "passes"}, {"configuration", "data", "seeds", "split"}
ADVICE = "Give the .jsonl files beside pages of this benchmark"


def take(files: Sequence[Path], runs: Sequence[Run], checksum: str) -> int:
    """Puts rows of pages' .jsonl files where these runs would have left theirs, unless they did with as much in it.

    A row is a run's if configuration, seed and data are equal. Averages over seeds (NAME_averages.jsonl) are taken, too, since the
    predictions that they are made of stayed on the other machine.

    Returns:
      How many runs have a row in the files.

    Raises:
      UserError: a file cannot be read, is not of this benchmark, or none has a row of these runs.
    """
    rows = [row for file in files for row in read_rows(file)]
    of_data = [row for row in rows if row["data"] == checksum[:CHECKSUM_DIGITS]]
    by_run = {key_of(row): row for row in of_data if "seed" in row}
    known = {run: by_run[run.configuration, run.seed] for run in runs if (run.configuration, run.seed) in by_run}
    if not known:
        raise UserError(f"--rows {' '.join(map(str, files))}: none of the {len(rows)} rows is of a run that is asked for: {len(rows) - len(of_data)} "
                        f"are of other data than this data folder ({checksum[:CHECKSUM_DIGITS]}), {len(of_data)} of another configuration "
                        "or seed. Leave --rows out to train here")
    for run, row in known.items():
        if not _has_all_of(run.row() or {}, row):
            _write(run.row_file, row)
    folders = {run.configuration: Path(run.folder).parent for run in runs}
    for row in of_data:
        if "seeds" in row and row["configuration"] in folders:
            _write(average_file(folders[row["configuration"]], row["split"], row["seeds"]), row)
    return len(known)


def refuse_loss(output: Path, name: str, runs: Sequence[Run], splits: Sequence[str], sliced_by: Sequence[str], trains: bool) -> None:
    """Refuses to replace a page's rows or averages by less: they may be all that is left of runs on another machine.

    Args:
      output: folder of NAME.jsonl and NAME_averages.jsonl.
      runs: of the new page, with these splits and slices.
      trains: whether runs that have not finished will have, before the page is written.
    """
    file, averages = output / f"{name}.jsonl", output / f"{name}_averages.jsonl"
    to_be = {(run.configuration, run.seed): _row_to_be(run, splits, sliced_by, trains) for run in runs}
    lost = [f"{row['arm']} seed {row['seed']}" for row in _rows_if_any(file) if not _has_all_of(to_be.get(key_of(row), {}), row)]
    lost += [f"{row['arm']}, average of seeds" for row in _rows_if_any(averages) if row["split"] not in splits or _is_lost(row, runs)]
    if lost:
        named = "; ".join(lost[:3]) + ("; ..." if len(lost) > 3 else "")
        raise UserError(f"{file} and {averages.name} have {len(lost)} rows that the new page would not have, or not with every split and slice "
                        f"({named}): take them with --rows {file.with_suffix('')}*.jsonl and leave out --arms and --valid_only, give another "
                        "--output, or remove the files")


def _rows_if_any(file: Path) -> Iterator[dict]:
    return read_rows(file) if file.is_file() else iter(())


def _row_to_be(run: Run, splits: Sequence[str], sliced_by: Sequence[str], trains: bool) -> dict:
    """Splits and slices that the page will have of a run."""
    row, planned = run.row() or {}, sliced_by if trains else ()
    return {split: {"slices": dict.fromkeys([*planned, *row.get(split, {}).get("slices", {})])} for split in splits if trains or split in row}


def _is_lost(average: Mapping, runs: Sequence[Run]) -> bool:
    """Whether neither the average nor what it is made of is here, nor will be trained."""
    of_it = [run for run in runs if run.configuration == average["configuration"] and run.seed in average["seeds"]]
    if len(of_it) < len(average["seeds"]):
        return True
    if average_file(Path(of_it[0].folder).parent, average["split"], average["seeds"]).is_file():
        return False
    return any(run.row_file.is_file() and not run.predictions_file(average["split"]).is_file() for run in of_it)


def read_rows(file: Path) -> Iterator[dict]:
    """The rows of a page.

    Raises:
      UserError: the file cannot be read, or a line is no row.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}. {ADVICE}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}, line {number}: expected a JSON object: {error}. {ADVICE}") from error
        if not isinstance(row, dict) or not (row.keys() >= OF_RUN or row.keys() >= OF_AVERAGE):
            raise UserError(f"{file}, line {number}: expected a row with {', '.join(sorted(OF_RUN))}. {ADVICE}")
        yield row


def key_of(row: Mapping) -> tuple[str, int]:
    """What tells a run apart."""
    return row["configuration"], row["seed"]


def _has_all_of(row: Mapping, other: Mapping) -> bool:
    """Whether a row has every split and slice of another."""
    return all(split in row and other[split]["slices"].keys() <= row[split]["slices"].keys() for split in ("valid", "test") if split in other)


def _write(file: Path, row: Mapping) -> None:
    """An arm is what a suite calls a run, so its name is left out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({key: value for key, value in row.items() if key != "arm"}))
