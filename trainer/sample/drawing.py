"""The pre-trained model of a folder, the real rows to compare with, and many samples drawn with a person watching."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from preprocessing.errors import UserError
from preprocessing.schema import ListField, MultivaluedField, Schema
from trainer.batch import NO_VALUE, Batch
from trainer.checkpoints import StageCheckpoints, load_pretrained
from trainer.config import Config, InputConfig
from trainer.data_folder import DataFolder
from trainer.diffusion.sampler import Sampler
from trainer.input import EvaluationSplit
from trainer.progress import SECONDS_BETWEEN_LINES
from trainer.sample.request import Given

BATCH_ROWS = 1024  # of every batch, also the last, so that sample i does not depend on how many are drawn


@dataclass(frozen=True)
class Rows:
    """Rows of a data folder, or samples.

    Attributes:
      table: int32 [rows, N+1]: the id of each field, and the label, 0 or 1.
      lists: by the name of each list field that the model reads, int32 [rows, max_length], -1 where there is no value.
    """

    table: np.ndarray
    lists: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.table)

    def take(self, places: np.ndarray) -> "Rows":
        return Rows(self.table[places], {name: values[places] for name, values in self.lists.items()})

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        return cls(np.concatenate([part.table for part in parts]),
                   {name: np.concatenate([part.lists[name] for part in parts]) for name in parts[0].lists})


def open_pretrained(data_dir: str | Path, model_dir: Path) -> tuple[DataFolder, Config, Path]:
    """The data folder as the pre-trained model of a model folder reads it, that model's configuration and best checkpoint.

    Raises:
      UserError: there is none, it belongs to other data, or its pre-training was not diffusion.
    """
    data, checkpoints = DataFolder.open(data_dir), StageCheckpoints(model_dir, "pretrain")
    best = checkpoints.best()
    if best is None:
        raise UserError(f"model folder {model_dir} has no pre-trained checkpoint, from which samples are drawn: run "
                        f"`python -m trainer.task --stage=pretrain --data_dir {data.path} --model_dir {model_dir}` first")
    if checkpoints.state(best).data != data.checksum:
        raise UserError(f"model folder {model_dir} was pre-trained on other data than {data.path} (another schema, other training rows "
                        "or vocabularies): give the data folder that it was pre-trained on")
    config = checkpoints.config(best)
    if config.pretrain.objective != "diffusion":
        raise UserError(f"model folder {model_dir} was pre-trained with `pretrain.objective: {config.pretrain.objective}`, which does not "
                        "learn the distribution of samples: pre-train with `diffusion` to draw from it")
    return data.without(config.model.ignored_fields), config, best


def load_sampler(data: DataFolder, config: Config, checkpoint: Path, steps: int | None) -> Sampler:
    """The sampler of a pre-trained checkpoint; for the arguments see `open_pretrained`."""
    return Sampler(load_pretrained(checkpoint, config, data), data.field_frequencies, steps)


def nearest_rows(data: DataFolder, settings: InputConfig, split: str, given: Given, rows: int, seed: int,
                 knows: Callable[[np.ndarray], np.ndarray]) -> tuple[Rows, bool]:
    """Up to `rows` labelled rows of a split, in random order, of those that have what is given, or else the most of it.

    Fewer rows are the first of more.

    Args:
      knows: `Sampler.knows`; other rows come after those that have as much of what is given, as no sample can be like them.

    Returns:
      The rows, and whether they can be compared with samples: they have all that is given, and the network knows their values.
    """
    rng = np.random.default_rng(seed)
    keys, kept = np.empty(0), []
    for batch in EvaluationSplit(data, split, settings.window_rows, settings.corrupt_records).batches():
        found = _rows_of(batch, data.schema)
        distances = 2 * _lacking(found, given, data.schema) + ~knows(found.table[:, :-1])
        keys, kept = np.concatenate([keys, distances + rng.random(len(found))]), Rows.join([*kept, found])
        smallest = np.argsort(keys)[:rows]
        keys, kept = keys[smallest], [kept.take(smallest)]
    nearest = np.floor(keys[0])
    return kept[0].take(np.flatnonzero(keys < nearest + 1)), bool(nearest == 0)


def _lacking(rows: Rows, given: Given, schema: Schema) -> np.ndarray:
    """How many of the given fields, lists and label each row has otherwise, int [rows]."""
    differs = (rows.table != given.row(schema))[:, given.mask(schema)].sum(axis=1)
    for field in schema.list_fields:
        if field.name in given.lists:
            lists, fixed = (_without_order(field, values) for values in (rows.lists[field.name], given.lists[field.name]))
            differs += (lists != fixed).any(axis=1)
    return differs


def _without_order(field: ListField, lists: np.ndarray) -> np.ndarray:
    """Lists [..., max_length] of which equal ones mean the same."""
    return np.sort(lists, axis=-1) if isinstance(field, MultivaluedField) else lists


def _rows_of(batch: Batch, schema: Schema) -> Rows:
    lists = {}
    for field in schema.list_fields:
        values = batch[field.name].numpy()
        lists[field.name] = np.pad(values, ((0, 0), (0, field.max_length - values.shape[1])), constant_values=NO_VALUE)
    return Rows(np.column_stack([batch["ids"].numpy(), batch["label"].numpy().astype(np.int32)]), lists)


def draw_samples(sampler: Sampler, schema: Schema, given: Given, lists_of: Rows, samples: int, seed: int) -> Rows:
    """Draws samples. Fewer are the first of more.

    Args:
      lists_of: real rows, at least one, whose lists the samples get in turn where none are given.
    """
    row, fixed = given.row(schema), given.mask(schema)
    ids = tf.constant(np.tile(row[:-1], (BATCH_ROWS, 1)))
    labels = tf.fill([BATCH_ROWS], float(row[-1]))
    fixed = tf.constant(np.tile(fixed, (BATCH_ROWS, 1)))
    batches = []
    with _progress("sample", samples) as advance:
        for number in range(-(-samples // BATCH_ROWS)):
            places = (np.arange(BATCH_ROWS) + number * BATCH_ROWS) % len(lists_of)
            lists = {name: np.tile(given.lists[name], (BATCH_ROWS, 1)) if name in given.lists else values[places]
                     for name, values in lists_of.lists.items()}
            features = {"ids": ids, **{name: tf.constant(values) for name, values in lists.items()}}
            drawn, clicks = sampler.draw(features, labels, fixed, tf.constant([seed, number]))
            batches.append(Rows(np.column_stack([drawn.numpy(), clicks.numpy().astype(np.int32)]), lists))
            advance(BATCH_ROWS)
    return Rows.join(batches).take(np.arange(samples))


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done, the rate and the time left: a bar on a terminal, a line now and then elsewhere.

    The first call of the function that it yields comes after a compilation, so the rate is that of the later ones.
    """
    start = shown = time.monotonic()
    done, first = 0, None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
    with Progress(*columns, console=Console(), transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=total, status="starting")

        def advance(rows: int) -> None:
            nonlocal done, first, shown
            done, now = min(done + rows, total), time.monotonic()
            if first is None:
                first = done, now
                bar.update(task, completed=done)
                return
            rate = (done - first[0]) / (now - first[1])
            status = f"{rate:,.0f} samples/s  left {(total - done) / rate:.0f} s"
            bar.update(task, completed=done, status=status)
            if bar.disable and now - shown > SECONDS_BETWEEN_LINES:
                shown = now
                print(f"{title}  {done:,}/{total:,}  {status}", flush=True)

        yield advance
    print(f"{title}: {total:,} drawn in {time.monotonic() - start:.1f} s", flush=True)
