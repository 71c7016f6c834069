"""What each choice in a training step is worth, alone, beside the usual way: `python -m benchmarks.kernels`.

Every row of the table is a forward and backward pass at the sizes of a DCN-V2 of 39 fields (batch 4096, d = 16, crosses of
width 640, layers of 400). The two ways take turns, and the medians of their wall-clock time are compared.
"""

import argparse
from collections.abc import Sequence

from preprocessing import errors
from preprocessing.environment import start_tensorflow


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (default: 7)")
    parser.add_argument("--repetitions", type=int, default=5, help="steps of a turn (default: 5)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    start_tensorflow()
    from benchmarks.speed.kernels import measure, pairs
    from trainer.progress import print_table

    rows = [measure(pair, arguments.rounds, arguments.repetitions) for pair in pairs()]
    print_table("forward and backward, milliseconds", rows, ("way | other way", "ms", "ms", "ratio"))


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
