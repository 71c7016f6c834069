"""How a served model answers under load, through swaps and mistakes: `python -m benchmarks.serving`."""

import argparse
import os
import platform
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from benchmarks.processes import Interrupted, Processes
from benchmarks.serving import report
from benchmarks.serving.latency import ARMS
from benchmarks.serving.models import CLICKS, PLAIN
from benchmarks.serving.report import RESULTS, SCENARIOS
from benchmarks.training_speed import parse_values
from preprocessing import errors
from preprocessing.environment import available_cores, start_tensorflow

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("tensorflow", "tf_keras", "grpcio", "protobuf", "apache-beam")
QUICK = {
    "values": 10_000, "rows": [1, 20], "clients": [1, 2], "rounds": 1, "settle": 0.1, "seconds": 0.3, "swaps": 2, "load": 1, "load_rows": 20,
    "swap_rounds": 1, "before_seconds": 1.0, "window_seconds": 1.0, "log_rows": [1_000, 20_000], "log_rounds": 1,
}  # fmt: skip

EPILOG = """scenarios:
""" + "\n".join(textwrap.fill(text, 100, initial_indent=f"  {name:9}", subsequent_indent=" " * 11) for name, text in {
    "latency": "p50, p99 and rows/s by candidates a request and clients at once, in rounds in which the arms take turns: our server "
               "beside the bare SavedModel, a plain DCN-V2, joined calls, candidates that share a user, our client",
    "swap": "a new version while clients ask without a pause: does a call fail, and what does the swap cost the slowest",
    "swaps": "many swaps one after another: does the server's memory grow",
    "faults": "mistakes of callers and versions that do not load: which status, and is the next good request answered",
    "soak": "full load for --soak minutes with swaps and mistakes; only where --soak is given",
    "batch": "python -m serving.batch on logs of several sizes",
}.items()) + """

Nothing is trained: the models have random weights behind a real transform graph. Everything goes to --output; what was
measured before stays, scenario by scenario, so --only measures one anew. At the defaults: 25 minutes without soak.

examples:
  python -m benchmarks.serving
  python -m benchmarks.serving --only faults swaps
  python -m benchmarks.serving --only soak --soak 10
a genuine TensorFlow Serving, which must read the folders that swaps publish to (no joined calls, memory or spoilt versions):
  python -m benchmarks.serving --only faults --output runs/genuine        (makes the exports and the next command's file)
  tensorflow_model_server --port=8500 --model_config_file=runs/genuine/printed/server.config
  python -m benchmarks.serving --only latency swap swaps faults --server 127.0.0.1:8500 --output runs/genuine"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="SCENARIO", help="only these (default: all; see below)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="how long the scenario soak lasts")
    parser.add_argument("--quick", action="store_true", help="tiny models and short turns, to see that all of it works")
    parser.add_argument("--values", type=parse_values, default=1_000_000, help="distinct values of all fields (default: 1m)")

    asked = parser.add_argument_group("latency")
    asked.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=f"only some of {', '.join(ARMS)}")
    asked.add_argument("--rows", nargs="+", type=int, default=[1, 100, 1000], help="candidates a request (default: 1 100 1000)")
    asked.add_argument("--clients", nargs="+", type=int, default=[1, 4, 32], help="clients at once (default: 1 4 32)")
    asked.add_argument("--rounds", type=int, default=5, help="turns of every arm (default: 5)")
    asked.add_argument("--settle", type=float, default=0.5, metavar="S", help="unmeasured seconds of a turn (default: 0.5)")
    asked.add_argument("--seconds", type=float, default=2.0, metavar="S", help="measured seconds of a turn (default: 2)")

    loaded = parser.add_argument_group("swap, swaps, soak, batch")
    loaded.add_argument("--load", type=int, default=4, metavar="N", help="clients of full load (default: 4)")
    loaded.add_argument("--load_rows", type=int, default=100, metavar="N", help="candidates of their requests (default: 100)")
    loaded.add_argument("--swap_rounds", type=int, default=5, metavar="N", help="swaps under full load (default: 5)")
    loaded.add_argument("--before_seconds", type=float, default=5.0, metavar="S", help="load before a swap (default: 5)")
    loaded.add_argument("--swaps", type=int, default=50, metavar="N", help="swaps one after another (default: 50)")
    loaded.add_argument("--window_seconds", type=float, default=10.0, metavar="S", help="a window of soak (default: 10)")
    loaded.add_argument("--log_rows", nargs="+", type=parse_values, default=[50_000, 500_000], help="of batch (default: 50k 500k)")
    loaded.add_argument("--log_rounds", type=int, default=3, metavar="N", help="runs on each log (default: 3)")

    parser.add_argument("--server", metavar="HOST:PORT", help="a server that runs already, instead of ours")
    parser.add_argument("--model", default=CLICKS, metavar="NAME", help=f"what it calls exports/{CLICKS} (default: {CLICKS})")
    parser.add_argument("--plain_model", default=PLAIN, metavar="NAME", help=f"what it calls exports/{PLAIN} (default: {PLAIN})")
    parser.add_argument("--output", type=Path, default=Path("runs") / RESULTS, help=f"where everything goes (default: runs/{RESULTS})")
    parser.add_argument("--report", type=Path, help=f"a folder that gets {RESULTS}.jsonl, {RESULTS}.md and the plots as well")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    if "--quick" in argv:
        parser.set_defaults(**QUICK)
    arguments = parser.parse_args(argv)
    for name in ("rows", "clients", "log_rows"):
        if min(getattr(arguments, name)) < 1:
            parser.error(f"--{name} must be at least 1, received {getattr(arguments, name)}")
    for name in ("rounds", "seconds", "load", "load_rows", "swap_rounds", "before_seconds", "swaps", "window_seconds",
                 "log_rounds"):  # fmt: skip
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be above 0, received {getattr(arguments, name)}")
    if arguments.only and "soak" in arguments.only and not arguments.soak:
        parser.error("--only soak needs --soak MINUTES")
    arguments.command = f"python -m benchmarks.serving {shlex.join(argv)}".strip()
    return arguments


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Those that are to be measured."""
    if arguments.only:
        return [name for name in SCENARIOS if name in arguments.only]
    possible = [name for name in SCENARIOS if name != "soak" or arguments.soak]
    return [name for name in possible if name != "batch"] if arguments.server else possible


