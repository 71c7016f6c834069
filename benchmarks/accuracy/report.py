"""The page of a suite: every table and plot from the rows on disk, at any time."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.accuracy import figures
from benchmarks.accuracy.measures import CALIBRATIONS, average_of
from benchmarks.accuracy.plan import Planned, Run
from benchmarks.accuracy.statistics import (
    Difference,
    Measure,
    Runs,
    Spread,
    at,
    paired_difference,
    slice_measure,
    spread,
)
from benchmarks.accuracy.suite import Curve, Section, Suite
from preprocessing.files import write_atomically
from trainer import plots
from trainer.slices import bucket_names

# Metric, its name, digits.
METRICS = (("auc", "AUC", 5), ("logloss", "logloss", 5), ("gauc", "GAUC", 5), ("ece", "ECE", 4), ("calibration_bias", "bias", 4))
Table = list[Sequence[str]]  # the first line is the header


@dataclass(frozen=True)
class Results:
    """A suite's rows.

    Attributes:
      arms: rows by arm and seed; arms without a finished run have none.
      averages: of the seeds' averaged logits, of arms with several finished runs: whose, and their metrics.
      split: whose figures are shown: "test", or "valid" while settings are being chosen.
      seeds: that were asked for.
      command: that makes them.
      file: of the suite.
    """

    suite: Suite
    arms: dict[str, dict[int, dict]]
    averages: dict[str, dict]
    split: str
    seeds: tuple[int, ...]
    command: str
    file: str

    @classmethod
    def of(cls, suite: Suite, planned: Sequence[Planned], split: str, command: str, file: str) -> "Results":
        """Reads the rows of finished runs; one that has not predicted the split is not finished."""
        arms: dict[str, dict[int, dict]] = {one.arm: {} for one in planned}
        finished: dict[str, list[Run]] = {one.arm: [] for one in planned}
        for one in planned:
            row = one.run.row()
            if row and split in row:
                arms[one.arm][one.run.seed] = {"arm": one.arm} | {key: value for key, value in row.items()
                                                                  if key != "test" or split == "test"}
                finished[one.arm].append(one.run)
        averages = {arm: average for arm, runs in finished.items() if (average := _average(arm, runs, split))}
        return cls(suite, arms, averages, split, tuple(dict.fromkeys(one.run.seed for one in planned)), command, file)

    def runs(self, arm: str) -> Runs:
        return self.arms.get(arm, {})

    @property
    def rows(self) -> list[dict]:
        return [row for runs in self.arms.values() for row in runs.values()]

    @property
    def unfinished(self) -> list[str]:
        """Arms with fewer runs than asked for, in words."""
        return [f"{arm} ({len(runs)} of {len(self.seeds)} seeds)" for arm, runs in self.arms.items() if len(runs) < len(self.seeds)]

    def metric(self, name: str) -> Measure:
        return at(self.split, name)


def _average(arm: str, runs: Sequence[Run], split: str) -> dict | None:
    """A row of the average over an arm's runs."""
    average = average_of(runs, split)
    return average and {"arm": arm, "configuration": runs[0].configuration, "data": runs[0].row()["data"],
                        "seeds": average["seeds"], "split": split, "metrics": average["metrics"]}


def write(results: Results, name: str, output: Path) -> Path:
    """Writes NAME.jsonl, one row a run, NAME_averages.jsonl, one row an arm, NAME.md and its plots. Returns the page's path."""
    output.mkdir(parents=True, exist_ok=True)
    drawn = figures.all_figures(results)
    write_atomically(output / f"{name}.jsonl", _lines(results.rows))
    averages = output / f"{name}_averages.jsonl"
    if results.averages:
        write_atomically(averages, _lines(results.averages.values()))
    else:
        averages.unlink(missing_ok=True)
    images = {suffix: output / f"{name}_{suffix}.png" for suffix in drawn}
    for suffix, figure in drawn.items():
        plots.save(figure, images[suffix])
    write_atomically(output / f"{name}.md", page(results, {suffix: path.name for suffix, path in images.items()}))
    return output / f"{name}.md"


