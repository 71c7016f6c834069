"""The tables of `benchmarks.preprocessing`: medians and ranges over its rounds, ratios, aims."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.prepare.arms import ARMS, DESCRIPTIONS
from benchmarks.prepare.log import CATEGORICAL, FILES, MAGNITUDES, MIN_COUNT, NUMERIC
from benchmarks.prepare.measure import SAMPLE_SECONDS
from benchmarks.speed.report import Spread
from preprocessing.files import replaced_file
from trainer.progress import print_table

RESULTS = "preprocessing"
FIELDS = len(NUMERIC) + len(CATEGORICAL)
HEADER = ("arm", "rows/s", "cells/s", "seconds", "CPU seconds", "peak GB", "first row after", "stages", "times as fast as ours")
COMPARED, FEWER_ROWS, GROWTH = "compared", "fewer rows", "growth"
AIMS_HEADER = ("aim", "measured", "by CPU time", "")
TIMES_TFT, TIMES_PANDAS, FIRST_ROW_SECONDS, PEAK_GROWTH = 8.0, 1.0, 20.0, 1.3


def shorten(rows: int) -> str:
    """50000 -> 50k."""
    for suffix, magnitude in reversed(MAGNITUDES.items()):
        if rows % magnitude == 0:
            return f"{rows // magnitude}{suffix}"
    return str(rows)


class Results:
    """Measured runs: dicts with `part`, `arm`, `rows`, `round` and what `benchmarks.prepare.measure` found."""

    def __init__(self, runs: Sequence[dict]):
        self.runs = list(runs)

    @classmethod
    def load(cls, path: Path) -> "Results":
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return cls([json.loads(line) for line in lines])

    def has(self, arm: str, rows: int, number: int) -> bool:
        return any((run["arm"], run["rows"], run["round"]) == (arm, rows, number) for run in self.runs)

    @property
    def sizes(self) -> list[int]:
        return list(dict.fromkeys(run["rows"] for run in self.runs))

    @property
    def compared_rows(self) -> int:
        """The size on which the arms are compared."""
        return next((run["rows"] for run in self.runs if run["part"] == COMPARED), self.runs[0]["rows"])

    def arms(self, rows: int) -> list[str]:
        measured = {run["arm"] for run in self.runs if run["rows"] == rows}
        return [arm for arm in ARMS if arm in measured]

    def of(self, arm: str, rows: int) -> list[dict]:
        return [run for run in self.runs if (run["arm"], run["rows"]) == (arm, rows)]

    def spread(self, arm: str, rows: int, key: str) -> Spread | None:
        """Over the rounds; None where it was not measured."""
        values = [run[key] for run in self.of(arm, rows) if run[key] is not None]
        return Spread.of(values) if values else None

    def ratio(self, arm: str, base: str, rows: int, key: str = "seconds") -> Spread | None:
        """How many times as fast as `base` `arm` is, round by round; None where no round has both."""
        bases = {run["round"]: run[key] for run in self.of(base, rows)}
        ratios = [bases[run["round"]] / run[key] for run in self.of(arm, rows) if run["round"] in bases]
        return Spread.of(ratios) if ratios else None


# Aims.

def aims(results: Results) -> list[tuple[str, str, str, str]]:
    """(Aim, what was measured, the same by CPU time, reached or not) of all aims that the runs speak of."""
    rows = results.compared_rows
    if not results.of("ours", rows):
        return []
    judged = [_speed_aim(results, "pandas", rows, TIMES_PANDAS), _speed_aim(results, "tft", rows, TIMES_TFT),
              _projected_aim(results, rows), _start_aim(results, rows)]
    judged += [_growth_aim(results, rows, size) for size in results.sizes if size > rows]
    return [aim for aim in judged if aim]


def _speed_aim(results: Results, arm: str, rows: int, bound: float) -> tuple[str, ...] | None:
    times = results.ratio("ours", arm, rows)
    if not times:
        return None
    by_cpu = results.ratio("ours", arm, rows, "cpu_seconds")
    return (f"at least {bound:g} times as fast as {ARMS[arm]}, {shorten(rows)} rows", _text(times, ".1f"), f"{by_cpu.median:.1f}",
            _verdict(times.median >= bound))


def _projected_aim(results: Results, rows: int) -> tuple[str, ...] | None:
    """Plain TFT takes too long for `rows`, and at fewer rows its start-up is most of its time."""
    sizes = sorted(size for size in results.sizes if results.of("tft", size))
    if len(sizes) < 2 or rows in sizes:
        return None
    taken = projected(results, "tft", rows, "seconds")
    times = [projected(results, "tft", rows, key) / results.spread("ours", rows, key).median
             for key in ("seconds", "cpu_seconds")]
    measured = results.ratio("ours", "tft", sizes[-1])
    beside = f"; measured on {shorten(sizes[-1])} rows: {_text(measured, '.1f')} times" if measured else ""
    aim = (f"at least {TIMES_TFT:g} times as fast as {ARMS['tft']}, {shorten(rows)} rows (it would take {taken:,.0f} s by the "
           f"line through its two sizes{beside})")
    return aim, f"{times[0]:.1f}", f"{times[1]:.1f}", _verdict(times[0] >= TIMES_TFT)


def projected(results: Results, arm: str, rows: int, key: str) -> float:
    """Seconds that an arm would take for `rows`, by the line through its smallest and its largest size."""
    sizes = sorted(size for size in results.sizes if results.of(arm, size))
    few, many = sizes[0], sizes[-1]
    short, long = (results.spread(arm, size, key).median for size in (few, many))
    return long + (rows - many) * (long - short) / (many - few)


def _start_aim(results: Results, rows: int) -> tuple[str, ...] | None:
    starts = results.spread("ours", rows, "first_row_seconds")
    if not starts:
        return None
    return (f"first row read within {FIRST_ROW_SECONDS:g} s", f"{_text(starts, '.1f')} s", "",
            _verdict(starts.median <= FIRST_ROW_SECONDS))


def _growth_aim(results: Results, rows: int, more: int) -> tuple[str, ...] | None:
    peaks = [results.spread("ours", size, "peak_bytes") for size in (rows, more)]
    if not all(peaks):
        return None
    growth = peaks[1].median / peaks[0].median
    return (f"{more / rows:g} times the rows raise the peak of memory at most {PEAK_GROWTH} times", f"{growth:.2f}", "",
            _verdict(growth <= PEAK_GROWTH))


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


# Tables.

def _text(found: Spread, form: str, unit: float = 1.0) -> str:
    """Median [lowest, highest], or the one value where all are the same, in multiples of `unit`."""
    found = Spread(found.median / unit, found.lowest / unit, found.highest / unit)
    return found.text(form) if found.lowest < found.highest else f"{found.median:{form}}"


def table_rows(results: Results, rows: int) -> list[tuple[str, ...]]:
    lines = []
    for arm in results.arms(rows):
        seconds, cpu_seconds = (results.spread(arm, rows, key) for key in ("seconds", "cpu_seconds"))
        peak, first = (results.spread(arm, rows, key) for key in ("peak_bytes", "first_row_seconds"))
        times = results.ratio(arm, "ours", rows)
        lines.append((
            ARMS[arm], f"{rows / seconds.median:,.0f}", f"{rows * FIELDS / seconds.median:,.0f}", _text(seconds, ".1f"),
            _text(cpu_seconds, ".1f"), _text(peak, ".2f", 1e9) if peak else "", f"{first.median:.1f} s" if first else "",
            _stages(results.of(arm, rows)), _text(times, ".2f") if times else ""))
    return lines


def _stages(runs: Sequence[dict]) -> str:
    """Median seconds of each stage, and of what lies outside them."""
    names = list(dict.fromkeys(name for run in runs for name in run["stages"]))
    medians = {name: Spread.of([run["stages"].get(name, 0.0) for run in runs]).median for name in names}
    medians["the rest"] = Spread.of([run["seconds"] - sum(run["stages"].values()) for run in runs]).median
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in medians.items())


def conditions(results: Results, rows: int) -> str:
    runs = [run for run in results.runs if run["rows"] == rows]
    rounds = len({run["round"] for run in runs})
    return (f"{rounds} round{'s' if rounds > 1 else ''} on {runs[0]['cores']} cores; load of the machine before a run at most "
            f"{max(run['load'] for run in runs):.1f}; finished {max(run['finished'] for run in runs)}. "
            "Medians [lowest, highest].")


def command(results: Results) -> str:
    return f"python -m benchmarks.preprocessing --rows {shorten(results.compared_rows)}"


def markdown(results: Results) -> str:
    """The whole result as a page."""
    setting = (
        f"A generated log in the shape of Criteo's (`benchmarks/prepare/log.py`): {len(NUMERIC)} counts with heavy tails and "
        f"{len(CATEGORICAL)} categorical fields with Zipf-distributed values, of which those seen at least {MIN_COUNT} times are "
        f"kept; tab-separated, {sum(FILES.values())} files. Every arm runs in a process of its own, one after another, and is "
        "measured from its start to its end, importing included. Memory is that of all its processes, sampled every "
        f"{SAMPLE_SECONDS} s, shared pages counted once."
    )
    parts = ["# Speed and memory of preprocessing", f"Command: `{command(results)}`.", setting]
    if judged := aims(results):
        parts += ["## Aims", _markdown_table(AIMS_HEADER, judged)]
    arms = [arm for arm in ARMS if any(run["arm"] == arm for run in results.runs)]
    parts += ["## Arms", _markdown_table(("arm", "what it is"), [(ARMS[arm], DESCRIPTIONS[arm]) for arm in arms])]
    for rows in results.sizes:
        parts += [f"## {shorten(rows)} rows", conditions(results, rows), _markdown_table(HEADER, table_rows(results, rows))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(results: Results) -> None:
    for rows in results.sizes:
        print()
        print_table(f"{shorten(rows)} rows", table_rows(results, rows), HEADER)
    for aim, measured, by_cpu, verdict in aims(results):
        print(f"{verdict}: {aim}: {measured}{f', by CPU time {by_cpu}' if by_cpu else ''}", flush=True)


def save(results: Results, output: Path) -> None:
    """Writes preprocessing.jsonl, one run a line, and preprocessing.md."""
    contents = {"jsonl": "".join(json.dumps(run) + "\n" for run in results.runs), "md": markdown(results)}
    for suffix, content in contents.items():
        with replaced_file(output / f"{RESULTS}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
