"""The folder of a sampling run: samples.csv, metrics.json, plots, and a REPORT.md that a product manager can read."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from preprocessing.files import write_atomically
from trainer import plots
from trainer.data_folder import DataFolder
from trainer.progress import print_table
from trainer.sample.comparison import Comparison, Slices, Tables
from trainer.sample.drawing import Rows
from trainer.sample.request import Request
from trainer.sample.values import FieldValues

FEWEST_COMPARED = 100
SAMPLES_SHOWN = 5
PAIRS_SHOWN = 10
SLICES_SHOWN = 10
VALUES_DRAWN = 10
FIELDS_DRAWN = 40
MISSING_TEXT = "(missing)"
MASKS_UNKNOWN = ("The model reads unknown and rare values as masked (`model.unknown: mask`): it draws none, and real rows that have one are left "
                 "out of the comparison.")


class Texts:
    """Rows as the user knows them.

    Args:
      data: the data folder, as the model reads it.
      has_label: whether samples have a label.
      masks_unknown: whether the model reads unknown values as masked.

    Attributes:
      name, weight: of the data, and of the column that weights the labels' loss, if any.
      unseen: of each id field, which values no training row has, bool [rows].
    """

    def __init__(self, data: DataFolder, values: FieldValues, has_label: bool, masks_unknown: bool):
        self.masks_unknown = masks_unknown
        self._schema = data.schema
        self._values = values
        self._has_label = has_label
        self.name, self.weight = data.schema.name, data.schema.weight
        self.unseen = [counts == 0 for counts in data.field_frequencies[:len(data.schema.id_fields)]]

    def columns(self, rows: Rows) -> pa.Table:
        """A column a field, by its name, and the label 0 or 1 by its column's; missing values are empty."""
        columns = {field.name: self._values.texts(field, rows.table[:, k]) for k, field in enumerate(self._schema.id_fields)}
        columns |= {field.name: self._values.list_texts(field, rows.lists[field.name]) for field in self._schema.list_fields}
        return pa.table(columns | ({self._schema.label.column: rows.table[:, -1]} if self._has_label else {}))

    def of(self, column: int, ids: np.ndarray) -> list[str]:
        """Texts that can be read alone, of ids of a column of `Rows.table`."""
        if column == len(self._schema.id_fields):
            return [("no click", "click")[label] for label in ids]
        return [text or MISSING_TEXT for text in self._values.texts(self._schema.id_fields[column], ids)]


def write_report(folder: Path, texts: Texts, request: Request, generated: Rows, comparison: Comparison | None,
                 rows_found: int, origin_of_lists: str) -> dict:
    """Writes the folder, in place of an earlier one; see `trainer.sample.command.sample` for what is returned.

    Args:
      generated: all samples.
      rows_found: real rows with what is given, up to twice as many as samples.
      origin_of_lists: where the samples' lists come from; empty where there is nothing to say.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    metrics = {"request": asdict(request), "comparison": comparison.measures if comparison else None}
    pa.csv.write_csv(texts.columns(generated), partial / "samples.csv")
    images = _figures(comparison, texts) if comparison else {}
    for name, figure in images.items():
        plots.save(figure, partial / name)
    write_atomically(partial / "metrics.json", json.dumps(metrics, indent=2))
    lines = [f"# Samples from the pre-trained model: {texts.name}", "", _what_was_drawn(request, rows_found, comparison), ""]
    if origin_of_lists:
        lines += [f"Lists are not drawn: {origin_of_lists}.", ""]
    if texts.masks_unknown:
        lines += [MASKS_UNKNOWN, ""]
    if comparison and comparison.slices and texts.weight:
        lines += [f"Here every row counts once. In training, rows counted for the label as `{texts.weight}` says, so click rates may differ.", ""]
    lines += _table_of_samples(texts.columns(generated.take(np.arange(min(SAMPLES_SHOWN, len(generated))))))
    if comparison:
        lines += [*_overview(comparison), *_fields(comparison, texts), *_pairs(comparison), *_slices(comparison, texts)]
        lines += ["## Plots", "", *(f"![{Path(image).stem.replace('_', ' ')}]({image})\n" for image in images)]
    write_atomically(partial / "REPORT.md", "\n".join(lines))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    if comparison:
        print_table("sample: generated rows against real ones", [(name, value, chance) for name, value, chance, _ in _measures(comparison)],
                    ("measure", "generated", "chance"))
    print(f"sample: report in {folder / 'REPORT.md'}")
    return metrics


# Figures.


def _figures(comparison: Comparison, texts: Texts) -> dict:
    tables, matrices, slices = comparison.tables, comparison.mutual_information, comparison.slices
    figures = {
        "marginals.png": plots.marginals(_marginals(comparison, texts)),
        "mutual_information.png": plots.mutual_information(tables.names, matrices["real"], matrices["generated"], matrices["other"]),
    }
    if slices and len(slices.rows):
        figures["label_rates.png"] = plots.label_rates(slices.real, slices.generated, slices.other, slices.rows)
    return figures


def _marginals(comparison: Comparison, texts: Texts) -> dict:
    """Of up to 40 columns, those of the largest total variation: the most frequent real values and their shares."""
    tables, distances = comparison.tables, comparison.measures["total_variation"]
    chosen = np.argsort([-distances[name]["generated"] for name in tables.names], kind="stable")[:FIELDS_DRAWN]
    shown = {}
    for k in sorted(chosen):
        values, real, generated = _shares(tables, k)
        shown[f"{tables.names[k]} (TV {distances[tables.names[k]]['generated']:.3f}, chance {distances[tables.names[k]]['chance']:.3f})"] = (
            texts.of(k, values), real, generated)
    return shown


def _shares(tables: Tables, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most frequent real values of a column, most frequent first, and their shares of real and generated rows."""
    length = 1 + max(tables.real[:, column].max(), tables.generated[:, column].max())
    real, generated = (np.bincount(table[:, column], minlength=length) / len(table) for table in (tables.real, tables.generated))
    values = np.argsort(-real, kind="stable")[:VALUES_DRAWN]
    values = values[real[values] > 0]
    return values, real[values], generated[values]


