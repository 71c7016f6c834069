"""The training program of one stage, top to bottom: data, what to start from, model and optimizer; its epochs are `trainer.epochs`."""

import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.files import write_atomically
from preprocessing.schema import SCHEMA_FILE
from trainer.averaging import WeightAverage
from trainer.checkpoints import (
    CONFIG_FILE,
    KEPT_AND_WRITTEN,
    StageCheckpoints,
    TrainingState,
    checkpoint_bytes,
    damage,
    load_pretrained,
    resume,
)
from trainer.click_model import ClickModel, Stage
from trainer.clicked import ClickedCombinations
from trainer.config import Config, FinetuneConfig, StageConfig, uses_labels
from trainer.data_folder import DataFolder
from trainer.disk import explain_when_full, require_space
from trainer.distribute.distribution import Distribution
from trainer.epochs import Epochs, finished, score_of
from trainer.interruption import Interrupted, Interruption, interruptible
from trainer.lock import exclusive
from trainer.memory import require_memory
from trainer.models import build_model
from trainer.optimizers import build_optimizer, lazy_optimizers
from trainer.refusals import (
    ENVIRONMENT_FILE,
    refuse_foreign_folder,
    refuse_idle_start,
    refuse_one_class,
    refuse_pretraining_a_baseline,
    refuse_unlabelled,
    require_one_data_folder,
    require_one_device,
    require_pretraining,
    require_same_run,
)
from trainer.regeneration import Regenerator
from trainer.runtime import require_determinism, resolved
from trainer.starts import Start, start_of
from trainer.vocabularies import keep_vocabularies

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "tensorflow-transform", "apache-beam", "numpy")


def train(stage: Stage, config: Config, data_dir: str | Path, model_dir: str | Path, from_scratch: bool = False,
          allow_changes: bool = False, began: float | None = None, init_from: str | Path | None = None,
          distribution: Distribution | None = None) -> None:
    """Runs one stage to its end, continuing where an earlier call stopped, however that one ended.

    SIGTERM and SIGINT save a checkpoint after the step under way and end the process with 128 + the signal's number.

    Args:
      stage: "pretrain" or "finetune".
      config: the resolved configuration.
      data_dir: a finished data folder.
      model_dir: where checkpoints, history and TensorBoard events go; locked against a second run.
      from_scratch: fine-tune from random parameters, whether or not there is a pre-trained checkpoint.
      allow_changes: continue a run of another configuration with this one. An epoch under way is begun anew.
      began: `time.monotonic()` when the start-up began; now, by default.
      init_from: model folder of an earlier model to start from (see `trainer.carry_over`).
      distribution: the devices and machines to train on; by default this process and its default device. In a cluster
        every process makes the same call, and only the chief writes.

    Raises:
      UserError: the model folder holds another run (configuration, data or start) or is in use, there is nothing to start
        from, every checkpoint is damaged, the disk is full, or the loss is no longer finite.
    """
    began = time.monotonic() if began is None else began
    distribution = distribution or Distribution()
    config = resolved(config)
    model_dir, data = Path(model_dir), open_data(data_dir, config)
    refuse_foreign_folder(model_dir)
    refuse_pretraining_a_baseline(stage, config, from_scratch, init_from)
    refuse_idle_start(stage, config, from_scratch, init_from)
    refuse_unlabelled(stage, data)
    refuse_one_class(data, config)
    try:
        with _written_by(distribution, model_dir), interruptible(distribution.stops_alone) as interruption, distribution.scope():
            require_one_data_folder(model_dir, data)
            start = start_of(stage, config, data, model_dir, from_scratch, init_from, distribution)
            _train(stage, config, data, model_dir, start, allow_changes, interruption, began, distribution)
    except Interrupted as stop:
        print(f"{stage}: stopped by {stop.name}; {stop.note}", flush=True)
        raise


def open_data(data_dir: str | Path, config: Config) -> DataFolder:
    """The data folder as far as the configuration lets a model see it."""
    return DataFolder.open(data_dir).with_label_share(config.input.label_share).without(config.model.ignored_fields)


@contextmanager
def _written_by(distribution: Distribution, model_dir: Path) -> Iterator[None]:
    """Creates and locks the model folder, where this process is the one that writes to it."""
    if not distribution.is_chief:
        yield
        return
    model_dir.mkdir(parents=True, exist_ok=True)
    with exclusive(model_dir):
        yield


