"""What a run's process does: what a user's commands do, in their order, and a row of figures.

Every step is left out where its result is on disk, so a run that was killed at any time continues: training from its last
checkpoint, by the trainer's own means. The test split is predicted once, last; its predictions are kept.
"""

import json
import os
import resource
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from benchmarks.accuracy.cost import passes_per_epoch
from benchmarks.accuracy.measures import figures_of, load_predictions, save_predictions
from benchmarks.accuracy.plan import CHECKSUM_DIGITS, Run, Settings
from benchmarks.accuracy.task import Task, commands
from preprocessing.environment import start_tensorflow
from preprocessing.files import write_atomically
from trainer.checkpoints import StageCheckpoints, load_trained
from trainer.click_model import Stage
from trainer.data_folder import DataFolder
from trainer.loop import train
from trainer.metrics import Predictions
from trainer.prediction import Predictor

COST_FILE = "cost.json"
NEVER_COPIED = shutil.ignore_patterns("tensorboard", ".*")


def execute(task: Task) -> None:
    """Trains, predicts, writes the row."""
    run = task.run
    start_tensorflow()
    if task.threads:
        tf.config.threading.set_intra_op_parallelism_threads(task.threads)
        tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    for command in commands(run, task.splits, task.sliced_by):
        print(f"$ {command}", flush=True)
    data, began = DataFolder.open(run.data_dir), time.monotonic()
    cost = {}
    if run.pretraining:
        folder = Path(run.pretraining.folder)
        cost["pretrain"] = _trained(folder, "pretrain", run.pretraining.settings, folder, data, began, task.commit)
        _take_pretraining(folder, run.model_dir)
        began = time.monotonic()
    cost["finetune"] = _trained(Path(run.folder), "finetune", run.settings, run.model_dir, data, began, task.commit,
                                from_scratch=run.pretraining is None)
    began = time.monotonic()
    predictions = _predictions(run, data, task.splits)
    row = {"configuration": run.configuration, "seed": run.seed, "data": data.checksum[:CHECKSUM_DIGITS], "commit": cost["finetune"]["commit"],
           "threads": task.threads, "passes": sum(stage["passes"] for stage in cost.values()),
           "seconds": round(sum(stage["seconds"] for stage in cost.values()) + time.monotonic() - began, 1),
           "peak_gb": _largest([stage["peak_gb"] for stage in cost.values()]),
           "stages": cost, "learning_curve": _learning_curve(run, cost)}
    read, known = data.without(run.settings.resolved().model.ignored_fields), run.row() or {}
    for split in task.splits:
        sliced_by = dict.fromkeys([*task.sliced_by, *known.get(split, {}).get("slices", {})])
        row[split] = figures_of(split, predictions, tuple(sliced_by), read)
    # What earlier calls asked for stays.
    row |= {split: known[split] for split in ("valid", "test") if split in known and split not in row}
    write_atomically(run.row_file, json.dumps(row))


def _trained(folder: Path, stage: Stage, settings: Settings, model_dir: Path, data: DataFolder, began: float, commit: str,
             from_scratch: bool = False) -> dict:
    """Trains a stage, or finds it trained. Returns what it took, which `folder` remembers: a later call knows it no more."""
    record = folder / COST_FILE
    if not record.is_file():
        cost = _stage(stage, settings, model_dir, data, began, from_scratch) | {"commit": commit}
        write_atomically(record, json.dumps(cost))
    return json.loads(record.read_text(encoding="utf-8"))


def _take_pretraining(folder: Path, model_dir: Path) -> None:
    """Puts a pre-training into a model folder, by hard links: checkpoints never change once they are written."""
    taken = model_dir / "pretrain"
    if taken.exists():
        return
    partial = model_dir / ".pretrain.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder / "pretrain", partial, copy_function=os.link, ignore=NEVER_COPIED)
    partial.rename(taken)


def _stage(stage: Stage, settings: Settings, model_dir: Path, data: DataFolder, began: float, from_scratch: bool) -> dict:
    """Trains a stage to its end. Returns what it took: epochs, passes over the training rows, seconds, and memory, which is None
    where an earlier process took the last step."""
    config, checkpoints = settings.resolved(), StageCheckpoints(model_dir, stage)
    last = checkpoints.last()
    steps_before = checkpoints.state(last).step if last else 0
    train(stage, config, data.path, model_dir, from_scratch=from_scratch, began=began)
    state = checkpoints.state(checkpoints.last())
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3) if state.step > steps_before else None
    return {"epochs": state.epoch, "best_epoch": state.best_epoch, "passes": round(state.epoch * passes_per_epoch(stage, config, data), 3),
            "seconds": round(sum(state.seconds.values()), 1), "phases": {name: round(value, 1) for name, value in state.seconds.items()},
            "peak_gb": peak}


def _largest(peaks: Sequence[float | None]) -> float | None:
    """None where one is not known."""
    return None if None in peaks else max(peaks)


def _learning_curve(run: Run, cost: dict) -> list[list[float]]:
    """Passes so far, pre-training included, valid AUC and logloss after each epoch of fine-tuning."""
    before = cost.get("pretrain", {"passes": 0})["passes"]
    per_epoch = cost["finetune"]["passes"] / cost["finetune"]["epochs"]
    return [[round(before + record["epoch"] * per_epoch, 3), record["valid"]["auc"], record["valid"]["logloss"]]
            for record in StageCheckpoints(run.model_dir, "finetune").history()]


def _predictions(run: Run, data: DataFolder, splits: Sequence[str]) -> dict[str, Predictions]:
    """The best checkpoint's predictions, which are made once for each split."""
    files = {split: run.predictions_file(split) for split in splits}
    missing = [split for split, path in files.items() if not path.is_file()]
    if missing:
        predictor = Predictor(load_trained(run.model_dir), data)
        for split in missing:
            save_predictions(predictor.predict(split, with_ids=True), files[split])
    return {split: load_predictions(path) for split, path in files.items()}
