"""Recipes for public data sets: what the user puts into a folder, and how its files are read."""

from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.schema import SPLITS, Schema, load_schema
from preprocessing.sources import Layout, column_names


@dataclass(frozen=True)
class Recipe:
    """A public data set that its publisher splits into one file a split.

    Attributes:
      title: what it is, in a few words.
      header: the columns of the publisher's files, in order.
      how_to_get: what the user downloads and where it goes.
      terms: what the publisher allows.
    """

    name: str
    title: str
    header: tuple[str, ...]
    how_to_get: str
    terms: str

    def resolve(self, folder: Path) -> Schema:
        """Finds the publisher's files in `folder`, plain or gzipped, checks them, and returns the schema to read them.

        Raises:
          UserError: a file is absent, present twice, or does not have the publisher's columns.
        """
        if not folder.is_dir():
            raise UserError(
                f"--dataset={self.name} --input {folder}: expected a folder with the publisher's files; "
                f"{self.how_to_get}"
            )
        schema = load_schema(Path(__file__).with_name(f"{self.name}.yaml"))
        files = {split: self._find(folder, getattr(schema.split, split)) for split in SPLITS}
        schema = schema.model_copy(update={"split": schema.split.model_copy(update=files)})
        for file in files.values():
            self._check(folder / file, schema)
        return schema

    def _find(self, folder: Path, name: str) -> str:
        found = [candidate for candidate in (name, f"{name}.gz") if (folder / candidate).is_file()]
        if len(found) != 1:
            received = f"both {' and '.join(found)}" if found else "neither"
            raise UserError(
                f"--dataset={self.name}: expected one of {name} and {name}.gz in {folder}, received {received}; "
                f"{self.how_to_get}"
            )
        return found[0]

    def _check(self, path: Path, schema: Schema) -> None:
        header = tuple(column_names(str(path), Layout.of(schema)))
        if header != self.header:
            raise UserError(
                f"--dataset={self.name}: {path} does not look like the publisher's file: expected the columns "
                f"{list(self.header)}, received {list(header)}; {self.how_to_get}"
            )


_ALL = (
    Recipe(
        name="frappe",
        title="context-aware usage of mobile apps, benchmark split Frappe_x1",
        header=(
            "label", "user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country",
            "city",
        ),
        how_to_get="put train.csv, valid.csv and test.csv of the BARS benchmark's Frappe_x1 (plain or .gz) in a folder",
        terms="research only, no redistribution",
    ),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}
