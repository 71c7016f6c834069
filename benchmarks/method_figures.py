"""The figures of docs/method.md: `python -m benchmarks.method_figures`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing import errors

TOKENS = 11
SAMPLES = 200_000
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SCHEDULES = {"linear": ["diffusion.schedule=linear"], "cosine": ["diffusion.schedule=cosine"], "fixed 30%": ["diffusion.schedule=fixed"]}


def masked_shares(assignments: Sequence[str]) -> np.ndarray:
    """Share of samples in which 0, 1, ..., TOKENS tokens are masked, [TOKENS + 1], by the corruption that training uses."""
    import tensorflow as tf

    from trainer.config import load_config
    from trainer.diffusion.corruption import corrupt

    there = tf.ones((SAMPLES, TOKENS), tf.bool)
    mask, _ = corrupt(load_config(None, assignments).diffusion, there, tf.constant([1, 1]))
    return np.bincount(tf.reduce_sum(tf.cast(mask, tf.int32), axis=1), minlength=TOKENS + 1) / SAMPLES


def draw_masking(output: Path) -> None:
    """How many of a sample's tokens are masked, by schedule."""
    from matplotlib.figure import Figure

    from trainer.plots import save

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots(1, len(SCHEDULES), sharey=True)
    for axis, (name, assignments) in zip(axes, SCHEDULES.items(), strict=True):
        shares = masked_shares(assignments)
        axis.bar(range(TOKENS + 1), shares, color="tab:blue")
        axis.set(title=f"{name}: {np.dot(shares, np.arange(TOKENS + 1)) / TOKENS:.0%} on average", xlabel=f"masked tokens of {TOKENS}")
    axes[0].set_ylabel("share of samples")
    save(figure, output / "masking.png")


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method_figures", description=__doc__)
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder of the images (default: docs/images)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw_masking(arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