def _train(stage: Stage, config: Config, data: DataFolder, model_dir: Path, start: Start, allow_changes: bool,
           interruption: Interruption, began: float, distribution: Distribution) -> None:
    _say_what_is_not_used(stage, data)

    # The run that the folder holds, if any.
    checkpoints, pretrained = StageCheckpoints(model_dir, stage), StageCheckpoints(model_dir, "pretrain")
    if distribution.is_chief:
        checkpoints.remove_leftovers()
    last = checkpoints.resume_point()
    generator = pretrained.fingerprint() if stage == "finetune" and config.finetune.regeneration.source == "generator" else None
    changed = require_same_run(checkpoints, last, config, start.origin, generator, allow_changes) if last else []
    if distribution.is_single:
        require_memory(stage, config, data.schema, data.rows_read(stage), resumed=last is not None)

    # Model, optimizer and state.
    model = _built(stage, config, data, distribution)
    state = _resumed(model, checkpoints, last, config, changed) if last else _begun(model, start, data)
    state.generator = generator
    if stage == "finetune" and config.finetune.regeneration.share:
        model.regenerator = _regenerator(config, data, pretrained)
    distribution.require_same_start(state.step, f"{config.to_yaml()} {data.checksum} {start.origin}")

    # Epochs.
    if distribution.is_chief:
        keep_vocabularies(data, model_dir)  # also of a finished run: an earlier version did not
    if finished(getattr(config, stage), state):
        print(f"{stage}: already finished after epoch {state.epoch}; nothing to do")
        return
    epochs = Epochs(model, config, data, checkpoints, state, interruption, began, distribution)
    if not distribution.is_chief:
        epochs.run()
        return
    size = checkpoint_bytes(model, model.optimizer)
    require_space(model_dir, KEPT_AND_WRITTEN * size - checkpoints.used_bytes(), f"the checkpoints of {stage}")
    with explain_when_full(model_dir, size, "Earlier checkpoints are intact: free some space and call the same command again, "
                           "which continues from the last one"):
        _write_run_files(checkpoints, config, data, model_dir)
        epochs.run()


def _built(stage: Stage, config: Config, data: DataFolder, distribution: Distribution) -> ClickModel:
    """The model at random parameters, with its optimizer and average."""
    require_determinism(config.runtime)
    tf.keras.utils.set_random_seed(config.seed)
    tf.keras.backend.reset_uids()  # TensorFlow orders some sums by layer names, which number what the process has built
    model, settings = build_model(data.schema, config, stage, data.field_frequencies, data.click_rate), getattr(config, stage)
    model.optimizer = _optimizer(model, settings)
    if settings.averaging:
        require_one_device(distribution.is_single, stage)
        model.average = WeightAverage(model, settings.averaging)
    return model


def _resumed(model: ClickModel, checkpoints: StageCheckpoints, last: Path, config: Config, changed: list[str]) -> TrainingState:
    """Continues after the stage's own last undamaged checkpoint."""
    resume(model, model.optimizer, last)
    state = checkpoints.state(last)
    print(f"{checkpoints.stage}: continuing after {_place(state)} from {last}")
    if changed:
        _change_course(checkpoints.stage, state, getattr(config, checkpoints.stage), changed)
    _warn_of_a_damaged_best(checkpoints, last, state)
    return state


def _begun(model: ClickModel, start: Start, data: DataFolder) -> TrainingState:
    masks_known = start.begin(model)
    if model.stage == "finetune" and model.run_config.finetune.decay_towards == "pretrained":
        for lazy in lazy_optimizers(model.optimizer):
            lazy.remember_start()
    return TrainingState(start.origin, data.checksum, getattr(model.run_config, model.stage).learning_rate, masks_known=masks_known)


