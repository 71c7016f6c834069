"""`python -m preprocessing.task`: a raw click log to a data folder."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from preprocessing import errors
from preprocessing.datasets import RECIPES, Log
from preprocessing.drift import command as drift
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.findings import check_rejected_of_folder
from preprocessing.folder import DATA, is_finished, prepare_output
from preprocessing.infer import command as infer
from preprocessing.job import Job
from preprocessing.nightly import nightly_schema, with_split
from preprocessing.schema import Schema, load_schema
from preprocessing.sources import find_files

_WIDTH = 120  # of what is printed where there is no terminal

_DESCRIPTION = """\
Reads click logs and writes what training and serving need: vocabularies and quantile
buckets (from the training split only), packed TFRecords of ids, statistics, and the
transform graph that is later part of the served model.
"""

_EXAMPLES = """\
examples:
  a log that nobody has described yet: a commented schema.yaml with guesses, to correct and to go on with:
    python -m preprocessing.task --input 'logs/*.csv.gz' --infer_schema schema.yaml
  CSV files with a header, described by a schema:
    python -m preprocessing.task --input 'logs/*.csv.gz' --schema schema.yaml --output data
  a public data set, from a folder with its publisher's files:
    python -m preprocessing.task --dataset=frappe --input=frappe --output=data
  every night, with the ids of an earlier data folder, new frequent values behind the old ones:
    python -m preprocessing.task --input 'today/*.csv' --transform_from data --grow_vocabulary --output data-today \\
      --split '{by: hash, key: [user_id, timestamp]}'
  before that, whether the new log still looks like what the data folder was made from; for a scheduler, the exit code
  is 0 within the limits of the schema (`drift`), 3 beyond one of them, 2 if the logs could not be compared:
    python -m preprocessing.task --input 'today/*.csv' --compare data --report drift-today
  on a cluster (any option of Apache Beam may be added; all workers must share --output's file system):
    python -m preprocessing.task ... --runner=FlinkRunner --flink_master=HOST:PORT

a minimal schema.yaml:
    name: shop
    label: {column: clicked}
    split: {by: hash, key: [user_id]}
    fields:
      - {name: user_id, kind: categorical}
      - {name: item_id, kind: categorical, min_count: 2}
      - {name: price, kind: numeric}
"""


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(_main, argv)


def _parser() -> argparse.ArgumentParser:
    recipes = "; ".join(f"{name}: {one.title} ({one.how_to_get}; {one.terms})" for name, one in RECIPES.items())
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing.task", description=_DESCRIPTION, epilog=_EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--schema", type=Path, metavar="FILE", help="YAML description of the log: label, fields, split")
    source.add_argument(
        "--dataset", choices=RECIPES, help=f"a public data set instead of a schema. {recipes}")
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="GLOB",
        help="files of text (CSV, TSV, libsvm, libfm, libffm), plain or gzipped, Parquet or TFRecord; with --dataset, or where the "
             "schema splits by files: their folder")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="the data folder to write; it appears only when it is finished")
    parser.add_argument(
        "--transform_from", type=Path, metavar="DIR",
        help="apply the vocabularies, buckets and side tables of this finished data folder instead of learning them; its schema "
             "too, unless --schema gives one with the same fields (for another split, say)")
    parser.add_argument(
        "--split", metavar="YAML",
        help="with --transform_from: how to split this log, instead of as the schema says, such as '{by: hash, key: [user, time]}'; a "
             "new day lies behind the limits of an old split by time")
    parser.add_argument(
        "--grow_vocabulary", action="store_true",
        help="with --transform_from: append new values of the training rows (min_count times or more) behind the old ones, "
             "which keep their ids")
    parser.add_argument(
        "--compression", choices=("none", "gzip"), default="none",
        help="of the records: gzip is smaller and slower to read (default: none)")
    parser.add_argument(
        "--max_rejected_share", type=float, default=0.01, metavar="SHARE",
        help="fail if more than this share of the rows is malformed (default: 0.01); malformed rows are listed in "
             "DIR/rejected")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a finished data folder, in one step at the end")
    parser.add_argument(
        "--compare", type=Path, metavar="DIR",
        help="write no data folder; compare the log with the training split of this finished one: new values, missing ones, "
             "distributions, label rate, malformed rows. The log is read by the folder's schema, or by --schema, which then "
             "also gives the limits (`drift`). Exit code 3: a limit is exceeded")
    parser.add_argument(
        "--report", type=Path, metavar="DIR",
        help="with --compare: a folder for DRIFT.md, its plots and drift.json; on a cluster all workers must reach it")
    infer.add_flags(parser)
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error was raised")
    return parser


def _main(argv: Sequence[str]) -> int:
    flags, beam_flags = _parser().parse_known_args(argv)
    _check(flags)
    if flags.infer_schema:
        return infer.run(flags, beam_flags, _console())
    if flags.compare:
        return drift.run(flags.compare, flags.input, flags.schema, flags.report, beam_flags, _console())
    with _log(flags) as log:
        return _preprocess(flags, log, argv, beam_flags)


def _preprocess(flags: argparse.Namespace, log: Log, argv: Sequence[str], beam_flags: Sequence[str]) -> int:
    descriptors = find_files(log.patterns, log.schema, labelled=not flags.transform_from)
    job = Job(
        schema=log.schema, descriptors=tuple(descriptors), origin=log.origin, output=flags.output, overwrite=flags.overwrite,
        compression="GZIP" if flags.compression == "gzip" else "", max_rejected_share=flags.max_rejected_share,
        command=("python", "-m", "preprocessing.task", *argv), transform_from=flags.transform_from, grow=flags.grow_vocabulary,
        tables_from=flags.schema.parent if flags.schema else log.tables_from,
    )
    console = _console()
    if not flags.overwrite and is_finished(flags.output, job.fingerprint):
        check_rejected_of_folder(flags.output, flags.max_rejected_share)
        console.print(f"{flags.output} is finished and was made from the same files, schema and flags: nothing to do")
        return 0
    prepare_output(flags.output, flags.overwrite, kinds=(DATA,))

    # Beam and TensorFlow take seconds to import: only after everything that can be checked without them.
    start_tensorflow()
    from preprocessing import pipeline, runner

    pipeline.run(job, runner.parse_beam_options(beam_flags), console)
    return 0


def _check(flags: argparse.Namespace) -> None:
    if not 0 <= flags.max_rejected_share <= 1:
        raise UserError(f"--max_rejected_share: expected a share from 0 to 1, received {flags.max_rejected_share}")
    infer.check_flags(flags)
    if flags.infer_schema:
        return
    if flags.compare:
        _check_compare(flags)
        return
    if flags.report:
        raise UserError("--report needs --compare DIR, the data folder to compare the log with")
    if not flags.output:
        raise UserError("--output DIR is needed: the data folder to write")
    if not (flags.schema or flags.dataset or flags.transform_from):
        raise UserError("one of --schema, --dataset and --transform_from is needed, to say what the columns are")
    if flags.split and not flags.transform_from:
        raise UserError("--split needs --transform_from DIR: otherwise the schema says how to split (`split`)")
    if flags.grow_vocabulary and not flags.transform_from:
        raise UserError("--grow_vocabulary needs --transform_from DIR, the data folder whose vocabularies are to grow")


def _check_compare(flags: argparse.Namespace) -> None:
    parser = _parser()
    for flag in ("output", "dataset", "transform_from", "split", "grow_vocabulary", "overwrite", "compression", "max_rejected_share"):
        if getattr(flags, flag) != parser.get_default(flag):
            raise UserError(f"--{flag} has no meaning beside --compare, which writes no data folder: leave one of them out")


@contextmanager
def _log(flags: argparse.Namespace) -> Iterator[Log]:
    """The log to read and its schema, for as long as what had to be written for it is there."""
    if flags.dataset:
        with RECIPES[flags.dataset].opened(Path(flags.input[0]), flags.output) as log:
            yield replace(log, schema=_applied(flags, log.schema))
    else:
        yield Log(_applied(flags, load_schema(flags.schema) if flags.schema else None), flags.input)


def _applied(flags: argparse.Namespace, given: Schema | None) -> Schema:
    schema = nightly_schema(flags.transform_from, given) if flags.transform_from else given
    return with_split(schema, flags.split) if flags.split else schema


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


if __name__ == "__main__":
    sys.exit(main())
