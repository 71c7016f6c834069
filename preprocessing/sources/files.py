"""From what the user typed after `--input` to pieces of work, and from a piece of work to batches."""

import glob
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from preprocessing.errors import UserError
from preprocessing.schema import SPLITS, FilesSplit, Schema
from preprocessing.sources.layout import Batch, Descriptor, Layout

_READERS = {
    "csv": "text", "parquet": "parquet", "tfrecord": "tfrecord", "libsvm": "sparse", "libfm": "sparse", "libffm": "sparse",
}


def find_files(patterns: list[str], schema: Schema, labelled: bool = True) -> list[Descriptor]:
    """Expands what the user typed after `--input` into descriptors, ordered by path, and checks each file's start.

    Args:
      labelled: whether a column that a file may lack (the label) must be in one of the files at least.

    Raises:
      UserError: nothing matches, a file is empty or has a header only, a column of the schema is missing, or two
        splits name the same file.
    """
    layout = Layout.of(schema)
    if isinstance(schema.split, FilesSplit):
        paths = _files_of_splits(patterns, schema.split)
    else:
        paths = {None: expand(patterns)}
    _check_columns([path for several in paths.values() for path in several], layout, labelled)
    descriptors = []
    for split, several in paths.items():
        pieces = [piece for path in several for piece in pieces_of(path, layout)]
        descriptors += [replace(piece, index=index, total=len(pieces), split=split) for index, piece in enumerate(pieces)]
    return descriptors


def pieces_of(path: str, layout: Layout) -> list[Descriptor]:
    """A file as pieces of work, numbered from 0; checks that it has rows."""
    return _reader(path, layout).pieces(path, layout)


def read(descriptor: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads the rows that a descriptor stands for, batch by batch.

    Raises:
      UserError: the file cannot be read to its end, or lacks a column that is not optional.
    """
    return _reader(descriptor.path, layout).read(descriptor, layout)


def column_names(path: str, layout: Layout) -> list[str]:
    """The columns that a file has, in its order, whether wanted or not.

    Raises:
      UserError: the file is empty, or not of its format.
    """
    return _reader(path, layout).column_names(path, layout)


def _reader(path: str, layout: Layout) -> ModuleType:
    """The module that reads a format; imported only when it is needed, as some take their time."""
    return import_module(f"preprocessing.sources.{_READERS[layout.format_of(path)]}")


def _files_of_splits(patterns: list[str], split: FilesSplit) -> dict[str, list[str]]:
    if len(patterns) != 1 or not os.path.isdir(patterns[0]):
        raise UserError(
            f"--input {' '.join(patterns)}: the schema splits by files (`split.by: files`), so --input must be the one "
            f"folder that holds {split.train!r}, {split.valid!r} and {split.test!r}"
        )
    owner, paths = {}, {}
    for name in SPLITS:
        paths[name] = expand([os.path.join(glob.escape(patterns[0]), getattr(split, name))])
        for path in paths[name]:
            earlier, spelt = owner.setdefault(os.path.realpath(path), (name, path))
            if earlier != name:
                same = "" if spelt == path else f" (it is the same file as {spelt})"
                raise UserError(
                    f"file {path} belongs to both the {earlier} and the {name} split{same}: the patterns under `split` "
                    "in the schema must not overlap"
                )
    return paths


def expand(patterns: list[str]) -> list[str]:
    """The files that the user's patterns match, in the order of their paths.

    A file is read once, however often it is matched and however it is spelt: patterns may overlap, and a link that stands beside
    the file it leads to ("latest") is no second log. It is called by the first of its paths that is no link.
    """
    paths = set()
    for pattern in patterns:
        if os.path.isdir(pattern):
            example = os.path.join(pattern, "*.csv")
            raise UserError(f"--input {pattern} is a folder, expected files: give a glob such as '{example}'")
        found = [path for path in (glob.glob(pattern, recursive=True) or glob.glob(glob.escape(pattern))) if os.path.isfile(path)]
        if not found:
            raise UserError(f"no file matches {pattern!r}: expected at least one file; check the path and the spelling")
        paths.update(found)
    chosen = {}
    for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):
        chosen.setdefault(os.path.realpath(path), path)
    return sorted(chosen.values())


def _check_columns(paths: list[str], layout: Layout, labelled: bool) -> None:
    """Every file must have what `layout` wants. One of them suffices for a column that a file may lack (unless it is the
    label and `labelled` is false), and for any column of a format whose rows may lack it.
    """
    found = {path: column_names(path, layout) for path in paths}
    sparse = [path for path in paths if _reader(path, layout).ROWS_MAY_LACK_COLUMNS]
    lenient = replace(layout, optional=frozenset(layout.columns))
    for path, names in found.items():
        (lenient if path in sparse else layout).check(path, names)
    once = layout.optional if labelled and layout.header is None else frozenset()
    if sparse:
        once |= set(layout.columns) - layout.optional
    for column in layout.columns:
        if column in once and not any(column in names for names in found.values()):
            path = (sparse or paths)[0]
            raise layout.lacks(path, found[path], column)
