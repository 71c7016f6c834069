"""Runs that finished on another machine: what their page says of them is taken instead of training them again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.measures import average_file
from benchmarks.accuracy.plan import CHECKSUM_DIGITS, Run
from preprocessing.errors import UserError
from preprocessing.files import write_atomically

OF_RUN, OF_AVERAGE = {"configuration", "data", "seed", "passes"}, {"configuration", "data", "seeds", "split"}


def take(files: Sequence[Path], runs: Sequence[Run], checksum: str) -> int:
    """Puts rows of pages' .jsonl files where these runs would have left theirs, unless they did.

    A row is a run's if configuration, seed and data are equal; averages over seeds (NAME_averages.jsonl) are taken, too, since the
    predictions that they are made of stayed on the other machine.

    Returns:
      How many runs have got a row.

    Raises:
      UserError: a file cannot be read or is not of this benchmark.
    """
    rows = [row for file in files for row in _rows(file) if row["data"] == checksum[:CHECKSUM_DIGITS]]
    by_run = {(row["configuration"], row["seed"]): row for row in rows if "seed" in row}
    missing = {run.row_file: by_run[key] for run in runs
               if (key := (run.configuration, run.seed)) in by_run and not run.row_file.is_file()}
    for file, row in missing.items():
        _write(file, row)
    folders = {run.configuration: Path(run.folder).parent for run in runs}
    for row in rows:
        if "seeds" in row and row["configuration"] in folders:
            _write(average_file(folders[row["configuration"]], row["split"], row["seeds"]), row)
    return len(missing)


def _rows(file: Path) -> Iterator[dict]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--rows {file}: cannot be read: {error}. Give the .jsonl files beside pages of this benchmark") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"--rows {file}, line {number}: expected a JSON object: {error}") from error
        if not isinstance(row, dict) or not (row.keys() >= OF_RUN or row.keys() >= OF_AVERAGE):
            raise UserError(f"--rows {file}, line {number}: expected a row of this benchmark, with {', '.join(sorted(OF_RUN))}; "
                            "give the .jsonl files beside its pages")
        yield row


def _write(file: Path, row: Mapping) -> None:
    """An arm is what a suite calls a run, so its name is left out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({key: value for key, value in row.items() if key != "arm"}))
