"""Ratios of what was measured, and what was aimed at, from one record a scenario."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving.figures import growth
from benchmarks.serving.latency import Cell
from benchmarks.speed.report import Spread

COST_OF_GENERATIVE, SWAP_TIMES, MEMORY_TIMES = 1.15, 3.0, 1.1
Record = dict
Row = tuple[str, ...]


# Ratios of latency and throughput.

@dataclass(frozen=True)
class Comparison:
    """An arm beside another one, asked for the same by as many clients.

    Attributes:
      text: what the ratio says.
      key, base: names of `ARMS`.
      measure: "p50", "p99" or "rows_per_second".
      at_most: what was aimed at, if anything.
    """

    text: str
    key: str
    base: str
    measure: str = "p50"
    at_most: float | None = None


COMPARISONS = (
    Comparison("what our server adds: its p50 over that of the graph alone", "predict", "session"),
    Comparison("what our server adds: its p50 over that of a call of the loaded SavedModel", "predict", "function"),
    Comparison("what the generative model costs: p50 over that of a plain DCN-V2, server", "predict", "plain", at_most=COST_OF_GENERATIVE),
    Comparison("what the generative model costs: the graph alone", "session", "plain_session", at_most=COST_OF_GENERATIVE),
    Comparison("serialized examples instead of one tensor a field: p50", "examples", "predict"),
    Comparison("the user sent once: p50", "candidates", "predict"),
    Comparison("the user sent once: rows/s", "candidates", "predict", "rows_per_second"),
    Comparison("joined calls: p50", "batched", "predict"),
    Comparison("joined calls: rows/s", "batched", "predict", "rows_per_second"),
    Comparison("our client instead of ready bytes: p50", "client", "predict"),
    Comparison("our client with the user sent once: p50 over `predict`", "rank", "client"),
)


def ratio(record: Record, key: str, base: str, measure: str) -> Spread:
    """Of the cells `key` and `base`, round by round."""
    return Spread.of([found[key][measure] / found[base][measure] for found in record["rounds"]])


def ratios(record: Record) -> list[tuple[Comparison, Cell, Spread]]:
    """All comparisons of cells that were measured."""
    measured, found = record["rounds"][0], []
    for one in COMPARISONS:
        for cell in map(Cell.of, measured):
            base = Cell(one.base, cell.rows, cell.clients).key
            if cell.arm == one.key and base in measured:
                found.append((one, cell, ratio(record, cell.key, base, one.measure)))
    return found


def over_rounds(record: Record, key: str, measure: str) -> Spread:
    return Spread.of([found[key][measure] for found in record["rounds"]])


def failures(record: Record) -> dict[str, int]:
    """Statuses of failed calls and their numbers, over all cells and rounds."""
    total: dict[str, int] = {}
    for found in (one["failures"] for measured in record["rounds"] for one in measured.values()):
        for status, number in found.items():
            total[status] = total.get(status, 0) + number
    return total


# Aims: (aim, what was measured, verdict).

def aims_of(record: Record) -> list[Row]:
    return _AIMS[record["scenario"]](record)


def _latency_aims(record: Record) -> list[Row]:
    judged = []
    for one, cell, found in ratios(record):
        if one.at_most is not None:
            aim = f"{one.text}; {_asked(cell)}: at most {one.at_most:g} times"
            judged.append((aim, found.text(".2f"), _verdict(found.median <= one.at_most)))
    failed = failures(record)
    return [*judged, ("latency: no call fails", failed_text(failed), _verdict(not failed))]


def _swap_aims(record: Record) -> list[Row]:
    times = Spread.of([swap["during"] / swap["before"] for swap in record["swaps"]])
    failed = [swap["failures"] for swap in record["swaps"] if swap["failures"]]
    calls = sum(swap["calls"] for swap in record["swaps"])
    return [("a swap under full load: no failed request", f"{failed_text(failed)} of {calls:,} calls", _verdict(not failed)),
            (f"a swap under full load: p99 during it at most {SWAP_TIMES:g} times that before", times.text(".2f"),
             _verdict(times.median <= SWAP_TIMES))]  # fmt: skip


def _swaps_aims(record: Record) -> list[Row]:
    failed = [swap["failures"] for swap in record["swaps"] if swap["failures"]]
    judged = [(f"{len(record['swaps'])} swaps: no failed request", failed_text(failed), _verdict(not failed))]
    return judged + _memory_aim(f"{len(record['swaps'])} swaps", record["swaps"])


def _soak_aims(record: Record) -> list[Row]:
    failed = [window["failures"] for window in record["windows"] if window["failures"]]
    calls = sum(window["calls"] for window in record["windows"])
    minutes = f"{record['settings']['minutes']:g} minutes of full load"
    return [(f"{minutes}: no failed request", f"{failed_text(failed)} of {calls:,} calls", _verdict(not failed)),
            (f"{minutes}: every mistake gets the right status", f"{sum(one['right'] for one in record['windows'])} of {len(record['windows'])}",
             _verdict(all(one["right"] for one in record["windows"]))),
            *_memory_aim(minutes, record["windows"])]  # fmt: skip


def _memory_aim(title: str, measured: Sequence[dict]) -> list[Row]:
    memory = [one["bytes"] for one in measured if one["bytes"]]
    if not memory:
        return []
    times = growth(memory)
    return [(f"{title}: the server's memory in the last fifth at most {MEMORY_TIMES:g} times that in the second fifth", f"{times:.2f}",
             _verdict(times <= MEMORY_TIMES))]  # fmt: skip


def _faults_aims(record: Record) -> list[Row]:
    wrong = [one["fault"] for one in record["faults"] if not one["right"]]
    return [("every mistake gets the right status, and the next good request is answered",
             f"{len(record['faults']) - len(wrong)} of {len(record['faults'])}", _verdict(not wrong))]  # fmt: skip


_AIMS: dict[str, Callable[[Record], list[Row]]] = {
    "latency": _latency_aims, "swap": _swap_aims, "swaps": _swaps_aims, "faults": _faults_aims, "soak": _soak_aims, "batch": lambda record: [],
}  # fmt: skip


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def failed_text(failed) -> str:
    return f"failed: {json.dumps(failed)}" if failed else "none failed"


def _asked(cell: Cell) -> str:
    return f"{cell.rows} rows, {cell.clients} client{'s' if cell.clients > 1 else ''}"
