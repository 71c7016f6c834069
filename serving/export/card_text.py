"""Pieces of Markdown for the model card."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from preprocessing.schema import AnySplit, ColumnSplit, HashSplit, TimeSplit

_MICROSECONDS_OF_A_YEAR = 31_556_952_000_000


def code(text: str) -> str:
    """A text of the log as code, also inside a table."""
    return "`" + " ".join(text.replace("`", "'").replace("|", "\\|").split()) + "`"


def percent(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else ""


def date(microseconds: int | str) -> str:
    """Microseconds since 1970 in UTC; an empty text where there are none, and the year alone where the calendar of Python ends."""
    if microseconds == "":
        return ""
    try:
        return (datetime(1970, 1, 1) + timedelta(microseconds=microseconds)).isoformat(" ", "minutes")
    except OverflowError:
        return f"about the year {1970 + microseconds // _MICROSECONDS_OF_A_YEAR:,}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns that are empty in every row are left out."""
    kept = [place for place in range(len(columns)) if place == 0 or any(row[place] for row in rows)]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line[place] for place in kept) + " |" for line in lines)


def split_rule(split: AnySplit) -> str:
    """How rows were dealt out to train, valid and test, in words."""
    if isinstance(split, HashSplit):
        keys = ", ".join(map(code, split.key))
        return f"by a hash of {keys} (seed {split.seed}): {split.valid:g} of the keys to valid, {split.test:g} to test, the rest to train"
    if isinstance(split, TimeSplit):
        return f"by column {code(split.column)}: before {split.valid_from} to train, before {split.test_from} to valid, the rest to test"
    if isinstance(split, ColumnSplit):
        return f"as column {code(split.column)} says"
    return "each split has files of its own"