# Text.


def _what_was_drawn(request: Request, rows_found: int, comparison: Comparison | None) -> str:
    way = "one field at a time" if request.steps is None else f"in {request.steps} steps"
    fixed = [*request.given, *([f"label {request.label}"] if request.label is not None else [])]
    given = f"with {', '.join(fixed)} given" if fixed else "with nothing given"
    origin = "which the model was not trained on" if request.split == "valid" else "which the model was trained on"
    opening = f"{request.samples:,} samples were drawn, {way}, {given} (seed {request.seed}); `samples.csv` has them all."
    if comparison is None:
        return (f"{opening} They are not compared with real rows, which takes {FEWEST_COMPARED} samples or more, and twice as many rows of "
                f"the {request.split} split that have what is given: there are {rows_found:,}.")
    rows = comparison.measures["rows"]
    return (f"{opening} {rows:,} of them are compared with {rows:,} rows of the {request.split} split, {origin}"
            f"{', that have what is given' if fixed else ''}. *Chance* is what {rows:,} other rows of that split differ by from the same "
            "real rows: where the generated ones differ no more, no difference can be seen.")


def _table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in clean]
    return [lines[0], f"|{' --- |' * len(header)}", *lines[1:], ""]


def _table_of_samples(samples: pa.Table) -> list[str]:
    return ["The first of them:", "", *_table(samples.column_names, [[str(cell) for cell in row.values()] for row in samples.to_pylist()])]


def _measures(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Name, value, value by chance and meaning of the measures of the whole."""
    measures = comparison.measures
    variations = [[pair[kind] for pair in measures["total_variation"].values()] for kind in ("generated", "chance")]
    rows = [
        ("Discriminator AUC", *_formatted(measures["discriminator_auc"], ".3f"),
         "How often gradient boosting tells a generated row from a real one: 0.5 is a coin, 1 always."),
        ("Total variation, mean of the fields", *(f"{np.mean(values):.4f}" for values in variations),
         "Share of rows whose value would have to change for a field to be distributed as in real rows."),
        ("Mutual information, mean distance", *_formatted(measures["mutual_information_distance"], ".4f"),
         "How far off the model is in how much two fields say of each other (nats, mean over pairs)."),
    ]
    if comparison.slices:
        rates = measures["label_rate"]
        rows.append(("Click rate", f"{rates['generated']:.2%}", f"{rates['other']:.2%}",
                     f"{rates['real']:.2%} in the real rows that it is compared with."))
        if len(comparison.slices.rows):
            rows.append(("Click rate of a slice, mean distance", *_formatted(measures["label_rate_distance"], ".2%"),
                         "Over slices in which a field has one of its most frequent values, weighted by rows."))
    return rows


def _formatted(pair: dict[str, float], form: str) -> list[str]:
    return [format(pair[kind], form) for kind in ("generated", "chance")]


def _overview(comparison: Comparison) -> list[str]:
    return ["## How real they are", "", *_table(("measure", "generated", "chance", "what it means"), _measures(comparison))]


def _fields(comparison: Comparison, texts: Texts) -> list[str]:
    tables = comparison.tables
    rows = []
    for k, name in enumerate(tables.names):
        (value, *_), (real, *_), (generated, *_) = _shares(tables, k)
        unseen = f"{texts.unseen[k][tables.real[:, k]].mean():.2%}" if k < len(texts.unseen) else ""
        rows.append((name, *_formatted(comparison.measures["total_variation"][name], ".4f"), texts.of(k, np.array([value]))[0],
                     f"{real:.2%}", f"{generated:.2%}", unseen))
    return ["## Field by field", "", "Values that no training row has are never generated; the last column says how many real rows have one.", "",
            *_table(("field", "total variation", "by chance", "most frequent value", "its share in real rows", "in generated rows",
                     "real rows with a value not trained on"), rows)]


def _pairs(comparison: Comparison) -> list[str]:
    shown = comparison.measures["mutual_information"][:PAIRS_SHOWN]
    rows = [(" and ".join(pair["columns"]), *(f"{pair[name]:.4f}" for name in ("real", "generated", "other"))) for pair in shown]
    return ["## What fields say of each other", "",
            "Mutual information in nats above what unrelated columns of as many rows show; the strongest pairs.", "",
            *_table(("pair", "real", "generated", "other real rows"), rows)]


def _slices(comparison: Comparison, texts: Texts) -> list[str]:
    slices = comparison.slices
    if not slices or not len(slices.rows):
        return []
    worst = np.argsort(-np.abs(slices.generated - slices.real), kind="stable")[:SLICES_SHOWN]
    rows = [_slice_row(slices, place, comparison.tables, texts) for place in worst]
    return ["## Where click rates differ most", "",
            *_table(("slice", "real rows", "click rate in real rows", "in generated rows", "in other real rows"), rows)]


def _slice_row(slices: Slices, place: int, tables: Tables, texts: Texts) -> tuple[str, ...]:
    column = int(slices.field[place])
    text = texts.of(column, slices.value[place:place + 1])[0]
    rates = (f"{rates[place]:.2%}" for rates in (slices.real, slices.generated, slices.other))
    return f"{tables.names[column]} = {text}", f"{slices.rows[place]:,}", *rates
