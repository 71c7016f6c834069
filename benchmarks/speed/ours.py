"""Our two stages as `trainer.loop` runs them, and their input alone."""

import argparse
from collections.abc import Callable, Iterator
from itertools import count

import tensorflow as tf

from benchmarks.speed.network import CROSS_LAYERS, DIM, GRADIENT_NORM, HIDDEN_UNITS, LEARNING_RATE
from trainer.config import Config, StageConfig, load_config
from trainer.input import Batch, DataFolder, TrainingSplit
from trainer.loop import CompiledStep
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer, set_learning_rate

WINDOWS = 4


def build(options: argparse.Namespace) -> Callable[[int], dict]:
    data = DataFolder.open(options.folder)
    if options.arm == "input_streamed":
        options.assignments.insert(0, f"input.window_rows={data.rows('train') // WINDOWS + 1}")
    config = load_config(None, [*_assignments(options), *options.assignments])
    if options.arm.startswith("input"):
        return _reading(data, config)
    return _training(options.arm, data, config)


def _assignments(options: argparse.Namespace) -> list[str]:
    found = [f"model.embedding_dim={DIM}", f"model.dcn.cross_layers={CROSS_LAYERS}", f"model.dcn.hidden_units={list(HIDDEN_UNITS)}"]
    for stage in ("pretrain", "finetune"):
        found += [f"{stage}.batch_size={options.batch_size}", f"{stage}.dropout={options.dropout}",
                  f"{stage}.learning_rate={LEARNING_RATE}", f"{stage}.gradient_norm={GRADIENT_NORM}"]
    return found


def _split(data: DataFolder, config: Config) -> TrainingSplit:
    return TrainingSplit(data, config.finetune.batch_size, config.seed, config.input.window_rows)


def _endless(split: TrainingSplit) -> Iterator[Batch]:
    for epoch in count():
        yield from split.iterate(split.epoch(epoch))


def _training(stage: str, data: DataFolder, config: Config) -> Callable[[int], dict]:
    settings: StageConfig = getattr(config, stage)
    tf.keras.utils.set_random_seed(config.seed)
    model = DGenCTR(data.schema, config, stage, data.frequencies, data.click_rate)
    model.optimizer = build_optimizer(model, settings.learning_rate, settings.table_decay)
    train_step = CompiledStep(model)
    batches = _endless(_split(data, config))
    done = 0

    def run(steps: int) -> dict:
        nonlocal done
        for _ in range(steps):
            batch = next(batches)
            batch["seed"] = tf.constant([config.seed, done])
            set_learning_rate(model.optimizer, settings.learning_rate)
            parts = train_step(batch)
            done += 1
        return {"steps": steps, "loss": parts["loss"]}

    return run


def _reading(data: DataFolder, config: Config) -> Callable[[int], dict]:
    """Whole passes over the split, as many as hold at least the steps that are asked for."""
    split = _split(data, config)
    epochs = count()

    def run(steps: int) -> dict:
        read = 0
        while read < steps:
            read += sum(1 for _ in split.iterate(split.epoch(next(epochs))))
        return {"steps": read}

    return run
