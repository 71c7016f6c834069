"""The training program of one stage, top to bottom: data, model, what to start from, epochs, best checkpoint."""

import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from trainer.click_model import OBSERVED_EVERY, ClickModel, Stage
from trainer.clicked import ClickedCombinations
from trainer.config import Config, FinetuneConfig, StageConfig, uses_labels
from trainer.disk import explain_when_full, require_space
from trainer.distribute import Distribution, shards
from trainer.events import EventLog
from trainer.input import DataFolder, TrainingSplit, fitting_batch_size
from trainer.interruption import Interrupted, Interruption, interruptible
from trainer.lock import exclusive
from trainer.loss_parts import CLICK, FIELD, LABEL, LOSS
from trainer.memory import require_memory
from trainer.metrics import NotFiniteError
from trainer.models import build_model
from trainer.norms import UPDATE_NORM
from trainer.optimizers import build_optimizer, cosine_learning_rate, lazy_optimizers, set_learning_rate
from trainer.prediction import Predictor
from trainer.progress import StepProgress, describe_losses, print_table, timed
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
SMALLER_IS_BETTER = ("loss", "logloss")
CAUSES_SHOWN = 5


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
    if _finished(getattr(config, stage), state):
        print(f"{stage}: already finished after epoch {state.epoch}; nothing to do")
        return
    run = _Run(model, config, data, checkpoints, state, interruption, began, distribution)
    if not distribution.is_chief:
        run.run()
        return
    size = checkpoint_bytes(model, model.optimizer)
    require_space(model_dir, KEPT_AND_WRITTEN * size - checkpoints.used_bytes(), f"the checkpoints of {stage}")
    with explain_when_full(model_dir, size, "Earlier checkpoints are intact: free some space and call the same command again, "
                           "which continues from the last one"):
        _write_run_files(checkpoints, config, data, model_dir)
        run.run()


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
        state.best, state.stale_epochs = -math.inf if value is None else _score(settings.monitor, value), 0


def _score(monitor: str, value: float) -> float:
    """The value of a monitor in the direction "larger is better"."""
    return -value if monitor in SMALLER_IS_BETTER else value


def _warn_of_a_damaged_best(checkpoints: StageCheckpoints, last: Path, state: TrainingState) -> None:
    best = checkpoints.of_epoch(state.best_epoch)
    if best and best != last and (problem := damage(best)):
        print(f"{checkpoints.stage}: the best checkpoint {best} is damaged: {problem}; unless a later epoch is better, there will "
              f"be no model to evaluate: restore it from a copy, or remove {checkpoints.stage_dir} to train anew")


def _finished(settings: StageConfig, state: TrainingState) -> bool:
    return state.epoch >= settings.epochs or state.stale_epochs >= settings.patience


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