def _regenerator(config: Config, data: DataFolder, pretrained: StageCheckpoints) -> Regenerator:
    settings = config.finetune.regeneration
    clicked = ClickedCombinations.of_training(data, config) if settings.unless_clicked else None
    if settings.source == "batch":
        return Regenerator(data.schema, settings, clicked=clicked)
    if pretrained.best() is None:
        raise UserError(f"finetune.regeneration.source: generator draws from the pre-training in {pretrained.stage_dir}, which has no "
                        "checkpoint: run `python -m trainer.task --stage=pretrain` with the same --model_dir first, or set it to batch")
    best = require_pretraining(pretrained, config)
    if not uses_labels(pretrained.config(best)):
        raise UserError(f"finetune.regeneration.source: generator draws features that fit the label, and the pre-training in {best} has "
                        "seen none: pre-train with `diffusion.label: token`, or set it to batch")
    generator = load_pretrained(best, pretrained.config(best), data)
    print(f"finetune: regenerating {', '.join(settings.fields)} by {best}")
    return Regenerator(data.schema, settings, generator, clicked)


def _say_what_is_not_used(stage: Stage, data: DataFolder) -> None:
    if data.unread_fields:
        print(f"{stage}: fields {', '.join(data.unread_fields)} are left unread: models read no fields with a vector a row yet")
    if unlabelled := data.unlabelled("train"):
        use = "are read with the label masked" if stage == "pretrain" else "are left out"
        unused = "" if data.label_share == 1 else f", or none that input.label_share={data.label_share:g} uses,"
        print(f"{stage}: {unlabelled:,} of {data.rows('train'):,} training rows have no label{unused} and {use}")


def _place(state: TrainingState) -> str:
    return f"epoch {state.epoch}" + (f" and {state.epoch_step} steps" if state.epoch_step else "")


def _change_course(stage: Stage, state: TrainingState, settings: StageConfig, changed: list[str]) -> None:
    """Continues with another configuration. An epoch under way is begun anew, as the order of its rows may be another.

    The best epoch so far keeps its place with its value of a new monitor. Where the losses of pre-training are of another task
    now, nothing compares with it, and the next epoch takes that place.
    """
    print(f"  with changes: {'; '.join(changed)}")
    state.changes.append({"step": state.step, "differences": changed})
    state.epoch_step, state.epoch_sums = 0, {}
    names = [line.split(":")[0] for line in changed]
    if {f"{stage}.learning_rate", f"{stage}.learning_rate_schedule"} & set(names):
        state.learning_rate = settings.learning_rate
    another_task = stage == "pretrain" and any(name.startswith(("diffusion.", "model.")) for name in names)
    if another_task or f"{stage}.monitor" in names:
        best = next((record["valid"] for record in state.history if record["epoch"] == state.best_epoch), {})
        value = None if another_task else best.get(settings.monitor)
        state.best, state.stale_epochs = -math.inf if value is None else score_of(settings.monitor, value), 0


def _warn_of_a_damaged_best(checkpoints: StageCheckpoints, last: Path, state: TrainingState) -> None:
    best = checkpoints.of_epoch(state.best_epoch)
    if best and best != last and (problem := damage(best)):
        print(f"{checkpoints.stage}: the best checkpoint {best} is damaged: {problem}; unless a later epoch is better, there will "
              f"be no model to evaluate: restore it from a copy, or remove {checkpoints.stage_dir} to train anew")


def _optimizer(model: ClickModel, settings: StageConfig) -> tf.keras.optimizers.legacy.Optimizer:
    of_the_table = {}
    if isinstance(settings, FinetuneConfig):
        of_the_table = {"table_learning_rate": settings.table_learning_rate,
                        "decay_towards_start": settings.decay_towards == "pretrained"}
    return build_optimizer(model, settings.learning_rate, settings.table_decay, averaging=settings.averaging, **of_the_table)


def _write_run_files(checkpoints: StageCheckpoints, config: Config, data: DataFolder, model_dir: Path) -> None:
    checkpoints.stage_dir.mkdir(parents=True, exist_ok=True)
    environment = {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "data_folder": str(data.path),
        "train_checksum": data.checksum,
        "data_rows": {split: content["rows"] for split, content in data.manifest["splits"].items()},
    }
    # First the file that marks the folder as ours.
    write_atomically(model_dir / ENVIRONMENT_FILE, json.dumps(environment, indent=2))
    write_atomically(checkpoints.stage_dir / CONFIG_FILE, config.to_yaml())
    write_atomically(model_dir / CONFIG_FILE, config.to_yaml())
    write_atomically(model_dir / SCHEMA_FILE, data.schema.to_yaml())
