"""What a recipe for a public data set is: which of the publisher's files it needs, and how they become a log with a schema."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from preprocessing.errors import UserError
from preprocessing.folder import lock_folder
from preprocessing.schema import SPLITS, FilesSplit, Schema, load_schema
from preprocessing.sources import Layout, column_names, pieces_of, read


@dataclass(frozen=True)
class Log:
    """A public data set as preprocessing reads it.

    Attributes:
      schema: how to read it.
      patterns: what a user would type after `--input`.
      origin: the publisher's files, where `patterns` name files that were written from them.
      tables_from: the folder that the schema's side tables are relative to.
    """

    schema: Schema
    patterns: list[str]
    origin: tuple[str, ...] = ()
    tables_from: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """A public data set.

    Attributes:
      title: what it is, in a few words.
      how_to_get: what the user downloads and where it goes.
      terms: what the publisher allows.
      find: given the recipe and the user's folder, finds and checks the publisher's files and returns the log that they
        are, or a function that writes it into an empty folder.
    """

    name: str
    title: str
    how_to_get: str
    terms: str
    find: Callable[["Recipe", Path], Log | Callable[[Path], Log]]

    @contextmanager
    def opened(self, folder: Path, output: Path) -> Iterator[Log]:
        """Yields the log. What had to be written for it lies beside `output` and goes when the block ends.

        Raises:
          UserError: a file is absent, present twice, or does not look like the publisher's.
        """
        if not folder.is_dir():
            raise self.error(f"--input {folder}: expected a folder with the publisher's files")
        found = self.find(self, folder)
        if isinstance(found, Log):
            yield found
            return
        with _scratch_folder(output.absolute()) as scratch:
            yield found(scratch)

    def schema(self) -> Schema:
        return load_schema(Path(__file__).with_name(f"{self.name}.yaml"))

    def error(self, problem: str) -> UserError:
        return UserError(f"--dataset={self.name}: {problem}; {self.how_to_get}")

    def file(self, folder: Path, name: str, *others: str) -> Path:
        """The publisher's file, plain or gzipped, or under one of its other names."""
        names = (name, f"{name}.gz", *others)
        found = [folder / candidate for candidate in names if (folder / candidate).is_file()]
        if len(found) != 1:
            received = " and ".join(path.name for path in found) or "none"
            raise self.error(f"expected one of {' and '.join(names)} in {folder}, received {received}")
        return found[0]

    def check_columns(self, path: Path, expected: tuple[str, ...], separator: str = ",") -> None:
        received = tuple(column_names(str(path), Layout(self.name, None, separator=separator)))
        if received != expected:
            raise self.error(f"{path} does not look like the publisher's file: expected the columns {list(expected)}, "
                             f"received {list(received)}")

    def batches(self, path: Path, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        """The rows of a file of comma-separated text, all of which must be well-formed."""
        layout = Layout(self.name, columns)
        for piece in pieces_of(str(path), layout):
            for batch in read(piece, layout):
                if batch.rejections:
                    first = batch.rejections[0]
                    raise self.error(f"{path}, line {first.line}: {first.reason}; download the file again")
                yield batch.columns


def files_of_splits(header: tuple[str, ...]) -> Callable[[Recipe, Path], Log]:
    """Finds the files of a data set that its publisher splits into one file a split, with these columns."""

    def find(recipe: Recipe, folder: Path) -> Log:
        schema = recipe.schema()
        files = {split: recipe.file(folder, getattr(schema.split, split)) for split in SPLITS}
        for path in files.values():
            recipe.check_columns(path, header, schema.separator)
        split = FilesSplit(**{name: path.name for name, path in files.items()})
        return Log(schema.model_copy(update={"split": split}), [str(folder)])

    return find


@contextmanager
def _scratch_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` for the time of the block; those of killed runs go first."""
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{output.name}.input-"
    for stale in [path for path in output.parent.iterdir() if path.name.startswith(prefix)]:
        with contextlib.suppress(BlockingIOError):  # of a run that is not dead
            os.close(lock_folder(stale))
            shutil.rmtree(stale)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
    lock = lock_folder(scratch)
    try:
        yield scratch
    finally:
        os.close(lock)
        shutil.rmtree(scratch, ignore_errors=True)
