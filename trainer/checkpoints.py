"""What a checkpoint holds, how one is written and found, and the strict transfer from one stage to the next.

A stage's folder:

    config.yaml                       the configuration that the checkpoints belong to
    checkpoints/epoch-0003/           model.* and optimizer.* (TensorFlow checkpoints), state.json

A checkpoint is written as `.epoch-0003.partial` and renamed, so a folder with a final name is whole. The state of the last
one names the best one, so that no second file can disagree with it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import SCHEMA_FILE, load_schema
from trainer.config import Config, load_config
from trainer.model import DGenCTR, Stage

CONFIG_FILE = "config.yaml"
STATE_FILE = "state.json"
RANDOM = "random parameters"
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
CLICK_RATE_OF_A_RESTORED_MODEL = 0.5


@dataclass
class TrainingState:
    """Everything beside the tensors that a run needs in order to continue.

    Attributes:
      origin: what the stage started from: `RANDOM`, or `StageCheckpoints.fingerprint` of the pre-training.
      data: checksum of the data folder.
      epoch: epochs finished.
      step: steps finished.
      best: best value of the monitor so far, in the direction "larger is better".
      best_epoch: the epoch that reached it.
      stale_epochs: epochs since then.
      history: one record an epoch.
    """

    origin: str
    data: str
    learning_rate: float
    epoch: int = 0
    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    stale_epochs: int = 0
    history: list[dict] = field(default_factory=list)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


class StageCheckpoints:
    """The checkpoints of one stage of one model folder."""

    def __init__(self, model_dir: str | Path, stage: Stage):
        self.stage = stage
        self.stage_dir = Path(model_dir) / stage
        self.folder = self.stage_dir / "checkpoints"

    def save(self, model: DGenCTR, optimizer, state: TrainingState) -> None:
        """Writes a checkpoint; keeps it, the best one, and removes the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        name = _name(state.epoch)
        partial = self.folder / f".{name}.partial"
        partial.mkdir()
        _variables_checkpoint(model).write(str(partial / "model"))
        tf.train.Checkpoint(optimizer=optimizer).write(str(partial / "optimizer"))
        (partial / STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        _sync_folder(partial)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        partial.rename(self.folder / name)
        self._keep({name, _name(state.best_epoch)})

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(".*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _keep(self, names: set[str]) -> None:
        for path in self.folder.glob("epoch-*"):
            if path.name not in names:
                shutil.rmtree(path)

    def last(self) -> Path | None:
        return max(self.folder.glob("epoch-*"), default=None)

    def best(self) -> Path | None:
        last = self.last()
        return self.folder / _name(self.state(last).best_epoch) if last else None

    def fingerprint(self) -> str | None:
        """Identifies the best checkpoint; changes when training goes on. None before the first checkpoint."""
        best = self.best()
        return f"{self.stage} {hashlib.sha256((best / STATE_FILE).read_bytes()).hexdigest()[:16]}" if best else None

    def state(self, checkpoint: Path) -> TrainingState:
        return TrainingState(**json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))

    def config(self) -> Config:
        return load_config(self.stage_dir / CONFIG_FILE)

    def history(self) -> list[dict]:
        """One record an epoch of what has been trained so far; empty before the first checkpoint."""
        last = self.last()
        return self.state(last).history if last else []


def open_checkpoint(checkpoint: Path, shapes: dict[str, list[int]]) -> Callable[[str], np.ndarray]:
    """Opens a checkpoint of a model whose variables have these names and shapes, strictly: none more, none less.

    Returns:
      A function that reads the variable of a name.
    """
    try:
        reader = tf.train.load_checkpoint(str(checkpoint / "model"))
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(f"checkpoint {checkpoint} cannot be read: {' '.join(str(error).split())}") from error
    stored = {key.removesuffix(VALUE_SUFFIX): shape for key, shape in reader.get_variable_to_shape_map().items()
              if key.endswith(VALUE_SUFFIX)}
    problems = [f"{name} is not in the checkpoint" for name in sorted(shapes.keys() - stored.keys())]
    problems += [f"{name} is not in the model" for name in sorted(stored.keys() - shapes.keys())]
    problems += [f"{name} has shape {stored[name]} in the checkpoint and {shape} in the model"
                 for name, shape in shapes.items() if name in stored and stored[name] != shape]
    if problems:
        raise UserError(f"checkpoint {checkpoint} does not fit the model, so nothing was loaded: {'; '.join(problems[:5])}"
                        + (f"; and {len(problems) - 5} more" if len(problems) > 5 else ""))
    return lambda name: reader.get_tensor(name + VALUE_SUFFIX)


def restore_model(model: DGenCTR, checkpoint: Path) -> int:
    """Loads every variable of the model, strictly: none may be missing on either side, shapes must agree.

    Returns:
      The number of parameters loaded.
    """
    variables = model.named_variables()
    open_checkpoint(checkpoint, {name: variable.shape.as_list() for name, variable in variables.items()})
    _variables_checkpoint(model).read(str(checkpoint / "model")).assert_consumed()
    return sum(int(tf.size(variable)) for variable in variables.values())


def _variables_checkpoint(model: DGenCTR) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**model.named_variables())


def restore_optimizer(optimizer, checkpoint: Path) -> None:
    tf.train.Checkpoint(optimizer=optimizer).read(str(checkpoint / "optimizer")).assert_existing_objects_matched()


def differences(stored: Config, current: Config, stage: Stage) -> list[str]:
    """What the stage depends on and has changed, as `key: stored -> current`; a longer run is no difference."""
    sections = ("seed", "model", "input", stage) + (("diffusion",) if stage == "pretrain" else ())
    found = []

    def compare(old, new, key: str) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for name in sorted(old.keys() | new.keys()):
                compare(old.get(name), new.get(name), f"{key}.{name}")
        elif old != new and key not in (f"{stage}.epochs", f"{stage}.patience"):
            found.append(f"{key}: {old} -> {new}")

    before, after = stored.model_dump(mode="json"), current.model_dump(mode="json")
    for section in sections:
        compare(before[section], after[section], section)
    return found


def load_trained(model_dir: str | Path) -> DGenCTR:
    """The fine-tuned model of a model folder, at its best checkpoint.

    Raises:
      UserError: the folder has no fine-tuned checkpoint.
    """
    model_dir = Path(model_dir)
    checkpoints = StageCheckpoints(model_dir, "finetune")
    best = checkpoints.best()
    if best is None:
        raise UserError(f"model folder {model_dir} has no fine-tuned checkpoint: run "
                        f"`python -m trainer.task --stage=finetune --model_dir {model_dir} --data_dir ...` first")
    schema = load_schema(model_dir / SCHEMA_FILE)
    model = DGenCTR(schema, checkpoints.config(), "finetune", click_rate=CLICK_RATE_OF_A_RESTORED_MODEL)
    restore_model(model, best)
    return model