class _Run:
    """The epochs of a stage. `state` is all that changes beside the variables.

    In a cluster every process runs this. Those that are not the chief write nothing, and know of a validation what the
    chief tells them.
    """

    def __init__(self, model: ClickModel, config: Config, data: DataFolder, checkpoints: StageCheckpoints, state: TrainingState,
                 interruption: Interruption, began: float, distribution: Distribution):
        self._model = model
        self._config = config
        self._data = data
        self._checkpoints = checkpoints
        self._state = state
        self._interruption = interruption
        self._began = began
        self._distribution = distribution
        self._stage: Stage = checkpoints.stage
        self._stage_config: StageConfig = getattr(config, self._stage)
        self._rows = data.rows_read(self._stage)["train"]
        batch_size = fitting_batch_size(self._rows, self._stage_config.batch_size, self._stage_config.min_steps)
        self._steps = distribution.steps(model.train_step, self._open_split, batch_size)
        self._loss_names = (LOSS, CLICK, LABEL, *(FIELD + field.name for field in data.schema.token_fields))
        self._predictor = Predictor(model, data, distribution)
        self._started = False
        self._validation_seconds: float | None = None
        self._saved = state.name
        self._saved_at = time.monotonic()
        self._events: EventLog | None = None

    def _open_split(self, batch_size: int, worker: int, workers: int) -> TrainingSplit:
        settings = self._config.input
        return TrainingSplit(self._data, batch_size, self._config.seed, settings.window_rows, worker, workers, settings.corrupt_records,
                             labelled_only=self._stage == "finetune")

    def run(self) -> None:
        if self._steps.rows < self._stage_config.batch_size:
            print(f"{self._stage}: batches of {self._steps.rows} rows instead of {self._stage_config.batch_size}, so that an "
                  f"epoch of {self._rows:,} rows has {self._steps.per_epoch} steps")
        seconds = self._state.seconds
        seconds["start-up"] = seconds.get("start-up", 0.0) + time.monotonic() - self._began
        if self._distribution.is_chief:
            self._events = EventLog(self._checkpoints.stage_dir / "tensorboard", first_step=self._first_step_not_recorded())
        try:
            while not _finished(self._stage_config, self._state):
                self._epoch()
        except Interrupted as stop:
            stop.note = self._save_before_leaving()
            raise
        finally:
            if self._events:
                self._events.close()
        if self._distribution.is_chief:
            self._close()
        self._distribution.wait_for_all()  # the next stage starts from what the chief has written

    def _epoch(self) -> None:
        with self._interruption.held():
            progress = self._train_epoch()
        start = time.monotonic()
        with timed(self._state.seconds, "validation"):
            valid = self._validate()  # a signal ends it at once: it changes nothing and can be done again
        self._validation_seconds = time.monotonic() - start
        with self._interruption.held():
            improved = self._finish_epoch(valid)
            if self._distribution.is_chief:
                self._record_epoch(valid)
            self._save()
            if self._distribution.is_chief:
                self._print_epoch(improved, progress.samples_per_second)

    def _validate(self) -> dict[str, float | int | None]:
        """All metrics (of averaged weights, if there are) where this process is the chief; elsewhere the one that decisions hang on."""
        monitor = self._stage_config.monitor
        with self._model.average.in_place() if self._model.average else nullcontext():
            valid = self._chief_validation() if self._distribution.is_chief else {monitor: 0.0}
        return {**valid, monitor: self._distribution.chief_value(valid[monitor])}

    def _chief_validation(self) -> dict[str, float | int | None]:
        monitor = self._stage_config.monitor
        try:
            valid = self._predictor.validate()
        except NotFiniteError:
            return {monitor: math.nan}
        if valid[monitor] is None:
            raise UserError(f"{self._stage} epoch {self._state.epoch + 1}: valid {monitor} is undefined, as all validation rows with a weight "
                            f"above 0 have the same label: validate on other rows, or monitor logloss ({self._stage}.monitor)")
        return valid

    def _train_epoch(self) -> StepProgress:
        """Takes the steps that the epoch still lacks, or as many of them as a signal lets it."""
        state = self._state
        progress = StepProgress(
            f"{self._stage} epoch {state.epoch + 1}/{self._stage_config.epochs}", self._steps.per_epoch, self._steps.rows,
            state.seconds, done=state.epoch_step, later_epochs=self._stage_config.epochs - state.epoch - 1,
            validation_seconds=self._validation_seconds, compiles=not self._started)
        steps = self._steps.run(state.epoch, state.epoch_step, self._step_inputs, lambda: self._interruption.pending is not None)
        for scalars in progress.track(steps):
            progress.losses = self._finish_step(scalars, progress.samples_per_second)
            if time.monotonic() - self._saved_at > 60 * self._config.checkpoint_minutes:
                with progress.paused():
                    self._save()
        if self._steps.stopped:
            self._interruption.stop()
        self._started = True
        return progress

    def _step_inputs(self, epoch_step: int) -> dict[str, tf.Tensor]:
        """Readies the optimizer for a step of the epoch, and returns what the step needs beside its rows."""
        self._set_learning_rate(epoch_step)
        return {"seed": tf.constant([self._config.seed, self._state.step - self._state.epoch_step + epoch_step])}

    def _finish_step(self, parts: dict[str, float], samples_per_second: float) -> dict[str, float]:
        """Writes a step into the state. Returns its losses."""
        state = self._state
        state.step += 1
        state.epoch_step += 1
        self._require_finite(parts)
        for name, value in parts.items():
            if not name.startswith(UPDATE_NORM):
                state.epoch_sums[name] = state.epoch_sums.get(name, 0.0) + value
        if self._events and state.step % OBSERVED_EVERY == 0:
            self._record_step(parts, samples_per_second)
        return {name: parts[name] for name in self._loss_names if name in parts}

    def _finish_epoch(self, valid: dict[str, float | int | None]) -> bool:
        """Writes the epoch into the state. Returns whether the monitor improved."""
        state, settings = self._state, self._stage_config
        if not math.isfinite(valid[settings.monitor]):
            raise UserError(f"{self._stage} epoch {state.epoch + 1}: valid {settings.monitor} is {valid[settings.monitor]}; the last good "
                            f"checkpoint is kept. Lower {self._stage}.learning_rate (now {state.learning_rate:g}), with --allow_changes "
                            "to continue from that checkpoint")
        trained = {name: total / state.epoch_step for name, total in state.epoch_sums.items()}
        state.epoch += 1
        state.epoch_step, state.epoch_sums = 0, {}
        improved = self._judge(valid[settings.monitor])
        state.history.append({"epoch": state.epoch, "step": state.step, "learning_rate": state.learning_rate,
                              "train": trained, "valid": valid})
        if not improved and settings.learning_rate_schedule == "plateau":
            state.learning_rate *= settings.learning_rate_factor
        return improved

    def _set_learning_rate(self, epoch_step: int) -> None:
        settings, state = self._stage_config, self._state
        if settings.learning_rate_schedule == "cosine":
            per_epoch = self._steps.per_epoch  # earlier epochs may have had another number of steps (`_change_course`)
            done = (state.epoch * per_epoch + epoch_step) / (settings.epochs * per_epoch)
            state.learning_rate = cosine_learning_rate(settings.learning_rate, done)
        set_learning_rate(self._model.optimizer, state.learning_rate)

    def _require_finite(self, parts: dict[str, float]) -> None:
        broken = [name for name, value in parts.items() if not math.isfinite(value)]
        if not broken:
            return
        causes = self._model.explain_non_finite(self._steps.batch) if self._steps.batch else []
        shown = "; ".join(causes[:CAUSES_SHOWN]) + (f"; and {len(causes) - CAUSES_SHOWN} more" if len(causes) > CAUSES_SHOWN else "")
        raise UserError(
            f"{self._stage} step {self._state.step}: {', '.join(broken)} is not finite{f' ({shown})' if causes else ''}; the last good "
            f"checkpoint is kept. Lower {self._stage}.learning_rate (now {self._state.learning_rate:g}) or {self._stage}.gradient_norm "
            f"(now {self._stage_config.gradient_norm:g}), with --allow_changes to continue from that checkpoint")

    def _judge(self, value: float) -> bool:
        """Compares the monitor with the best so far and counts stale epochs. Returns whether it improved."""
        score, state = _score(self._stage_config.monitor, value), self._state
        improved = score > state.best
        if improved:
            state.best, state.best_epoch, state.stale_epochs = score, state.epoch, 0
        else:
            state.stale_epochs += 1
        return improved

    def _save(self) -> None:
        if self._events:
            self._events.flush()
        if self._distribution.is_chief:
            with timed(self._state.seconds, "checkpoints"):
                self._checkpoints.save(self._model, self._model.optimizer, self._state, self._config)
        self._saved = self._state.name
        self._saved_at = time.monotonic()

    def _save_before_leaving(self) -> str:
        """Saves what is not saved yet. Returns what to tell the user."""
        if self._model.average:
            self._model.average.give_back()  # the signal may have come while averages took the place of the weights
        if self._state.name != self._saved:
            self._save()
        if not self._state.step:
            return "no step was finished, so nothing is saved"
        return f"saved as {self._checkpoints.folder / self._saved}, where the same command continues"

    def _first_step_not_recorded(self) -> int:
        """For TensorBoard. A validation that is still to come may have been recorded, at its epoch's last step, by a killed run."""
        return self._state.step + (self._state.epoch_step < self._steps.per_epoch)

    def _record_step(self, parts: Mapping[str, float], samples_per_second: float) -> None:
        values = {**parts, "learning_rate": self._state.learning_rate}
        if samples_per_second:
            values["samples_per_second"] = samples_per_second
        self._events.scalars(self._state.step, {f"train/{name}": value for name, value in values.items()})

    def _record_epoch(self, valid: Mapping[str, float | int | None]) -> None:
        values = {f"valid/{name}": value for name, value in valid.items() if value is not None}
        table = shards(self._model.embedding.table)
        dense = [variable for variable in self._model.stage_variables if not any(variable is shard for shard in table)]
        if self._distribution.is_single:
            tf.raw_ops.DisableCopyOnRead(resource=table[0].handle)  # else its norm would take a copy of the whole table
        values["norm/table"] = float(tf.linalg.global_norm(table))
        values["norm/dense"] = float(tf.linalg.global_norm(dense))
        self._events.scalars(self._state.step, values)

    def _print_epoch(self, improved: bool, samples_per_second: float) -> None:
        record = self._state.history[-1]
        losses = {name: record["train"][name] for name in self._loss_names if name in record["train"]}
        shown = {name: record["valid"][name] for name in ("loss", "auc", "logloss") if record["valid"].get(name) is not None}
        values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        print(f"{self._stage} epoch {record['epoch']}/{self._stage_config.epochs}  {samples_per_second:,.0f} samples/s  "
              f"train {describe_losses(losses)}  valid {values}{'  *' if improved else ''}", flush=True)

    def _close(self) -> None:
        state = self._state
        best = next(record["valid"] for record in state.history if record["epoch"] == state.best_epoch)
        rows = [("epochs, steps", f"{state.epoch}, {state.step}"),
                ("best epoch", f"{state.best_epoch} (by valid {self._stage_config.monitor})")]
        rows += [(f"valid {name}", f"{best[name]:.5f}") for name in ("loss", "auc", "logloss", "calibration_bias")
                 if best.get(name) is not None]
        rows += [(f"seconds of {phase}", f"{seconds:.1f}") for phase, seconds in state.seconds.items()]
        rows.append(("checkpoint", str(self._checkpoints.best())))
        print_table(f"{self._stage} finished in {sum(state.seconds.values()):.0f} s", rows)
