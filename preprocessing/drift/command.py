"""`python -m preprocessing.task --compare DIR --input NEW`: from the flags to the exit code."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.folder import lock_folder, require_unchanged
from preprocessing.nightly import nightly_schema
from preprocessing.schema import MANIFEST_FILE, HashSplit, Schema, load_data_folder_schema, load_schema
from preprocessing.sources import find_files

EXIT_DRIFT = 3


def run(data_dir: Path, inputs: list[str], given: Path | None, report_dir: Path | None, beam_flags: Sequence[str],
        console: Console) -> int:
    """Compares the new log `inputs` with the training split of the data folder `data_dir` and prints what changed.

    Args:
      given: a schema to read the new log with and to take the limits from; None: the data folder's.
      report_dir: where to write the report; it also holds what the workers hand to the driver, so on a cluster all of them
        must reach it. None: no report.

    Returns:
      The exit code: 0 within the limits, 3 a limit is exceeded.

    Raises:
      UserError: the comparison failed.
    """
    schema = _schema(data_dir, given)
    descriptors = find_files(inputs, schema, labelled=False)
    with _work_folder(report_dir) as work:
        start_tensorflow()
        from preprocessing import runner
        from preprocessing.drift import counting, report
        from preprocessing.drift.comparison import compare
        from preprocessing.drift.wording import Comparison

        options = runner.parse_beam_options(beam_flags)
        train, valid, _ = counting.read_profiles(data_dir, schema)
        new = counting.count_log(schema, data_dir, descriptors, work, options, console)
    comparison = Comparison(data_dir, schema, train, valid, new, compare(schema, train, valid, new))
    report.print_comparison(console, comparison)
    if report_dir:
        report.write_report(report_dir, comparison, inputs)
        console.print(f"report: {report_dir / report.MARKDOWN_FILE}")
    return EXIT_DRIFT if comparison.exceeded else 0


def _schema(data_dir: Path, given: Path | None) -> Schema:
    """What to read the new log with. All of its rows are compared: how the folder's rows were split does not matter."""
    folder_schema = load_data_folder_schema(data_dir)
    require_unchanged(data_dir)
    schema = folder_schema
    if given:
        rows = {field.name: field.rows for field in folder_schema.fields if field.rows is not None}
        schema = nightly_schema(data_dir, load_schema(given)).resolve(rows)
    return schema.model_copy(update={"split": HashSplit(key=(schema.label.column,))})


@contextmanager
def _work_folder(report_dir: Path | None) -> Iterator[Path]:
    """An empty folder for what the workers count, which goes away in the end; left over from a killed run, it is emptied.

    Raises:
      UserError: `report_dir` is a data folder, or another comparison is at work there.
    """
    if report_dir is None:
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            yield Path(folder)
        return
    if (report_dir / MANIFEST_FILE).exists():
        raise UserError(f"--report {report_dir} is a data folder, expected another one for the report: choose a new path")
    work = report_dir / ".work"
    work.mkdir(parents=True, exist_ok=True)
    try:
        handle = lock_folder(work)
    except BlockingIOError:
        raise UserError(
            f"--report {report_dir} is being written by another comparison: wait for it or choose another path"
        ) from None
    try:
        for leftover in work.iterdir():
            shutil.rmtree(leftover)
        yield work
    finally:
        shutil.rmtree(work)
        os.close(handle)
