"""Draws samples from a pre-trained model and compares them with real rows: `python -m trainer.sample --data_dir DATA --model_dir MODEL`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from preprocessing import errors
from preprocessing.environment import start_tensorflow

EXAMPLES = """The best pre-trained checkpoint says what it has learnt: whole samples, features and click, drawn from nothing or from what
--given fixes. Lists are not drawn but given, by --given or by real rows. MODEL_DIR/report/samples/ then holds the samples as
samples.csv and, in REPORT.md with plots and in metrics.json, how they differ from real rows that it was not trained on: each field's
values, what fields say of each other, click rates, and how well a classifier tells generated from real.

examples:
  python -m trainer.sample --data_dir data --model_dir model
  python -m trainer.sample --data_dir data --model_dir model --samples 1000 --given user=u17 hour=9 --given_label 1
  python -m trainer.sample --data_dir data --model_dir model --given "history=i1|i3"    a list, with its field's separator
  python -m trainer.sample --data_dir data --model_dir model --steps 4        several fields at a time: faster, less exact"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.sample", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, type=Path, help="data folder that the model was pre-trained on")
    parser.add_argument("--model_dir", required=True, type=Path, help="model folder with a pre-trained checkpoint")
    parser.add_argument("--samples", type=int, default=20_000, help="how many samples to draw (default: 20,000)")
    parser.add_argument("--given", action="extend", nargs="+", default=[], metavar="FIELD=VALUE",
                        help="fix fields to values as the log has them; FIELD= is a missing value or an empty list; may be repeated")
    parser.add_argument("--given_label", type=int, choices=(0, 1), help="fix the label: 1 click, 0 no click")
    parser.add_argument("--steps", type=int,
                        help="draw in so many steps, several fields at a time (default: one field at a time, which is exact)")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds draw equal samples (default: 1)")
    parser.add_argument("--split", choices=("valid", "train"), default="valid",
                        help="real rows to compare with (default: valid, which the model was not trained on)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    start_tensorflow()
    from trainer.sample.command import Request, sample

    sample(arguments.data_dir, arguments.model_dir, Request(
        arguments.samples, tuple(arguments.given), arguments.given_label, arguments.steps, arguments.seed, arguments.split))


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
