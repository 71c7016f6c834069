"""`python -m serving.batch`: scores a log with a SavedModel, without a server, on any Beam runner."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError, run
from preprocessing.folder import prepare_output
from preprocessing.schema import SCHEMA_FILE, HashSplit, Schema, load_data_folder_schema, load_schema
from preprocessing.sources import Descriptor, column_names, find_files
from serving.batch.output import FORMATS, holds_scores
from serving.reading import MAX_REJECTED_SHARE, Reading, reading_of
from serving.score_checks import absent_and_repeated, has_header, require_csv_outputs
from serving.versions.checksums import require_sound
from serving.versions.folders import (
    SAVED_MODEL_FILE,
    SCHEMA_ASSET,
    exported_versions,
    require_base_path,
    require_own_versions,
)
from serving.versions.labels import read_register, require_exported, version_labelled

EPILOG = """\
examples:
  the version that servers would answer from, on all cores of this machine:
    python -m serving.batch --model exports/clicks --input 'logs/*.csv.gz' --key impression_id --output scores
  one version, Parquet in and out, two columns to know a row by:
    python -m serving.batch --model exports/clicks/7 --input 'logs/*.parquet' --key user_id --key time --format parquet \\
      --output scores
  on a cluster (any option of Apache Beam may be added; all workers must reach the model, the input and --output):
    python -m serving.batch ... --runner=FlinkRunner --flink_master=HOST:PORT

