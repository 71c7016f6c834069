"""Figures of a report. Each function returns a matplotlib figure of its own and touches no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.metrics import Predictions, calibration_bins

SCORE_BINS = 60
MARGINALS_A_ROW = 4
LETTERS_OF_A_VALUE = 24


def save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))


def learning_curves(histories: dict[str, list[dict]]) -> Figure:
    """Training and validation loss of each stage, and validation AUC, by epoch."""
    shown = {stage: history for stage, history in histories.items() if history}
    figure = Figure(figsize=(6 * len(shown), 4), layout="constrained")
    for place, (stage, history) in enumerate(shown.items(), start=1):
        epochs = [record["epoch"] for record in history]
        valid_name = "loss" if stage == "pretrain" else "logloss"
        axes = figure.add_subplot(1, len(shown), place)
        axes.plot(epochs, [record["train"]["loss"] for record in history], marker="o", label="train loss")
        axes.plot(epochs, [record["valid"][valid_name] for record in history], marker="o", label=f"valid {valid_name}")
        axes.set(title=stage, xlabel="epoch", ylabel="loss (nats per row)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        areas = axes.twinx()
        measured = [record for record in history if record["valid"].get("auc") is not None]  # not by a pre-training without label
        areas.plot([record["epoch"] for record in measured], [record["valid"]["auc"] for record in measured], color="tab:green",
                   marker="s", label="valid AUC")
        areas.set_ylabel("AUC")
        handles = axes.get_legend_handles_labels(), areas.get_legend_handles_labels()
        axes.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], loc="center right")
    return figure


def calibration(predictions: Predictions) -> Figure:
    """Actual click rate against mean prediction, in bins of equal size."""
    predictions = predictions.counted()
    bins = calibration_bins(predictions.labels, predictions.probabilities, weights=predictions.weights)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    top = max(bins.predicted.max(), bins.observed.max()) * 1.05
    axes.plot([0, top], [0, top], color="grey", linestyle="--", label="perfect")
    axes.plot(bins.predicted, bins.observed, marker="o", label=f"{len(bins.rows)} bins of {bins.rows[0]:,} rows")
    axes.set(title="Calibration", xlabel="mean predicted click probability", ylabel="actual click rate")
    axes.legend()
    return figure


def score_distribution(predictions: Predictions) -> Figure:
    """Share of clicked and of unclicked rows by click logit."""
    predictions = predictions.counted()
    edges = np.linspace(predictions.logits.min(), predictions.logits.max() + 1e-6, SCORE_BINS + 1)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for value, name in ((0, "not clicked"), (1, "clicked")):
        chosen = predictions.labels == value
        weights = np.ones(chosen.sum()) if predictions.weights is None else predictions.weights[chosen]
        axes.hist(predictions.logits[chosen], edges, weights=weights / max(weights.sum(), 1e-12), alpha=0.6, label=name)
    axes.set(title="Scores", xlabel="click logit", ylabel="share of rows")
    axes.legend()
    return figure


def field_losses(losses: dict[str, tuple[float, float]]) -> Figure:
    """Per field: nats to guess its value by frequency alone, and from the visible rest of the sample."""
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(losses)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(losses))
    axes.barh(places + 0.2, [entropy for _, entropy in losses.values()], 0.4, label="by frequency alone", color="lightgrey")
    axes.barh(places - 0.2, [loss for loss, _ in losses.values()], 0.4, label="by the pre-trained model")
    axes.set_yticks(places, list(losses))
    axes.invert_yaxis()
    axes.set(title="What pre-training learnt of each field (with a full softmax)", xlabel="loss of a masked value (nats)")
    axes.legend()
    return figure


def marginals(fields: Mapping[str, tuple[Sequence[str], np.ndarray, np.ndarray]]) -> Figure:
    """Per field: its most frequent values, and their shares of the real and of the generated rows."""
    columns = min(MARGINALS_A_ROW, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    for place, (name, (texts, real, generated)) in enumerate(fields.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        places = np.arange(len(texts))
        axes.barh(places - 0.2, real, 0.4, label="real", color="grey")
        axes.barh(places + 0.2, generated, 0.4, label="generated", color="tab:blue")
        axes.set_yticks(places, [text if len(text) <= LETTERS_OF_A_VALUE else f"{text[:LETTERS_OF_A_VALUE - 1]}…" for text in texts],
                        fontsize=7, parse_math=False)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.tick_params(axis="x", labelsize=7)
    figure.axes[0].legend(fontsize=7)
    figure.supxlabel("share of rows", fontsize=9)
    return figure


def mutual_information(names: Sequence[str], real: np.ndarray, generated: np.ndarray, other: np.ndarray) -> Figure:
    """Mutual information of every two columns in real and in generated rows, and the differences, [columns, columns] each."""
    side = 3.2 + 0.18 * len(names)
    figure = Figure(figsize=(2 * side, 2 * side), layout="constrained")
    top = np.nanmax([real, generated, other], initial=1e-9)
    widest = np.nanmax(np.abs([generated - real, other - real]), initial=1e-9)
    panels = [("real", real, {"vmin": 0, "vmax": top, "cmap": "viridis"}),
              ("generated", generated, {"vmin": 0, "vmax": top, "cmap": "viridis"}),
              ("generated - real", generated - real, {"vmin": -widest, "vmax": widest, "cmap": "RdBu"}),
              ("other real rows - real (chance)", other - real, {"vmin": -widest, "vmax": widest, "cmap": "RdBu"})]
    for place, (title, matrix, style) in enumerate(panels, start=1):
        axes = figure.add_subplot(2, 2, place)
        image = axes.imshow(matrix, **style)
        axes.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(np.arange(len(names)), names, fontsize=7, parse_math=False)
        axes.set_title(title, fontsize=9)
        figure.colorbar(image, ax=axes, shrink=0.8)
    figure.suptitle("Mutual information above chance (nats)", fontsize=10)
    return figure


def label_rates(real: np.ndarray, generated: np.ndarray, other: np.ndarray, rows: np.ndarray) -> Figure:
    """Click rates by slice: generated against real, and beside it other real rows against real; areas by rows."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    top = max(rates.max(initial=0.0) for rates in (real, generated, other)) * 1.05
    for place, (name, rates) in enumerate((("generated", generated), ("other real rows (chance)", other)), start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.plot([0, top], [0, top], color="grey", linestyle="--")
        axes.scatter(real, rates, s=60 * np.sqrt(rows / rows.max(initial=1)), alpha=0.5)
        axes.set(title=name, xlabel="click rate of the slice in real rows", ylabel=f"in {name}")
    figure.suptitle("Click rates where a field has one of its most frequent values", fontsize=10)
    return figure
