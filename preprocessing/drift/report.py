"""What a comparison tells: a table on the console, and a folder with DRIFT.md, plots and drift.json."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from preprocessing.drift import plots
from preprocessing.drift.comparison import CERTAIN_Z, FEW_ROWS, Difference
from preprocessing.drift.profile import LogProfile
from preprocessing.drift.wording import Comparison, percent
from preprocessing.files import replaced_file

JSON_FILE = "drift.json"
MARKDOWN_FILE = "DRIFT.md"
_ROWS_SHOWN = 25


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Prints the logs side by side, the largest differences, and the verdict."""
    logs = Table(title="Logs", title_justify="left")
    logs.add_column("")
    for heading in _LOG_HEADINGS:
        logs.add_column(heading, justify="right")
    for row in _log_rows(comparison):
        logs.add_row(*row)
    console.print(logs)
    table = Table(title="Differences from the training split (new values: from the validation split), the worst first",
                  title_justify="left")
    for heading, justify in (("of", "left"), ("measure", "left"), ("change", "left"), ("difference", "right"),
                             ("limit", "right"), ("x limit", "right")):
        table.add_column(heading, justify=justify, overflow="fold")
    for one in comparison.differences[:_ROWS_SHOWN]:
        style = "bold red" if one.exceeded else "yellow" if one.uncertain else None
        table.add_row(one.subject, comparison.title(one), comparison.change(one), f"{one.size:.4f}", f"{one.limit:g}",
                      f"{one.ratio:.2f}", style=style)
    console.print(table)
    hidden = len(comparison.differences) - _ROWS_SHOWN
    if hidden > 0:
        console.print(f"and {hidden} smaller differences")
    for sentence in _verdict(comparison):
        console.print(sentence)


def write_report(folder: Path, comparison: Comparison, inputs: list[str]) -> None:
    """Writes DRIFT.md, its plots and, last, drift.json, each whole or not at all."""
    figures = {"differences.png": plots.differences(comparison)}
    if changed := plots.changed_fields(comparison):
        figures["fields.png"] = changed
    for name, figure in figures.items():
        with replaced_file(folder / name) as path:
            plots.save(figure, path)
    with replaced_file(folder / MARKDOWN_FILE) as path:
        path.write_text(_markdown(comparison, inputs, list(figures)), encoding="utf-8")
    with replaced_file(folder / JSON_FILE) as path:
        path.write_text(json.dumps(_content(comparison, inputs), indent=1, ensure_ascii=False), encoding="utf-8")


def _verdict(comparison: Comparison) -> list[str]:
    exceeded, uncertain = comparison.exceeded, comparison.uncertain
    sentences = [f"{len(exceeded)} of {len(comparison.differences)} differences exceed their limits"
                 + (f", first of all {exceeded[0].subject}: {comparison.title(exceeded[0])}." if exceeded else ".")]
    if uncertain:
        sentences.append(f"{len(uncertain)} more are beyond their limits, but may be chance in a log of this size.")
    if comparison.new.rows < FEW_ROWS:
        visible = CERTAIN_Z * 0.5 / np.sqrt(comparison.new.rows)
        sentences.append(f"The new log has only {comparison.new.rows:,} rows (few: below {FEW_ROWS:,}): a share near one half must "
                         f"change by about {percent(visible)} to be told from chance, so smaller drift may go unseen.")
    if not comparison.new.labelled:
        sentences.append("No row of the new log has a label, so the click rate is not compared.")
    return sentences


_LOG_HEADINGS = ("training split", "validation split", "new log")


def _log_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    logs = (comparison.train, comparison.valid, comparison.new)
    return [
        ("rows", *(f"{log.rows:,}" for log in logs)),
        ("without label", *(percent(log.unlabelled / log.rows) if log.rows else "-" for log in logs)),
        ("click rate", *(percent(log.positives / log.labelled) if log.labelled else "-" for log in logs)),
        ("malformed", *(percent(log.rejected / log.read) for log in logs)),
        ("days (UTC)", *(" to ".join(dict.fromkeys(log.days)) if log.days else "-" for log in logs)),
    ]


