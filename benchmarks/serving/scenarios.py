"""Each scenario from its settings to what its record holds (`benchmarks.serving.report`)."""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.processes import Processes
from benchmarks.serving import latency, offline, soak, swaps
from benchmarks.serving.faults import Caller, faults, outcome, spoilt_versions
from benchmarks.serving.latency import ARMS, PREDICT, Asking
from benchmarks.serving.models import CLICKS, MODELS
from benchmarks.serving.programs import Target, started_server
from benchmarks.serving.report import statuses_text
from benchmarks.serving.requests import address
from benchmarks.speed.report import shorten
from serving.versions.folders import exported_versions

BATCHING = Path(__file__).resolve().parents[2] / "serving" / "config" / "batching.config"
STAYS = ("--poll_seconds", "1e6")  # with its version, while swaps of the other server are measured


class Run:
    """What the scenarios share: models, requests, servers and clients. A server starts when it is first needed.

    Args:
      processes: ends them.
      arguments: of the command line.
      stack: closes clients and servers.
    """

    def __init__(self, processes: Processes, arguments: argparse.Namespace, stack: ExitStack):
        self.processes, self.arguments, self._stack = processes, arguments, stack
        self.folder = arguments.output.resolve() / f"models-{shorten(arguments.values)}"
        self._printed = arguments.output.resolve() / "printed"
        self._servers: dict[bool, Target] = {}
        self._names = dict(zip(MODELS, (arguments.model, arguments.plain_model) if arguments.server else MODELS, strict=True))
        sizes = sorted({*arguments.rows, arguments.load_rows})
        processes.run(["-m", "benchmarks.serving.models", "--folder", str(self.folder), "--values", str(arguments.values),
                       "--sizes", *map(str, sizes)])  # fmt: skip
        requests = {model: address(self.folder / "requests", self.folder / f"requests-{name}", name) for model, name in self._names.items()}
        self.asking = stack.enter_context(closing(Asking(processes, self.server, self.versions(), requests, self._printed)))

    def versions(self) -> dict[str, Path]:
        """The folder of the highest version of each model."""
        found = {model: exported_versions(self.folder / "exports" / model) for model in MODELS}
        return {model: versions[max(versions)] for model, versions in found.items()}

    def server(self, batching: bool = False) -> Target:
        if self.arguments.server:
            return Target(self.arguments.server, self._names)
        if batching not in self._servers:
            flags = ["--batching_parameters_file", str(BATCHING), *STAYS] if batching else []
            printed = self._printed / ("server-batching.txt" if batching else "server.txt")
            server = started_server(self.processes, self.folder / "exports", printed, flags)
            self._servers[batching] = self._stack.enter_context(server)
        return self._servers[batching]

    def served(self) -> swaps.ServedModel:
        """The model that is swapped, and the clients that load its server."""
        target, arm, rows = self.server(), ARMS[PREDICT], self.arguments.load_rows
        return swaps.ServedModel(
            self.processes, target, swaps.status_reader(target, CLICKS), self.folder / "exports" / CLICKS, self.asking.clients(arm),
            self.asking.files(arm, rows), rows)  # fmt: skip

    def caller(self) -> Caller:
        [file, *_] = self.asking.files(ARMS[PREDICT], self.arguments.load_rows)
        return Caller(self.server(), file.read_bytes())

    def settings(self, *names: str) -> dict:
        """Settings for a record, in words."""
        found = {name: getattr(self.arguments, name) for name in ("values", *names)}
        return {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in found.items()}


def measure_latency(run: Run) -> dict:
    given = run.arguments
    arms = [arm for arm in ARMS if arm in given.arms and not (ARMS[arm].batched and given.server)]
    cells = latency.cells(arms, given.rows, given.clients)
    return {"settings": run.settings("rounds", "settle", "seconds"),
            "rounds": list(latency.rounds(run.asking, cells, given.rounds, given.settle, given.seconds))}  # fmt: skip


def measure_swap(run: Run) -> dict:
    given, served, found = run.arguments, run.served(), []
    for place in range(given.swap_rounds):
        found.append(one := swaps.swap_under_load(served, given.load, given.before_seconds))
        print(f"swap {place + 1}/{given.swap_rounds} under load: p99 {one['before']:.1f} ms before, {one['during']:.1f} ms during "
              f"{one['seconds']:.1f} s; failed: {one['failures'] or 'none'}", flush=True)  # fmt: skip
    return {"settings": run.settings("load", "load_rows", "before_seconds"), "swaps": found}


def measure_swaps(run: Run) -> dict:
    given = run.arguments
    found = list(swaps.one_after_another(run.served(), given.swaps, given.seconds))
    return {"settings": run.settings("swaps", "load_rows", "seconds"), "swaps": found}


def measure_faults(run: Run) -> dict:
    with closing(run.caller()) as caller:
        found = [_told(outcome(fault, caller)) for fault in faults(caller)]
        if not run.arguments.server:  # TensorFlow Serving tries for minutes to load what does not load
            found += map(_told, spoilt_versions(run.served(), caller))
    return {"settings": run.settings("load_rows"), "faults": found}


def _told(one: dict) -> dict:
    print(f"{one['fault']}: {statuses_text(one['statuses'])}; then {one['next']}{'' if one['right'] else f'  NOT AS EXPECTED: {json.dumps(one)}'}",
          flush=True)  # fmt: skip
    return one


def measure_soak(run: Run) -> dict:
    given = run.arguments
    with closing(run.caller()) as caller:
        mistakes = [fault for fault in faults(caller) if fault.calls == 1]
        windows = list(soak.soak(run.served(), caller, mistakes, given.load, given.soak, given.window_seconds))
    return {"settings": {"minutes": given.soak, **run.settings("load", "load_rows", "window_seconds")}, "windows": windows}


def measure_batch(run: Run) -> dict:
    given = run.arguments
    runs = offline.rounds(run.processes, run.versions()[CLICKS], run.folder / "rows.csv", given.output.resolve() / "logs", given.log_rows,
                          given.log_rounds)  # fmt: skip
    return {"settings": run.settings("log_rounds"), "runs": list(runs)}


MEASURES: dict[str, Callable[[Run], dict]] = {
    "latency": measure_latency, "swap": measure_swap, "swaps": measure_swaps, "faults": measure_faults, "soak": measure_soak,
    "batch": measure_batch,
}  # fmt: skip
