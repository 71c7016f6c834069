"""The plots of a suite's page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.accuracy.statistics import at, slice_measure, spread
from trainer.slices import bucket_names

if TYPE_CHECKING:
    from benchmarks.accuracy.report import Results
    from benchmarks.accuracy.suite import Curve

Line = tuple[list[float], list[float], list[float]]  # x, mean, sample standard deviation


def all_figures(results: "Results") -> dict[str, Figure]:
    """Every figure that the rows suffice for, by the end of its file's name."""
    found = {f"curve_{number}": curve_figure(results, curve) for number, curve in enumerate(results.suite.curves)
             if any(results.runs(curve.arm_at(arm, point)) for arm in curve.arms for point in curve.points)}
    slices = results.suite.slices
    if slices and any(results.runs(arm) for arm in slices.arms):
        found |= {f"slices_{number}": slice_figure(results, field, slices.arms) for number, field in enumerate(slices.fields)}
    if any(results.runs(arm) for arm in results.suite.learning_curves):
        found["learning_curves"] = learning_figure(results, results.suite.learning_curves)
    return found


def _pair(width: float = 10.0) -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=(width, 4), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, left, right


def _draw(axes: Axes, line: Line, label: str) -> None:
    axes.errorbar(*line[:2], yerr=line[2], marker="o", capsize=3, label=label)


def curve_figure(results: "Results", curve: "Curve") -> Figure:
    """AUC and logloss against the curve's setting, mean and standard deviation over seeds."""
    figure, *both = _pair()
    for axes, (metric, title) in zip(both, (("auc", "AUC"), ("logloss", "logloss")), strict=True):
        for arm in curve.arms:
            points = [(point.value, spread(results.runs(curve.arm_at(arm, point)), at(results.split, metric))) for point in curve.points]
            points = [(value, found) for value, found in points if found]
            if points:
                _draw(axes, ([value for value, _ in points], [found.mean for _, found in points],
                             [found.deviation or 0.0 for _, found in points]), arm)
        values = [point.value for point in curve.points]
        if values[0] > 0 and values[-1] >= 10 * values[0]:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=curve.axis, ylabel=f"{results.split} {title}")
        axes.grid(alpha=0.3)
    both[0].legend()
    return figure


def slice_figure(results: "Results", field: str, arms: Sequence[str]) -> Figure:
    """AUC and logloss by the training occurrences of a field's value."""
    figure, *both = _pair()
    for axes, (metric, title) in zip(both, (("auc", "AUC"), ("logloss", "logloss")), strict=True):
        for arm in arms:
            found = [spread(results.runs(arm), slice_measure(results.split, field, name, metric)) for name in bucket_names()]
            places = [place for place, value in enumerate(found) if value]
            if places:
                _draw(axes, (places, [found[place].mean for place in places], [found[place].deviation or 0.0 for place in places]), arm)
        axes.set_xticks(range(len(bucket_names())), bucket_names())
        axes.set(xlabel=f"training rows with the row's {field}", ylabel=f"{results.split} {title}")
        axes.grid(alpha=0.3)
    both[0].legend()
    return figure


def learning_figure(results: "Results", arms: Sequence[str]) -> Figure:
    """Validation AUC after each epoch of fine-tuning against passes: mean and range over seeds."""
    figure = Figure(figsize=(7, 4.5), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    for arm in arms:
        curves = [np.array(row["learning_curve"], float) for row in results.runs(arm).values()]
        if not curves:
            continue
        epochs = min(map(len, curves))  # of the run that stopped first, so that every point is over the same seeds
        passes, values = curves[0][:epochs, 0], np.stack([curve[:epochs, 1] for curve in curves])
        line, = axes.plot(passes, values.mean(axis=0), marker=".", label=arm)
        axes.fill_between(passes, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="passes over the training rows", ylabel="valid AUC")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
