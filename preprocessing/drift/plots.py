"""Figures of a comparison. Each function returns a matplotlib figure of its own and touches no global state."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from preprocessing.drift.comparison import Difference
from preprocessing.drift.wording import DIVERGENCES, Comparison

_DIFFERENCES_SHOWN = 20
_FIELDS_SHOWN = 6
_VALUES_SHOWN = 12


def save(figure: Figure, path: Path) -> None:
    with path.open("wb") as stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # values of a log may be in any script
        FigureCanvasAgg(figure).print_png(stream)


def differences(comparison: Comparison) -> Figure:
    """The largest differences, as multiples of their limits."""
    shown = comparison.differences[:_DIFFERENCES_SHOWN]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    colours = ["tab:red" if one.exceeded else "tab:orange" if one.uncertain else "tab:blue" for one in shown]
    axes.barh(range(len(shown)), [max(one.ratio, 0) for one in shown], color=colours)
    axes.set_yticks(range(len(shown)), [f"{one.subject}: {comparison.title(one)}" for one in shown])
    axes.axvline(1, color="black", linestyle="--")
    axes.invert_yaxis()
    axes.set(title="Differences (red: exceeded, orange: may be chance)", xlabel="times the limit")
    return figure


def changed_fields(comparison: Comparison) -> Figure | None:
    """Before and now, of the fields whose values, numbers or lengths moved most; None where none was compared."""
    shown = [one for one in comparison.differences if one.measure in ("infinity_norm", *DIVERGENCES)][:_FIELDS_SHOWN]
    if not shown:
        return None
    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(12, 4 * rows), layout="constrained")
    for place, one in enumerate(shown, start=1):
        _paired_bars(figure.add_subplot(rows, 2, place), comparison, one)
    return figure


def _paired_bars(axes: Axes, comparison: Comparison, one: Difference) -> None:
    """All buckets or lengths in order, or the values that moved most."""
    before, now = comparison.shares(one)
    places = np.arange(len(before))
    if one.measure == "infinity_norm":
        places = np.argsort(-np.abs(now - before), kind="stable")[:_VALUES_SHOWN]
    heights = np.arange(len(places))
    axes.barh(heights - 0.2, before[places], 0.4, label="training split", color="lightgrey")
    axes.barh(heights + 0.2, now[places], 0.4, label="new log", color="tab:red")
    named = slice(None, None, -(-len(places) // _VALUES_SHOWN))
    axes.set_yticks(heights[named], comparison.names(one, places[named].tolist()), fontsize="x-small", parse_math=False)
    axes.invert_yaxis()
    axes.set(title=f"{one.subject}: {comparison.title(one)}", xlabel="share")
    axes.legend()
