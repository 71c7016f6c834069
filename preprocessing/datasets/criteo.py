"""Criteo's Display Advertising Challenge: one file without header, 13 counts and 26 hashed texts a row."""

from pathlib import Path

from preprocessing.datasets.recipe import Log, Recipe
from preprocessing.sources import Layout, column_names


def find(recipe: Recipe, folder: Path) -> Log:
    schema, path = recipe.schema(), recipe.file(folder, "train.txt")
    first = column_names(str(path), Layout(recipe.name, None, separator=schema.separator))
    if len(first) != len(schema.header) or first[0] not in ("0", "1"):
        raise recipe.error(f"{path} does not look like the publisher's file: expected {len(schema.header)} values a line, "
                           f"separated by tabs, the first of them 0 or 1, received {len(first)} values, the first "
                           f"{first[0][:40]!r}")
    return Log(schema, [str(path)])