The input is read as the schema that the model learnt with says: the same files, columns, separators and missing texts as
preprocessing reads, but the label, group, weight, time stamp and split are not needed. A row is rejected for the same
reasons if one of its features is malformed.
The output folder appears only when it is finished:
  part-00000-of-00004.csv   keys, logit and probability, one line a row, in the input's order; one file for each piece of
                            about 64 MiB of the input
  rejected/*.jsonl          malformed rows: file, line, reason, text
  manifest.json             model, version, rows, rejected rows by reason, files
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.batch", description="Scores a log with a SavedModel, without a server, on any Beam runner.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--model", type=Path, required=True, metavar="DIR",
                        help="model base path (DIR/1, DIR/2, ...), or one version's folder")  # fmt: skip
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--version", type=int, metavar="N",
                        help="of a base path: this version (default: the pinned one, else the highest)")  # fmt: skip
    chosen.add_argument("--label", metavar="NAME", help="of a base path: the version that carries this label")
    parser.add_argument("--signature", default="predict", help="with one tensor a column (default: %(default)s)")
    parser.add_argument("--input", nargs="+", required=True, metavar="GLOB",
                        help="files of text (CSV, TSV, libsvm, libfm, libffm), plain or gzipped, Parquet or "
                             "TFRecord")  # fmt: skip
    described = parser.add_mutually_exclusive_group()
    described.add_argument("--schema", type=Path, metavar="FILE",
                           help="how the log is written and which column each feature is read from (default: the schema that the "
                                "export holds)")  # fmt: skip
    described.add_argument("--data_dir", type=Path, metavar="DIR", help="the data folder of the model, for its schema")
    parser.add_argument("--key", action="append", metavar="COLUMN",
                        help="a column of the log to write beside the scores; may be repeated (default: the schema's "
                             "`key`)")  # fmt: skip
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write; it appears only when it is finished"
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the scores (default: %(default)s)")
    parser.add_argument("--call_rows", type=int, default=4096, metavar="N",
                        help="rows that one call of the model takes at most, which bounds memory (default: "
                             "%(default)s)")  # fmt: skip
    parser.add_argument("--max_rejected_share", type=float, default=MAX_REJECTED_SHARE, metavar="SHARE",
                        help="fail if more than this share of the rows is malformed (default: %(default)s)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace finished scores, in one step at the end")
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error was raised")
    return parser


def _main(argv: Sequence[str]) -> None:
    parser = _parser()
    flags, beam_flags = parser.parse_known_args(argv)
    if flags.call_rows < 1 or not 0 <= flags.max_rejected_share <= 1:
        parser.error("--call_rows must be at least 1 and --max_rejected_share a share from 0 to 1, received "
                     f"{flags.call_rows} and {flags.max_rejected_share}")  # fmt: skip
    version_dir, version = _chosen(flags.model, flags.version, flags.label)
    schema = _schema(flags, version_dir)
    keys = _keys(flags.key, schema)
    descriptors = find_files(flags.input, _only_features(schema), labelled=False)
    _check_output(flags.output, flags.overwrite)

    # Beam and TensorFlow take seconds to import: only after everything that can be checked without them.
    start_tensorflow()
    from preprocessing.runner import parse_beam_options
    from serving.batch.inference import read_signature
    from serving.batch.pipeline import ScoringJob, score
    from serving.signature_defs import specs_of

    options = parse_beam_options(beam_flags, "serving.batch")
    definition = read_signature(version_dir, flags.signature)
    reading = reading_of(specs_of(definition.inputs), schema, name=schema.name, keys=keys)
    _check_outputs(specs_of(definition.outputs), keys, flags.format)
    _check_keys(descriptors, reading)
    job = ScoringJob(
        version_dir=version_dir, version=version, signature=flags.signature, reading=reading, descriptors=tuple(descriptors),
        output=flags.output, form=flags.format, call_rows=flags.call_rows, max_rejected_share=flags.max_rejected_share,
        overwrite=flags.overwrite, command=("python", "-m", "serving.batch", *argv),
    )  # fmt: skip
    logging.getLogger().addFilter(_is_worth_saying)
    console = Console()
    score(job, options, console if console.is_terminal else Console(width=120))


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Beam warns at each load of a model where an optional package of its own is absent."""
    return "Resource module is not available" not in record.getMessage()


def _chosen(model: Path, version: int | None, label: str | None) -> tuple[Path, int | None]:
    """The folder of the version to score with, and its number, if it has one."""
    if (model / SAVED_MODEL_FILE).is_file():
        if version is not None or label is not None:
            raise UserError(
                f"--model {model} is one version's folder: leave out --version and --label, or give its parent folder"
            )
        require_sound(model)
        return model, int(model.name) if model.name.isdecimal() else None
    require_base_path(model)
    require_own_versions(model)
    versions, register = exported_versions(model), read_register(model)
    if label is not None:
        version = version_labelled(model, label, register)
    chosen = register.served(list(versions)) if version is None else version
    if chosen is None:
        raise UserError(f"--model {model} holds no version to score with{_though_pinned(register.pin)}: export one with "
                        "`python -m trainer.task --stage=export`, or give the folder that holds 1, 2, ...")  # fmt: skip
    return require_exported(model, chosen), chosen


def _though_pinned(pin: int | None) -> str:
    return "" if pin is None else f" (version {pin} is pinned and not there)"


def _schema(flags: argparse.Namespace, version_dir: Path) -> Schema:
    if flags.schema:
        return load_schema(flags.schema)
    if flags.data_dir:
        return load_data_folder_schema(flags.data_dir)
    if not (version_dir / SCHEMA_ASSET).is_file():
        raise UserError(
            f"model {version_dir} does not say what the columns of its log are (it has no {SCHEMA_ASSET}): give --schema FILE or "
            f"--data_dir DIR, the {SCHEMA_FILE} or the data folder that it was trained on"
        )
    return load_schema(version_dir / SCHEMA_ASSET)


def _only_features(schema: Schema) -> Schema:
    """The schema of a log of which the features alone are needed, all of it one set of files."""
    label = schema.label.model_copy(update={"unlabelled": "keep"})
    others = dict.fromkeys(("group", "timestamp", "key", "weight"))
    return schema.model_copy(update={"label": label, "split": HashSplit(key=(label.column,)), **others})


def _keys(given: Sequence[str] | None, schema: Schema) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(given or ([schema.key] if schema.key else ())))
    if not keys:
        raise UserError(
            "--key COLUMN is needed, since the schema names no key: the column, or columns, by which scores are joined to the "
            "rows of the log"
        )
    return keys


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuses to replace anything but scores; removes what killed runs left beside them."""
    if holds_scores(output):
        if not overwrite:
            raise UserError(f"--output {output} holds finished scores: choose another path, or add --overwrite to replace them")
    elif output.is_dir() and any(output.iterdir()) or output.is_file():
        raise UserError(f"--output {output} exists and holds no scores of this command, so it is left alone: choose another path or "
                        "remove it yourself")  # fmt: skip
    prepare_output(output, overwrite)


def _check_outputs(outputs: dict, keys: Sequence[str], form: str) -> None:
    if both := sorted(set(outputs) & set(keys)):
        raise UserError(f"--key {both[0]} is called like an output of the model, {sorted(outputs)}: rename the column of the log")
    if form == "csv":
        ranks = {name: spec.shape.rank for name, spec in outputs.items()}
        require_csv_outputs(ranks, "add --format parquet, or choose another --signature")


def _check_keys(descriptors: Sequence[Descriptor], reading: Reading) -> None:
    """Every file must have the keys; one of them suffices for formats whose rows may lack columns."""
    found = {path: column_names(path, reading.layout) for path in dict.fromkeys(one.path for one in descriptors)}
    for key in reading.keys:
        lacking = [path for path, names in found.items() if any(absent_and_repeated(names, [key]))]
        fixed = [path for path in lacking if has_header(reading.layout, path)]
        if fixed or len(lacking) == len(found):
            path = (fixed or lacking)[0]
            count = "several columns" if key in found[path] else "no column"
            raise UserError(f"file {path} has {count} {key!r}, which --key names: its columns are {found[path]}; correct --key")


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)
