"""What a user sees at the end of preprocessing."""

from pathlib import Path

from rich.console import Console
from rich.table import Table


def print_summary(console: Console, statistics: dict, rejected: int, output: Path) -> None:
    """Prints a table of the fields, a table of the splits, and where the data is."""
    console.print(_fields(statistics["fields"], statistics["splits"]["valid"]["fields"]))
    console.print(_splits(statistics["splits"]))
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
        shares = (field["missing_share"], field["unknown_share"], valid[name]["unknown_share"], field["top_share"])
        table.add_row(name, field["kind"], f"{field['table_rows']:,}", *(f"{share:.2%}" for share in shares))
    return table


def _splits(splits: dict[str, dict]) -> Table:
    table = Table(title="Splits", title_justify="left")
    table.add_column("split")
    for heading in ("rows", "clicks", "label rate"):
        table.add_column(heading, justify="right")
    for name, split in splits.items():
        table.add_row(name, f"{split['rows']:,}", f"{split['positives']:,}", f"{split['label_rate']:.4f}")
    return table