def run(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    start_tensorflow()
    from benchmarks.serving.scenarios import MEASURES, Run

    output = arguments.output.resolve()
    records = report.load_records(output / f"{RESULTS}.jsonl")
    with Processes(REPOSITORY) as processes, ExitStack() as stack:
        prepared = Run(processes, arguments, stack)
        for scenario in chosen(arguments):
            load = os.getloadavg()[0]
            records[scenario] = {"scenario": scenario, **conditions(arguments, load), **MEASURES[scenario](prepared)}
            report.show(records[scenario])
            report.save(records, output)
    if arguments.report:
        report.save(records, arguments.report)


def conditions(arguments: argparse.Namespace, load: float) -> dict:
    return {
        "command": arguments.command, "server": arguments.server or "python -m serving.server", "cores": available_cores(),
        "processor": processor(), "load": load, "finished": time.strftime("%Y-%m-%d %H:%M"),
        "versions": {"Python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }  # fmt: skip


def processor() -> str:
    """The processor's name, as Linux tells it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((text.partition(":")[2].strip() for text in lines if text.startswith("model name")), platform.processor() or platform.machine())


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code, 128 + the signal's number where one ended the program."""
    try:
        return errors.run(run, argv)
    except Interrupted as interruption:
        print(f"\ninterrupted by {interruption}: server and clients have ended; scenarios that were finished are kept", file=sys.stderr)
        return interruption.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
