"""Our two stages as `trainer.loop` runs them, and their input alone."""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import chain, count, islice

import tensorflow as tf

from benchmarks.speed.network import CROSS_LAYERS, DIM, GRADIENT_NORM, HIDDEN_UNITS, IN_FLOAT32, LEARNING_RATE
from trainer.config import Config, StageConfig, load_config
from trainer.data_folder import DataFolder
from trainer.distribute.distribution import Distribution
from trainer.input import TrainingSplit
from trainer.models import build_model
from trainer.optimizers import build_optimizer, set_learning_rate
from trainer.runtime import resolved

WINDOWS = 4


def build(options: argparse.Namespace) -> Callable[[int], dict]:
    data = DataFolder.open(options.folder)
    if options.arm == "input_streamed":
        options.assignments.insert(0, f"input.window_rows={data.rows('train') // WINDOWS + 1}")
    if options.arm.endswith(IN_FLOAT32):
        options.assignments.append("runtime.matmul=float32")
    config = resolved(load_config(None, [*_assignments(options), *options.assignments]))
    if options.arm.startswith("input"):
        return _reading(data, config)
    return _training(options.arm.removesuffix(IN_FLOAT32), data, config)


def _assignments(options: argparse.Namespace) -> list[str]:
    found = [f"model.embedding_dim={DIM}", f"model.dcn.cross_layers={CROSS_LAYERS}", f"model.dcn.hidden_units={list(HIDDEN_UNITS)}"]
    for stage in ("pretrain", "finetune"):
        found += [f"{stage}.batch_size={options.batch_size}", f"{stage}.dropout={options.dropout}",
                  f"{stage}.learning_rate={LEARNING_RATE}", f"{stage}.gradient_norm={GRADIENT_NORM}"]
    return found


def _split(data: DataFolder, config: Config, batch_size: int, worker: int = 0, workers: int = 1) -> TrainingSplit:
    return TrainingSplit(data, batch_size, config.seed, config.input.window_rows, worker, workers)


def _training(stage: str, data: DataFolder, config: Config) -> Callable[[int], dict]:
    settings: StageConfig = getattr(config, stage)
    tf.keras.utils.set_random_seed(config.seed)
    model = build_model(data.schema, config, stage, data.field_frequencies, data.click_rate)
    model.optimizer = build_optimizer(model, settings.learning_rate, settings.table_decay)
    steps = Distribution().steps(model.train_step, partial(_split, data, config), settings.batch_size)

    def inputs(epoch: int, epoch_step: int) -> dict[str, tf.Tensor]:
        set_learning_rate(model.optimizer, settings.learning_rate)
        return {"seed": tf.constant([config.seed, epoch * steps.per_epoch + epoch_step])}

    taken = chain.from_iterable(steps.run(epoch, 0, partial(inputs, epoch), lambda: False) for epoch in count())

    def run(number: int) -> dict:
        for parts in islice(taken, number):
            loss = parts["loss"]
        return {"steps": number, "loss": loss, "matmul": config.runtime.matmul}

    return run


def _reading(data: DataFolder, config: Config) -> Callable[[int], dict]:
    """Whole passes over the split, as many as hold at least the steps that are asked for."""
    split = _split(data, config, config.finetune.batch_size)
    epochs = count()

    def run(steps: int) -> dict:
        read = 0
        while read < steps:
            read += sum(1 for _ in split.iterate(split.epoch(next(epochs))))
        return {"steps": read}

    return run
