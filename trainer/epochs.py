"""The epochs of a stage: steps, validation, early stopping, checkpoints, and what people see of them."""

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext

import tensorflow as tf

from preprocessing.errors import UserError
from trainer.checkpoints import StageCheckpoints, TrainingState
from trainer.click_model import OBSERVED_EVERY, ClickModel, Stage
from trainer.config import Config, StageConfig
from trainer.data_folder import DataFolder
from trainer.distribute.distribution import Distribution
from trainer.distribute.replicas import shards
from trainer.events import EventLog
from trainer.input import TrainingSplit, fitting_batch_size
from trainer.interruption import Interrupted, Interruption
from trainer.loss_parts import CLICK, FIELD, LABEL, LOSS
from trainer.metrics import NotFiniteError
from trainer.norms import UPDATE_NORM
from trainer.optimizers import cosine_learning_rate, set_learning_rate
from trainer.prediction import Predictor
from trainer.progress import StepProgress, describe_losses, print_table, timed

SMALLER_IS_BETTER = ("loss", "logloss")
CAUSES_SHOWN = 5


def finished(settings: StageConfig, state: TrainingState) -> bool:
    """Whether a stage has had all its epochs, or too many without improvement."""
    return state.epoch >= settings.epochs or state.stale_epochs >= settings.patience


def score_of(monitor: str, value: float) -> float:
    """The value of a monitor, negated where smaller ones are better."""
    return -value if monitor in SMALLER_IS_BETTER else value


class Epochs:
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
        """Takes the epochs that the state still lacks, and saves after each.

        Raises:
          Interrupted: a signal came; what was done is saved.
          UserError: a loss or the monitored metric is not finite, or cannot be computed.
        """
        if self._steps.rows < self._stage_config.batch_size:
            print(f"{self._stage}: batches of {self._steps.rows} rows instead of {self._stage_config.batch_size}, so that an "
                  f"epoch of {self._rows:,} rows has {self._steps.per_epoch} steps")
        seconds = self._state.seconds
        seconds["start-up"] = seconds.get("start-up", 0.0) + time.monotonic() - self._began
        if self._distribution.is_chief:
            self._events = EventLog(self._checkpoints.stage_dir / "tensorboard", first_step=self._first_step_not_recorded())
        try:
            while not finished(self._stage_config, self._state):
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
            per_epoch = self._steps.per_epoch  # earlier epochs may have had another number of steps (`trainer.loop`)
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
        score, state = score_of(self._stage_config.monitor, value), self._state
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
