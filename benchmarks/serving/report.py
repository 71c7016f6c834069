"""The page of `benchmarks.serving`: aims, tables and plots, from one record a scenario."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.serving.aims import Record, Row, aims_of, failed_text, over_rounds, ratios
from benchmarks.serving.figures import line
from benchmarks.serving.latency import ARMS, Cell
from benchmarks.serving.plots import PLOTTED, has_plot, memory_plot
from benchmarks.speed.report import Spread
from preprocessing.files import replaced_file
from trainer.plots import save as save_figure
from trainer.progress import print_table

RESULTS = "serving"
SCENARIOS = ("latency", "swap", "swaps", "faults", "soak", "batch")
Table = tuple[str, Row, list[Row]]  # title, header, rows


# Tables.


def tables(record: Record) -> list[Table]:
    return _TABLES[record["scenario"]](record)


def _latency_tables(record: Record) -> list[Table]:
    found, keys = [], list(map(Cell.of, record["rounds"][0]))
    for rows in dict.fromkeys(cell.rows for cell in keys):
        lines = []
        for cell in (cell for cell in keys if cell.rows == rows):
            p50, p99, rate = (over_rounds(record, cell.key, measure) for measure in ("p50", "p99", "rows_per_second"))
            lines.append((ARMS[cell.arm].title, str(cell.clients), p50.text(".2f"), p99.text(".2f"), f"{rate.median:,.0f}"))
        found.append((f"{rows} candidates a request", ("arm", "clients", "p50 ms", "p99 ms", "rows/s"), lines))
    compared = [(one.text, str(cell.rows), str(cell.clients), spread.text(".2f")) for one, cell, spread in ratios(record)]
    return [*found, ("Ratios", ("ratio", "rows", "clients", "times"), compared)]


def _swap_tables(record: Record) -> list[Table]:
    lines = [(str(place), f"{swap['before']:.1f}", f"{swap['during']:.1f}", f"{swap['during'] / swap['before']:.2f}",
              f"{swap['seconds']:.1f}", f"{swap['calls']:,}", failed_text(swap["failures"]))
             for place, swap in enumerate(record["swaps"], start=1)]  # fmt: skip
    return [("A swap under full load", ("swap", "p99 before, ms", "p99 during, ms", "times", "seconds", "calls", ""), lines)]


def _swaps_tables(record: Record) -> list[Table]:
    swaps = record["swaps"]
    shown = sorted({0, *range(9, len(swaps), 10), len(swaps) - 1})
    lines = [(str(place + 1), _megabytes(swaps[place]["bytes"])) for place in shown]
    return [(f"{len(swaps)} swaps", ("after swap", "memory of the server, MB"), lines)]


def _soak_tables(record: Record) -> list[Table]:
    windows = record["windows"]
    groups = [windows[start:start + max(1, len(windows) // 5)] for start in range(0, len(windows), max(1, len(windows) // 5))]
    lines = [(f"{group[-1]['seconds'] / 60:.1f}", Spread.of([one["p50"] for one in group]).text(".1f"),
              Spread.of([one["p99"] for one in group]).text(".1f"), f"{Spread.of([one['rows_per_second'] for one in group]).median:,.0f}",
              _megabytes(group[-1]["bytes"]), str(sum(one["swapped"] for one in group)),
              failed_text([one["failures"] for one in group if one["failures"]])) for group in groups]  # fmt: skip
    return [("A long run", ("until minute", "p50 ms", "p99 ms", "rows/s", "memory, MB", "swaps", ""), lines)]


def _faults_tables(record: Record) -> list[Table]:
    lines = [(one["fault"], statuses_text(one["statuses"]), one["next"], "" if one["right"] else f"expected {' or '.join(one['expected'])}")
             for one in record["faults"]]  # fmt: skip
    return [("Mistakes", ("mistake", "status", "the next good request", ""), lines)]


def statuses_text(statuses: dict[str, int]) -> str:
    return ", ".join(f"{status} ({number:,})" if number > 1 else status for status, number in sorted(statuses.items()))


def _batch_tables(record: Record) -> list[Table]:
    sizes = sorted({run["rows"] for run in record["runs"]})
    spreads = [Spread.of([run["seconds"] for run in record["runs"] if run["rows"] == size]) for size in sizes]
    lines = [(f"{size:,}", spread.text(".1f"), f"{size / spread.median:,.0f}") for size, spread in zip(sizes, spreads, strict=True)]
    found = [("Offline scoring", ("rows", "seconds", "rows/s"), lines)]
    if len(sizes) > 1:
        fixed, rate = line(sizes, [spread.median for spread in spreads])
        found.append(("By the line through both", ("fixed seconds", "rows/s beyond them"), [(f"{fixed:.1f}", f"{rate:,.0f}")]))
    return found


_TABLES: dict[str, Callable[[Record], list[Table]]] = {
    "latency": _latency_tables, "swap": _swap_tables, "swaps": _swaps_tables, "faults": _faults_tables, "soak": _soak_tables,
    "batch": _batch_tables,
}  # fmt: skip


def _megabytes(memory: int | None) -> str:
    return f"{memory / 1e6:,.0f}" if memory else ""


# The page.

TITLES = {
    "latency": "Latency and throughput", "swap": "A version swap under full load", "swaps": "Many swaps", "faults": "Mistakes",
    "soak": "A long run", "batch": "Offline scoring",
}  # fmt: skip
PLOTS = {scenario: f"{RESULTS}_{scenario}.png" for scenario in PLOTTED}


def conditions(record: Record) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (f"Command: `{record['command']}`. Server: {record['server']}. {settings}. {record['processor']}, {record['cores']} cores, load "
            f"{record['load']:.1f} at the start; {versions}; {record['finished']}. Medians [lowest, highest] over the rounds.")


def markdown(records: Sequence[Record]) -> str:
    """The whole result as a page."""
    parts = ["# Serving under load", SETTING]
    judged = [aim for record in records for aim in aims_of(record)]
    if judged:
        parts += ["## Aims", _markdown_table(("aim", "measured", ""), judged)]
    for record in records:
        parts += [f"## {TITLES[record['scenario']]}", conditions(record)]
        for title, header, rows in tables(record):
            parts += [f"### {title}", _markdown_table(header, rows)]
        if has_plot(record):
            parts.append(f"![{TITLES[record['scenario']]}]({PLOTS[record['scenario']]})")
    return "\n\n".join(parts) + "\n"


SETTING = (
    "Served is a DGenCTR of 39 fields (13 numeric, 26 categorical), d = 16, 3 full-rank crosses beside 400x400x400, with random weights: "
    "what a prediction costs does not depend on what they have learnt. The plain DCN-V2 has the same sizes (one embedding layer a field, "
    "the cross layers of TensorFlow Recommenders) behind the same transform graph. Candidates of a request share 20 fields. Each client is "
    "a process of its own that asks for the next request as soon as it has an answer; unless it says otherwise it sends ready bytes and "
    "does not read the answer, so that times are the server's. The arms without a server are given tensors or arrays, and return arrays."
)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(record: Record) -> None:
    for title, header, rows in tables(record):
        print()
        print_table(title, rows, header)
    for aim, measured, verdict in aims_of(record):
        print(f"{verdict}: {aim}: {measured}", flush=True)


def load_records(path: Path) -> dict[str, Record]:
    """By scenario."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {record["scenario"]: record for record in map(json.loads, lines)}


def save(records: dict[str, Record], output: Path) -> None:
    """Writes serving.jsonl, one scenario a line, serving.md and the plots."""
    ordered = [records[scenario] for scenario in SCENARIOS if scenario in records]
    for record in ordered:
        if has_plot(record):
            output.mkdir(parents=True, exist_ok=True)
            save_figure(memory_plot(record), output / PLOTS[record["scenario"]])
    for suffix, content in {"jsonl": "".join(json.dumps(record) + "\n" for record in ordered), "md": markdown(ordered)}.items():
        with replaced_file(output / f"{RESULTS}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
