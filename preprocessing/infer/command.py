"""From files of a log to a schema file that loads and preprocesses as it stands."""

import argparse
import glob
import os
import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from preprocessing.errors import UserError
from preprocessing.files import replaced_file
from preprocessing.infer.guess import Guess, SplitGuess, guess_schema
from preprocessing.infer.profile import Profile
from preprocessing.infer.render import render
from preprocessing.infer.roles import split_of_file
from preprocessing.infer.sample import SAMPLE_ROWS, Sample, take_sample
from preprocessing.infer.trial import Trial, try_schema
from preprocessing.schema import SPLITS, Schema, parse_schema
from preprocessing.sources import expand

_FEW_ROWS = 1000
_SEPARATORS = {",": ",", "comma": ",", "tab": "\t", "\\t": "\t", "\t": "\t"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command, beside --input and --overwrite, which it shares."""
    group = parser.add_argument_group("a first schema for a log")
    group.add_argument(
        "--infer_schema", type=Path, metavar="FILE",
        help="write no data folder; look at a sample of the log and write a commented schema to start from: kinds, labels, "
             "times, split, missing texts, and columns better left out, such as keys and what decides the label")
    group.add_argument("--label", metavar="COLUMN", help="the label's column (default: guessed by name and values)")
    group.add_argument(
        "--positive", nargs="+", metavar="TEXT",
        help="the label's texts that mean click; all others mean no click (default: guessed)")
    group.add_argument(
        "--separator", choices=_SEPARATORS, metavar="{,|tab}", help="between the values of a line of text (default: found out)")
    group.add_argument(
        "--sample_rows", type=int, metavar="N",
        help=f"rows to look at, spread over up to 16 parts of the log (default: {SAMPLE_ROWS:,})")


def check_flags(flags: argparse.Namespace) -> None:
    """Refuses flags that have no meaning with --infer_schema, or none without it."""
    if flags.infer_schema:
        others = [name for name in ("schema", "dataset", "output", "transform_from", "compare") if getattr(flags, name)]
        if others:
            raise UserError(f"--infer_schema writes a first schema and nothing else: leave out --{others[0]}, and run again with "
                            "--schema and --output once the schema is corrected")
        if flags.sample_rows is not None and flags.sample_rows < 1:
            raise UserError(f"--sample_rows: expected at least 1, received {flags.sample_rows}; the default is {SAMPLE_ROWS}")
        return
    for name in ("label", "positive", "separator", "sample_rows"):
        if getattr(flags, name) is not None:
            raise UserError(f"--{name} has a meaning with --infer_schema FILE only: otherwise the schema says it")


def run(flags: argparse.Namespace, unknown_flags: Sequence[str], console: Console) -> int:
    if unknown_flags:
        raise UserError(f"--infer_schema does not know {' '.join(unknown_flags)}: see --help")
    infer_schema(flags.infer_schema, flags.input, console, flags.label, flags.positive and tuple(flags.positive),
                 _SEPARATORS.get(flags.separator), flags.sample_rows or SAMPLE_ROWS, flags.overwrite)
    return 0


def infer_schema(output: Path, patterns: Sequence[str], console: Console, label: str | None = None,
                 positive: tuple[str, ...] | None = None, separator: str | None = None, sample_rows: int = SAMPLE_ROWS,
                 overwrite: bool = False) -> Schema:
    """Writes a commented schema for a log, and says on the console what to look at.

    Args:
      output: the schema file.
      patterns: what the user typed after `--input`.
      label: the label's column; None: guessed by name and values.
      positive: the label's texts that mean click; None: guessed.
      separator: of text files; None: found out.
      sample_rows: how many rows are looked at.

    Raises:
      UserError: the file exists, nothing can be read, or the label cannot be found.
    """
    if output.exists() and not overwrite:
        raise UserError(f"--infer_schema {output}: the file exists, and is left alone: choose another name, or add --overwrite")
    sample = take_sample(patterns, separator, sample_rows)
    profiles, unreadable = _profiles(sample)
    files_split = _files_split(sample.paths)
    guess = guess_schema(profiles, label, positive, sample.layout.header is None, files_split, sample.repeated,
                         sample.holds_codes)
    head = _head(output, sample)
    split, trial = _settle(head, guess, sample)
    command = _next_command(output, patterns, split)
    opening = _opening(sample, trial, unreadable)
    text = render(head, guess, split, trial, opening, command)
    schema = parse_schema(yaml.safe_load(text), str(output))
    with replaced_file(output) as path:
        path.write_text(text, encoding="utf-8")
    _report(console, output, guess, command, notes=opening[1:-1])
    return schema


def _profiles(sample: Sample) -> tuple[dict[str, Profile], list[str]]:
    """The profiles of the columns, and why others cannot be read."""
    profiles, unreadable = {}, []
    for name, column in sample.columns:
        try:
            profiles[name] = Profile.of(name, column)
        except UserError as error:
            unreadable.append(str(error))
    return profiles, unreadable


def _settle(head: dict[str, Any], guess: Guess, sample: Sample) -> tuple[SplitGuess, Trial]:
    """The first split that leaves none of the three without rows, else the first; and what becomes of the sample under it."""
    first = None
    for split in guess.splits:
        trial = try_schema(parse_schema(head | guess.content(split), "guessed"), sample)
        if all(trial.rows) or split.content["by"] == "files":
            return split, trial
        first = first or (split, trial)
    return first


def _head(output: Path, sample: Sample) -> dict[str, Any]:
    layout = sample.layout
    head = {"name": _schema_name(output, sample)}
    if layout.format_of(sample.paths[0]) == "csv":
        head["separator"] = layout.separator
    if not layout.quoted:
        head["quoted"] = False
    if layout.header:
        head["header"] = list(layout.header)
    return head


def _schema_name(output: Path, sample: Sample) -> str:
    """The schema file's name, or where that says nothing, that of the folder with the log."""
    folder = Path(sample.paths[0]).absolute().parent.name
    name = output.name.split(".")[0] if output.name.split(".")[0] != "schema" else folder
    name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return (name if name[:1].isalpha() else f"log_{name}".rstrip("_"))[:64]


def _files_split(paths: tuple[str, ...]) -> dict[str, str] | None:
    """A pattern for the files of each split, where they lie in one folder and their names say train, valid and test."""
    folders = {Path(path).parent for path in paths}
    of_split = {split: [Path(path).name for path in paths if split_of_file(Path(path).name) == split] for split in SPLITS}
    if len(folders) != 1 or sum(map(len, of_split.values())) != len(paths) or not all(of_split.values()):
        return None
    patterns = {split: _pattern(names) for split, names in of_split.items()}
    all_names = [path.name for path in folders.pop().iterdir()]
    exact = all(sorted(filter(partial(fnmatch, pat=patterns[split]), all_names)) == sorted(names)
                for split, names in of_split.items())
    return patterns if exact else None


def _pattern(names: list[str]) -> str:
    """The name, or what the names begin and end with."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)
    end = os.path.commonprefix([name[len(start):][::-1] for name in names])[::-1]
    return f"{glob.escape(start)}*{glob.escape(end)}"


def _next_command(output: Path, patterns: Sequence[str], split: SplitGuess) -> str:
    inputs = [str(Path(expand(list(patterns))[0]).parent)] if split.content["by"] == "files" else patterns
    quoted = " ".join(shlex.quote(one) for one in inputs)
    return f"python -m preprocessing.task --input {quoted} --schema {shlex.quote(str(output))} --output DIR"


# ---- What people read ----


def _opening(sample: Sample, trial: Trial, unreadable: list[str]) -> list[str]:
    """The paragraphs at the top of the file."""
    rows, files = sample.table.num_rows, len(sample.paths)
    spread = f"{rows:,} rows spread over {f'{sample.files} of {files} files' if files > 1 else 'its file'}"
    seen = f"all {rows:,} rows" if sample.complete else spread
    paragraphs = list(unreadable)
    if sample.unread:
        paragraphs.append(f"Only the beginning of {', '.join(sample.unread)} was read: if the rows are in the order of time, "
                          "correct the limits of the split.")
    if sample.partial:
        paragraphs.append(f"Columns {', '.join(sample.partial)} are not in every file, and were not looked at.")
    if sample.rejections:
        path, first = sample.rejections[0]
        paragraphs.append(f"{len(sample.rejections):,} rows could not be read; the first: {path}, line {first.line}: "
                          f"{first.reason}.")
    if trial.rejected:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in trial.rejected.most_common(3))
        paragraphs.append(f"{trial.rejected.total():,} rows of the sample would be rejected as malformed: {reasons}.")
    if rows < _FEW_ROWS:
        paragraphs.append(f"{rows:,} rows are few: shares are rough, and leaks may go unnoticed.")
    return [
        f"A first guess at a log, from {seen}. The comments say what was seen, and what speaks for the guess.", *paragraphs,
        "Correct what is wrong, then run",
    ]


def _report(console: Console, output: Path, guess: Guess, command: str, notes: list[str]) -> None:
    table = Table()
    for heading in ("column", "guess", "why"):
        table.add_column(heading, overflow="fold")
    table.add_row(guess.label.column, "label", f"click: {', '.join(guess.label.positive)}")
    for one in guess.columns:
        kind = one.entry["kind"] if one.left_out is None else _role(one.profile.name, guess) or "left out"
        table.add_row(escape(one.profile.name), kind, escape(one.left_out or "; ".join(one.notes)))
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"Wrote {output}. Read its comments, correct it, then run", soft_wrap=True, highlight=False, markup=False)
    console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


def _role(column: str, guess: Guess) -> str | None:
    if guess.time and column == guess.time.column:
        return "time stamp"
    return "key" if column == guess.key else None