def _lines(rows: Iterable[Mapping]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def page(results: Results, images: Mapping[str, str]) -> str:
    """The page as Markdown.

    Args:
      images: files of the figures that there are, by what they are called in `figures.all_figures`.
    """
    parts = [f"# {results.suite.title}", results.suite.about.strip(), _circumstances(results)]
    for section in results.suite.tables:
        parts += [f"## {section.title}", section.text.strip(), markdown(main_table(results, section))]
    for number, curve in enumerate(results.suite.curves):
        parts += [f"## {curve.title}", _image(images, f"curve_{number}"), CURVE_TEXT.format(control=curve.arms[0], setting=curve.setting),
                  markdown(curve_table(results, curve))]
    parts += _slices(results, images)
    if results.averages:
        parts += ["## Averaged over seeds", AVERAGES_TEXT, markdown(averages_table(results))]
    if results.split == "test":
        parts += ["## Calibration before and after", CALIBRATION_TEXT, markdown(calibration_table(results))]
    if results.suite.learning_curves:
        parts += ["## Learning curves", _image(images, "learning_curves"), LEARNING_TEXT]
    parts += ["## Arms", _arms_text(results.suite), markdown(arms_table(results))]
    return "\n\n".join(part for part in parts if part) + "\n"


CURVE_TEXT = ("Differences are from `{control}` at the same `{setting}`, and from it at the next larger one: where that is not negative, an "
              "arm does with less what the control does with more. Paired over seeds, p of a two-sided t-test.")
CALIBRATION_TEXT = ("Fitted on the validation split's predictions, applied to those of the test split: Platt a * logit + b, temperature "
                    "a * logit, isotonic regression. Means over seeds; the tables above are before calibration.")
AVERAGES_TEXT = ("The mean of the logits of an arm's runs, which differ in their seed alone, beside the mean of their metrics: what the average "
                 "gains, one run loses to chance.")
LEARNING_TEXT = ("Validation AUC after each epoch of fine-tuning against the passes over the training rows so far, those of "
                 "pre-training included: mean and range over seeds.")
ARMS_TEXT = ("Settings are on top of the configuration file{of_all}. A pass goes forward and backward over as many rows as the training split has; an "
             "auxiliary loss counts as another, a forward pass alone as a third. Arms of the same `configuration` share their runs, and arms with "
             "the same pre-training share that; its cost is counted in each. Minutes are the median over seeds.")


def _circumstances(results: Results) -> str:
    rows = results.rows
    commits = sorted({row["commit"] for row in rows})
    threads = sorted({str(row["threads"] or "all") for row in rows})
    chosen = ("Epochs and settings are chosen on the validation split; the test split is predicted once, at the end of a run, and these are "
              "its figures." if results.split == "test" else
              "**Figures of the validation split, by which epochs were chosen: for tuning, not for claims.**")
    text = (f"Command: `{results.command}`; arms: `{results.file}`; data set: `{results.suite.dataset}`. {chosen} Mean +- sample standard "
            "deviation over seeds; differences are paired by seed, p of a two-sided paired t-test, not corrected for the number of arms.")
    if rows:
        text += f" Code: {', '.join(commits)}. Threads of a run: {', '.join(threads)}."
    if results.unfinished:
        text += f"\n\nUnfinished, so with fewer seeds or left out: {'; '.join(results.unfinished)}."
    return text


def main_table(results: Results, section: Section) -> Table:
    """Metrics of each arm of a section, paired differences from each control, and what it cost."""
    arms, controls = section.arms, section.controls or results.suite.controls
    shown = [metric for metric in METRICS if any(_present(results, arm, metric[0]) for arm in arms)]
    header = ["arm", "seeds", *(f"{results.split} {title}" for _, title, _ in shown)]
    header += [f"{metric} - {control}" for control in controls for metric in ("AUC", "logloss")] + list(COST_HEADER)
    table: Table = [header]
    for arm in arms:
        runs = results.runs(arm)
        if not runs:
            continue
        cells = [_spread_text(spread(runs, results.metric(key)), digits) for key, _, digits in shown]
        differences = [_difference(runs, results.runs(control), results.metric(metric)) if arm != control else ""
                       for control in controls for metric in ("auc", "logloss")]
        table.append([arm, str(len(runs)), *cells, *differences, *_cost(runs)])
    return table


COST_HEADER = ("passes", "minutes", "peak GB")


def _cost(runs: Runs) -> tuple[str, ...]:
    measured = {seed: row for seed, row in runs.items() if row["peak_gb"] is not None}  # the others' was lost with a process
    minutes = median(row["seconds"] for row in runs.values()) / 60  # the mean would count a pause of the machine
    return (f"{spread(runs, at('passes')).mean:.1f}", f"{minutes:.1f}",
            _mean_text(spread(measured, at("peak_gb")), 2))


def _present(results: Results, arm: str, metric: str) -> bool:
    return spread(results.runs(arm), results.metric(metric)) is not None


def _difference(runs: Runs, control: Runs, measure: Measure) -> str:
    return _difference_text(paired_difference(runs, control, measure))


def _difference_text(difference: Difference | None, digits: int = 5) -> str:
    return difference.text(digits) if difference else ""


def _spread_text(value: Spread | None, digits: int) -> str:
    return value.text(digits) if value else ""


def curve_table(results: Results, curve: Curve) -> Table:
    """Each arm at each point, beside the control there and at the next point."""
    control = curve.arms[0]
    table: Table = [[curve.setting, "arm", "seeds", f"{results.split} AUC", f"{results.split} logloss", f"AUC - {control}",
                     f"logloss - {control}", f"AUC - {control} at the next point", *COST_HEADER]]
    for place, point in enumerate(curve.points):
        here = results.runs(curve.arm_at(control, point))
        later = results.runs(curve.arm_at(control, curve.points[place + 1])) if place + 1 < len(curve.points) else {}
        for arm in curve.arms:
            runs = results.runs(curve.arm_at(arm, point))
            if not runs:
                continue
            auc, logloss = results.metric("auc"), results.metric("logloss")
            differences = [_difference(runs, here, auc), _difference(runs, here, logloss)] if arm != control else ["", ""]
            table.append([f"{point.value:g}", arm, str(len(runs)), _spread_text(spread(runs, auc), 5), _spread_text(spread(runs, logloss), 5),
                          *differences, _difference(runs, later, auc), *_cost(runs)])
    return table


def _slices(results: Results, images: Mapping[str, str]) -> Iterator[str]:
    slices = results.suite.slices
    if not slices:
        return
    yield "## Cold values"
    yield ("Rows by how often their value of a field occurs among the training rows; 0: never, or too seldom for a row of the table. AUC "
           f"ranks the rows of one slice. Differences are from `{slices.arms[0]}`.")
    for number, field in enumerate(slices.fields):
        yield f"### By {field}"
        yield _image(images, f"slices_{number}")
        yield markdown(slice_table(results, field, slices.arms))


def slice_table(results: Results, field: str, arms: Sequence[str]) -> Table:
    """AUC and logloss of each arm in each slice."""
    control = arms[0]
    table: Table = [[f"training rows with this {field}", "rows", "arm", "AUC", "logloss", f"AUC - {control}", f"logloss - {control}"]]
    for occurrences in (*bucket_names(), "missing"):
        for arm in arms:
            runs = results.runs(arm)
            rows, auc, logloss = (slice_measure(results.split, field, occurrences, metric) for metric in ("rows", "auc", "logloss"))
            size = spread(runs, rows)
            if size is None:
                continue
            differences = [_difference(runs, results.runs(control), measure) if arm != control else "" for measure in (auc, logloss)]
            table.append([occurrences, f"{size.mean:,.0f}", arm, _spread_text(spread(runs, auc), 5), _spread_text(spread(runs, logloss), 4),
                          *differences])
    return table


def averages_table(results: Results) -> Table:
    """AUC, logloss and GAUC of each arm's averaged logits, and what they gain over the mean of single runs."""
    columns = METRICS[:3]
    table: Table = [["arm", "runs", *(header for _, title, _ in columns for header in (title, f"{title} - mean of runs"))]]
    for arm, average in results.averages.items():
        runs, averaged = {seed: row for seed, row in results.runs(arm).items() if seed in average["seeds"]}, average["metrics"]
        singles = [spread(runs, results.metric(key)) for key, _, _ in columns]
        cells = [(f"{averaged[key]:.{digits}f}", f"{averaged[key] - single.mean:+.{digits}f}") if single else ("", "")
                 for (key, _, digits), single in zip(columns, singles, strict=True)]
        table.append([arm, str(len(runs)), *(text for pair in cells for text in pair)])
    return table


def calibration_table(results: Results) -> Table:
    """Logloss and ECE on the test split before calibration and after each kind."""
    table: Table = [["arm", "logloss", *(f"{kind}" for kind in CALIBRATIONS), "ECE", *(f"ECE, {kind}" for kind in CALIBRATIONS), "bias"]]
    for arm, runs in results.arms.items():
        if not runs:
            continue
        cells = []
        for metric, digits in (("logloss", 5), ("ece", 4)):
            measures = [results.metric(metric), *(at(results.split, "calibrated", kind, metric) for kind in CALIBRATIONS)]
            cells += [_mean_text(spread(runs, measure), digits) for measure in measures]
        table.append([arm, *cells, _mean_text(spread(runs, results.metric("calibration_bias")), 4)])
    return table


def _mean_text(value: Spread | None, digits: int) -> str:
    return f"{value.mean:.{digits}f}" if value else ""


def _arms_text(suite: Suite) -> str:
    of_all = " and of `" + " ".join(suite.set) + "`, which all arms have" if suite.set else ""
    return ARMS_TEXT.format(of_all=of_all)


def arms_table(results: Results) -> Table:
    """What each arm is, and its configuration's name in the rows."""
    table: Table = [["arm", "stages", "configuration file", "settings", "configuration", "note"]]
    for name, arm in results.suite.all_arms().items():
        if not results.runs(name):
            continue
        by = f" by `{arm.pretrained_by}`" if arm.pretrained_by else ""
        settings = " ".join(f"`{setting}`" for setting in arm.set)
        configurations = sorted({row["configuration"] for row in results.runs(name).values()})
        table.append([name, (f"pre-trained{by}, fine-tuned" if arm.is_pretrained else "from scratch"), f"`{arm.config or results.suite.config}`",
                      settings, ", ".join(configurations), arm.note])
    return table


def _image(images: Mapping[str, str], figure: str) -> str:
    return f"![{figure.replace('_', ' ')}]({images[figure]})" if figure in images else ""


def markdown(table: Table) -> str:
    header, *lines = ([cell.replace("|", "\\|") for cell in line] for line in table)
    if not lines:
        return "No finished run yet."
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])
