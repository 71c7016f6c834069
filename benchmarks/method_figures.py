"""The figures of docs/method.md: `python -m benchmarks.method_figures`.

What is drawn is computed by the code that trains. The costs of histories are timed, so a quiet machine draws the straightest lines.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from preprocessing import errors

TOKENS = 11
SAMPLES = 200_000
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SCHEDULES = {"linear": ["diffusion.schedule=linear"], "cosine": ["diffusion.schedule=cosine"], "fixed 30%": ["diffusion.schedule=fixed"]}
ROW = ("user", "item", "hour", "city", "device", "price", "click")
ROWS_SHOWN = 12
FIELD_VALUES, CELLS = 2_000, 256  # of the sampled softmax
DRAWS = (16, 64, 256, 1024, 4096, 16_384, 65_536)
LENGTHS = (25, 50, 100, 200, 400)
HISTORIES, WIDTH, REPEATS = 1024, 16, 15


def masks(assignments: Sequence[str], samples: int, tokens: int) -> np.ndarray:
    """Masks of rows with all values there, bool [samples, tokens], by the corruption that training uses."""
    import tensorflow as tf

    from trainer.config import load_config
    from trainer.diffusion.corruption import corrupt

    there = tf.ones((samples, tokens), tf.bool)
    return corrupt(load_config(None, assignments).diffusion, there, tf.constant([1, 1]))[0].numpy()


def masked_shares(assignments: Sequence[str]) -> np.ndarray:
    """Share of samples in which 0, 1, ..., TOKENS tokens are masked, [TOKENS + 1]."""
    return np.bincount(masks(assignments, SAMPLES, TOKENS).sum(axis=1), minlength=TOKENS + 1) / SAMPLES


def draw_masking(output: Path) -> None:
    """How many of a sample's tokens are masked, by schedule."""
    figure, axes = _figure(len(SCHEDULES), sharey=True)
    for axis, (name, assignments) in zip(axes, SCHEDULES.items(), strict=True):
        shares = masked_shares(assignments)
        axis.bar(range(TOKENS + 1), shares, color="tab:blue")
        axis.set(title=f"{name}: {np.dot(shares, np.arange(TOKENS + 1)) / TOKENS:.0%} on average", xlabel=f"masked tokens of {TOKENS}")
    axes[0].set_ylabel("share of samples")
    _save(figure, output / "masking.png")


def draw_stages(output: Path) -> None:
    """Which tokens of some rows are masked, in each stage."""
    figure, axes = _figure(2, sharey=True)
    stages = {"stage one: a part of each row": masks(["diffusion.schedule=cosine"], ROWS_SHOWN, len(ROW)),
              "stage two, and serving: the label": np.tile(np.arange(len(ROW)) == len(ROW) - 1, (ROWS_SHOWN, 1))}
    for axis, (title, masked) in zip(axes, stages.items(), strict=True):
        axis.imshow(np.where(masked, 1.0, 0.15), cmap="Blues", aspect="auto", vmin=0, vmax=1.4)
        axis.set(title=title, ylabel="rows" if axis is axes[0] else "")
        axis.set_xticks(range(len(ROW)), ROW)
        axis.set_xticks(np.arange(len(ROW) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(ROWS_SHOWN + 1) - 0.5, minor=True)
        axis.set_yticks([])
        axis.grid(which="minor", color="white", linewidth=2)
        axis.tick_params(which="minor", length=0)
    _save(figure, output / "stages.png")


def sampled_losses() -> tuple[float, list[float]]:
    """Mean loss of random scores of a field with skewed shares, by the full softmax and against the distinct values of so many `DRAWS`."""
    import tensorflow as tf

    from trainer.diffusion.loss import inclusion_log_probability, log_shares, sampled_cross_entropy

    rng = np.random.default_rng(1)
    counts = np.ceil(10_000 / np.arange(1, FIELD_VALUES + 1))
    scores = (rng.normal(size=(CELLS, FIELD_VALUES)) + np.log(counts / counts.sum())).astype(np.float32)
    true = tf.constant(rng.choice(FIELD_VALUES, CELLS, p=counts / counts.sum()))
    full = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=true, logits=scores)
    sampled = []
    for draws in DRAWS:
        candidates = np.unique(rng.choice(FIELD_VALUES, draws, p=counts / counts.sum()))
        corrected = scores - inclusion_log_probability(tf.constant(log_shares(counts)), draws)
        losses = sampled_cross_entropy(tf.gather(corrected, true, batch_dims=1), true, tf.gather(corrected, candidates, axis=1),
                                       tf.constant(candidates))
        sampled.append(float(tf.reduce_mean(losses)))
    return float(tf.reduce_mean(full)), sampled


def history_milliseconds(attention: str) -> list[float]:
    """What the token of histories of each of `LENGTHS` takes, forward and backward, a batch of `HISTORIES` rows: the fastest of some."""
    import tensorflow as tf

    from trainer.config import InterestConfig
    from trainer.interest import ListValues, TargetAttention

    found = []
    for length in LENGTHS:
        layer = TargetAttention(InterestConfig(attention=attention), WIDTH, length, 0.1, has_target=True)
        table, queries = tf.random.normal((1000, WIDTH)), tf.random.normal((HISTORIES, WIDTH))
        lists = tf.random.uniform((HISTORIES, length), maxval=1000, dtype=tf.int32)

        @tf.function
        def step(layer=layer, table=table, queries=queries, lists=lists) -> tf.Tensor:
            values = ListValues(lists)
            with tf.GradientTape() as tape:
                embeddings = tf.gather(table, values.ids)
                tape.watch(embeddings)
                total = tf.reduce_sum(layer(embeddings, values, queries))
            return tape.gradient(total, embeddings)

        found.append(1000 * _fastest(step))
    return found


def _fastest(step: Callable[[], object]) -> float:
    step()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return min(times)


def draw_costs(output: Path) -> None:
    """How the sampled softmax approaches the full one, and what the length of a history costs."""
    figure, (left, right) = _figure(2)
    full, sampled = sampled_losses()
    left.plot(DRAWS, sampled, marker="o", label="against the candidates")
    left.axhline(full, color="black", linestyle="--", label=f"over all {FIELD_VALUES:,} values")
    left.set(xscale="log", xlabel="rows that candidates are taken from", ylabel="loss of a masked value (nats)")
    left.legend()
    for attention in ("dot", "mlp"):
        right.plot(LENGTHS, history_milliseconds(attention), marker="o", label=f"attention {attention}")
    right.set(xlabel="values of a history", ylabel=f"ms, {HISTORIES:,} rows there and back", xlim=(0, None), ylim=(0, None))
    right.legend()
    _save(figure, output / "costs.png")


def _figure(axes: int, **kwargs):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    return figure, figure.subplots(1, axes, **kwargs)


def _save(figure, path: Path) -> None:
    from trainer.plots import save

    save(figure, path)


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method_figures", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder of the images (default: docs/images)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for draw in (draw_stages, draw_masking, draw_costs):
        draw(arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
