"""What a user sees at the end of preprocessing."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

_NOTHING = "-"


def print_summary(console: Console, statistics: dict, rejected: int, output: Path) -> None:
    """Prints a table of the fields, a table of the splits, and where the data is."""
    console.print(_fields(statistics["fields"], statistics["splits"]["valid"]["fields"]))
    for name, field in statistics["fields"].items():
        for note in _notes(field):
            console.print(f"{name}: {note}")
    console.print(_splits(statistics["splits"]))
    for warning in _warnings(statistics["splits"]):
        console.print(f"note: {warning}")
    if rejected:
        console.print(f"{rejected:,} malformed rows: see {output / 'rejected'}")
    console.print(f"data folder: {output}")


def _fields(fields: dict[str, dict], valid: dict[str, dict]) -> Table:
    table = Table(title="Fields, over the training split", title_justify="left")
    table.add_column("field", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for heading in ("rows", "missing", "unknown", "new in valid", "top value"):
        table.add_column(heading, justify="right")
    for name, field in fields.items():
        shares = (field["missing_share"], field.get("unknown_share"), valid[name].get("unknown_share"), field.get("top_share"))
        rows = f"{field['table_rows']:,}" if "table_rows" in field else _NOTHING
        table.add_row(name, field["kind"], rows, *(_NOTHING if share is None else f"{share:.2%}" for share in shares))
    return table


def _notes(field: dict) -> list[str]:
    """What the table has no column for."""
    notes = []
    if "collision_rate" in field:
        notes.append(f"about {field['distinct']:,} different values in {field['hash_buckets']:,} buckets; {field['collision_rate']:.1%} of them "
                     "share a bucket with another")
    if "mean_length" in field:
        notes.append(f"{field['mean_length']:.1f} values a row, at most {field['longest']:,.0f}; {field['cut_share']:.1%} of the rows lose "
                     "some to max_length")
    return notes


def _warnings(splits: dict[str, dict]) -> list[str]:
    """What training would stumble over."""
    warnings = []
    if empty := [name for name, split in splits.items() if not split["rows"]]:
        warnings.append(f"no rows in {', '.join(empty)}: `split` puts the whole log elsewhere; --split divides it otherwise")
    for name, split in splits.items():
        labelled = split["rows"] - split["unlabelled"]
        if labelled and split["positives"] in (0, labelled):
            what = "no row" if not split["positives"] else "every row"
            warnings.append(f"{what} with a label in {name} is a click: check `label.positive` in the schema")
    return warnings


def _splits(splits: dict[str, dict]) -> Table:
    table = Table(title="Splits", title_justify="left")
    unlabelled = any(split["unlabelled"] for split in splits.values())
    table.add_column("split")
    for heading in ("rows", *["unlabelled"] * unlabelled, "clicks", "label rate"):
        table.add_column(heading, justify="right")
    for name, split in splits.items():
        counts = (split["rows"], *[split["unlabelled"]] * unlabelled, split["positives"])
        table.add_row(name, *(f"{count:,}" for count in counts), f"{split['label_rate']:.4f}")
    return table