# ---- DRIFT.md ----


def _markdown(comparison: Comparison, inputs: list[str], figures: list[str]) -> str:
    exceeded = comparison.exceeded
    lines = [
        "# What changed in the log", "",
        f"New log: {', '.join(f'`{one}`' for one in inputs)}. Compared with the training split of `{comparison.data_dir}`.", "",
        f"**{'Drift' if exceeded else 'Within the limits'}.** {' '.join(_verdict(comparison))}", "",
        *_markdown_table(("", *_LOG_HEADINGS), _log_rows(comparison)), "",
    ]
    if exceeded:
        lines += ["## What changed, and what to do", ""]
    advised = set()
    for one in exceeded:
        advice = "" if one.measure in advised else f" {comparison.advice(one)}"
        lines += [f"**{one.subject}: {comparison.title(one)}** ({one.ratio:.1f} times the limit). {comparison.meaning(one)}{advice}", ""]
        advised.add(one.measure)
    for figure in figures:
        lines += [f"![{figure}]({figure})", ""]
    rows = [(one.subject, comparison.title(one), comparison.change(one), f"{one.size:.4f}", f"{one.limit:g}", f"{one.ratio:.2f}",
             f"{one.z:.1f}", "exceeded" if one.exceeded else "may be chance" if one.uncertain else "within")
            for one in comparison.differences]
    headings = ("of", "measure", "change", "difference", "limit", "x limit", "z", "verdict")
    return "\n".join([*lines, "## All differences", "", *_markdown_table(headings, rows), "", _GLOSSARY])


def _markdown_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (headings, ("---",) * len(headings), *rows)]


_GLOSSARY = f"""\
## How it is measured

- new values: of the values that are not missing, the share that the vocabulary lacks, less that share in the validation
  split (`new_share`); the vocabulary was built from the training rows, so they are no fair comparison.
- missing: the share of rows without a value (of a list field: without any); up or down (`missing_share`).
- one value's share: the largest change of any one value's share of the values that are not missing (`infinity_norm`, the
  L-infinity distance).
- distribution: the Jensen-Shannon divergence of the shares of the buckets, with logarithms of base 2: 0 equal, 1 nothing
  in common (`jensen_shannon_divergence`); length of lists: the same of the lengths of lists that are not empty
  (`length_divergence`).
- click rate: its relative change (`label_rate`); rows without label do not count.
- malformed rows, rows without label: how much larger their share has become (`rejected_share`, `unlabelled_share`).
- z: the difference in standard deviations of chance. A limit is exceeded only where z is at least {CERTAIN_Z:g}.
- The limits stand under `drift` in the schema.
"""


# ---- drift.json ----


def _content(comparison: Comparison, inputs: list[str]) -> dict:
    return {
        "exceeded": bool(comparison.exceeded),
        "data_dir": str(comparison.data_dir),
        "input": inputs,
        "few_rows": comparison.new.rows < FEW_ROWS,
        "differences": [_difference(comparison, one) for one in comparison.differences],
        "logs": {name: _log(log) for name, log in (("train", comparison.train), ("valid", comparison.valid), ("new", comparison.new))},
        "new_values": {name: [{"value": text, "at_least": count} for text, count in field.new_values]
                       for name, field in comparison.new.fields.items() if field.new_values},
        "limits": comparison.schema.drift.model_dump(exclude_none=True),
    }


def _difference(comparison: Comparison, one: Difference) -> dict:
    return {**asdict(one), "ratio": one.ratio, "exceeded": one.exceeded, "uncertain": one.uncertain,
            "meaning": comparison.meaning(one)}


def _log(log: LogProfile) -> dict:
    return {"rows": log.rows, "positives": log.positives, "unlabelled": log.unlabelled, "rejected": log.rejected, "read": log.read,
            "reasons": log.reasons, "days": log.days}
