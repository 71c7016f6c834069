"""Figures of a comparison. Each function returns a matplotlib figure of its own and touches no global state."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from preprocessing.drift.comparison import Difference
from preprocessing.drift.wording import Comparison
from preprocessing.schema import SPECIAL_ROWS, UNKNOWN_ROW

_DIFFERENCES_SHOWN = 20
_FIELDS_SHOWN = 6
_VALUES_SHOWN = 12
_DISTRIBUTIONS = ("infinity_norm", "jensen_shannon_divergence")


def save(figure: Figure, path: Path) -> None:
    with path.open("wb") as stream:
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
    """Before and after, of the fields whose values or numbers moved most; None where no distribution was compared."""
    frequencies = comparison.new.frequencies
    moved = [one for one in comparison.differences if one.measure in _DISTRIBUTIONS and one.subject in frequencies]
    shown = moved[:_FIELDS_SHOWN]
    if not shown:
        return None
    figure = Figure(figsize=(12, 4 * -(-len(shown) // 2)), layout="constrained")
    for place, one in enumerate(shown, start=1):
        _paired_bars(figure.add_subplot(-(-len(shown) // 2), 2, place), comparison, one)
    return figure


def _paired_bars(axes: Axes, comparison: Comparison, one: Difference) -> None:
    shares = [log.frequencies[one.subject] for log in (comparison.train, comparison.new)]
    shares = [counts[SPECIAL_ROWS:] / counts[UNKNOWN_ROW:].sum() for counts in shares]
    places = np.arange(len(shares[0]))
    if one.measure == "infinity_norm":
        places = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:_VALUES_SHOWN]
    heights = np.arange(len(places))
    for share, name, colour, shift in zip(shares, ("training split", "new log"), ("lightgrey", "tab:red"), (-0.2, 0.2), strict=True):
        axes.barh(heights + shift, share[places], 0.4, label=name, color=colour)
    named = slice(None, None, -(-len(places) // _VALUES_SHOWN))
    names = comparison.values(one.subject, places[named].tolist())
    axes.set_yticks(heights[named], names, fontsize="x-small", parse_math=False)
    axes.invert_yaxis()
    axes.set(title=f"{one.subject} ({comparison.title(one)})", xlabel="share of the values")
    axes.legend()
