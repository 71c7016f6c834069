"""The training program of one stage, top to bottom: data, model, what to start from, epochs, best checkpoint."""

import importlib.metadata
import json
import math
import platform
import time
from pathlib import Path

import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE
from trainer.checkpoints import (
    CONFIG_FILE,
    RANDOM,
    StageCheckpoints,
    TrainingState,
    differences,
    restore_model,
    restore_optimizer,
    write_atomically,
)
from trainer.config import Config, StageConfig
from trainer.input import DataFolder, TrainingSplit, fitting_batch_size
from trainer.model import DGenCTR, Stage
from trainer.optimizers import build_optimizer, cosine_learning_rate, set_learning_rate
from trainer.prediction import Predictor
from trainer.progress import StepProgress, print_table

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "tensorflow-transform", "apache-beam", "numpy")
ENVIRONMENT_FILE = "environment.json"
TENSORBOARD_EVERY = 10
SMALLER_IS_BETTER = ("loss", "logloss")


def train(stage: Stage, config: Config, data_dir: str | Path, model_dir: str | Path, from_scratch: bool = False) -> None:
    """Runs one stage to its end, continuing where an earlier call stopped.

    Args:
      stage: "pretrain" or "finetune".
      config: the resolved configuration.
      data_dir: a finished data folder.
      model_dir: where checkpoints, history and TensorBoard events go.
      from_scratch: fine-tune from random parameters, whether or not there is a pre-trained checkpoint.

    Raises:
      UserError: the model folder holds another run (configuration, data or start), there is nothing to start from, or the
        loss is no longer finite.
    """
    # Data and configuration.
    model_dir, data = Path(model_dir), DataFolder.open(data_dir)
    checkpoints, pretrained = StageCheckpoints(model_dir, stage), StageCheckpoints(model_dir, "pretrain")
    stage_config: StageConfig = getattr(config, stage)
    _refuse_foreign_folder(model_dir)
    _refuse_one_class(data, config)
    origin = RANDOM if stage == "pretrain" or from_scratch else pretrained.fingerprint()
    _refuse_other_run(checkpoints, config, data, origin)

    # Model and optimizer.
    tf.keras.utils.set_random_seed(config.seed)
    model = DGenCTR(data.schema, config, stage, data.frequencies, data.click_rate)
    model.optimizer = build_optimizer(model, stage_config.learning_rate, stage_config.table_decay)

    # What to start from, in this order:
    # 1. the stage's own last checkpoint: continue;
    # 2. pre-training, or fine-tuning with --from_scratch: random parameters;
    # 3. fine-tuning: every parameter of the best pre-trained checkpoint.
    if last := checkpoints.last():
        restore_model(model, last)
        restore_optimizer(model.optimizer, last)
        state = checkpoints.state(last)
        print(f"{stage}: continuing after epoch {state.epoch} from {last}")
    else:
        if origin == RANDOM:
            print(f"{stage}: starting from random parameters")
        else:
            _transfer(model, config, data, pretrained)
        state = TrainingState(origin, data.checksum, stage_config.learning_rate)

    # Epochs.
    if _finished(stage_config, state):
        print(f"{stage}: already finished after epoch {state.epoch}; nothing to do")
        return
    _write_run_files(checkpoints, config, data, model_dir)
    _Run(model, config, data, checkpoints, state).run()


def _finished(settings: StageConfig, state: TrainingState) -> bool:
    return state.epoch >= settings.epochs or state.stale_epochs >= settings.patience


def _refuse_foreign_folder(model_dir: Path) -> None:
    """Files of ours are written only into a folder that is new or ours."""
    if model_dir.exists() and not model_dir.is_dir():
        raise UserError(f"--model_dir {model_dir} is a file: give a folder")
    theirs = [name for name in (CONFIG_FILE, SCHEMA_FILE, MANIFEST_FILE) if (model_dir / name).exists()]
    if theirs and not (model_dir / ENVIRONMENT_FILE).exists():
        raise UserError(f"--model_dir {model_dir} is not a model folder but holds {', '.join(theirs)}, which training would "
                        "overwrite: give a new folder")


def _refuse_one_class(data: DataFolder, config: Config) -> None:
    valid = data.manifest["splits"]["valid"]
    if config.finetune.monitor == "auc" and valid["positives"] in (0, valid["rows"]):
        raise UserError(f"data folder {data.path}: the validation split has {valid['positives']} clicks in {valid['rows']} rows, "
                        "so its AUC is undefined: validate on more rows, or use --set finetune.monitor=logloss")


def _refuse_other_run(checkpoints: StageCheckpoints, config: Config, data: DataFolder, origin: str | None) -> None:
    """A stage's folder belongs to one configuration, one data folder and one start; anything else is named and refused."""
    last, stage_dir = checkpoints.last(), checkpoints.stage_dir
    if not last:
        return
    changed = differences(checkpoints.config(), config, checkpoints.stage)
    if changed:
        raise UserError(f"{stage_dir} holds a run of another configuration ({'; '.join(changed)}): "
                        "give the stored configuration, or another --model_dir")
    state = checkpoints.state(last)
    if state.data != data.checksum:
        raise UserError(f"{stage_dir} holds a run on other data than {data.path} (another schema, other training rows or "
                        "vocabularies): give the data folder it was trained on, or another --model_dir")
    if state.origin != origin:
        raise UserError(f"{stage_dir} holds a run that started from {state.origin}, and this call would start from "
                        f"{origin or 'a pre-training that is not there'}: use the same --from_scratch as before; or, to fine-tune "
                        f"anew (pre-training went on, say), remove {stage_dir} or give another --model_dir")


def _transfer(model: DGenCTR, config: Config, data: DataFolder, pretrained: StageCheckpoints) -> None:
    best = pretrained.best()
    if best is None:
        raise UserError(
            f"no pre-trained checkpoint in {pretrained.stage_dir}: run `python -m trainer.task --stage=pretrain` with the same "
            "--model_dir first, or train without pre-training by adding --from_scratch")
    if pretrained.config().model != config.model:
        changed = [line for line in differences(pretrained.config(), config, "pretrain") if line.startswith("model.")]
        raise UserError(f"the pre-trained checkpoint {best} has another network ({'; '.join(changed)}): "
                        "fine-tune with the configuration it was pre-trained with")
    if pretrained.state(best).data != data.checksum:
        raise UserError(f"the pre-trained checkpoint {best} belongs to other data than {data.path} (another schema, other "
                        "training rows or vocabularies): fine-tune on the data folder it was pre-trained on")
    parameters = restore_model(model, best)
    rows = [(part.name, str(len(part.weights)), f"{sum(int(tf.size(v)) for v in part.weights):,}") for part in model.parts]
    print_table(f"transferred all {parameters:,} parameters of {best}", rows, ("part", "variables", "parameters"))


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
    """The epochs of a stage. `state` is all that changes beside the variables."""

    def __init__(self, model: DGenCTR, config: Config, data: DataFolder, checkpoints: StageCheckpoints, state: TrainingState):
        self._model = model
        self._config = config
        self._data = data
        self._checkpoints = checkpoints
        self._state = state
        self._stage: Stage = checkpoints.stage
        self._stage_config: StageConfig = getattr(config, self._stage)
        batch_size = fitting_batch_size(data.rows("train"), self._stage_config.batch_size, self._stage_config.min_steps)
        self._split = TrainingSplit(data, batch_size, config.seed, config.input.window_rows,
                                    corrupt_records=config.input.corrupt_records)
        self._predictor = Predictor(model, data)
        self._train_step = tf.function(model.train_step, reduce_retracing=True)
        self._events = tf.summary.create_file_writer(str(checkpoints.stage_dir / "tensorboard"))

    def run(self) -> None:
        start = time.monotonic()
        if self._split.batch_size < self._stage_config.batch_size:
            print(f"{self._stage}: batches of {self._split.batch_size} rows instead of {self._stage_config.batch_size}, so that an "
                  f"epoch of {self._data.rows('train'):,} rows has {self._split.steps} steps")
        while not _finished(self._stage_config, self._state):
            self._epoch()
        self._close(time.monotonic() - start)

    def _epoch(self) -> None:
        state, start = self._state, time.monotonic()
        trained = self._train_epoch()
        training_seconds = time.monotonic() - start
        valid = self._predictor.validate()
        state.epoch += 1
        improved = self._judge(valid[self._stage_config.monitor])
        state.history.append({
            "epoch": state.epoch, "step": state.step, "learning_rate": state.learning_rate,
            "train": trained, "valid": valid,
            "training_seconds": training_seconds, "validation_seconds": time.monotonic() - start - training_seconds,
        })
        if not improved and self._stage_config.learning_rate_schedule == "plateau":
            state.learning_rate *= self._stage_config.learning_rate_factor
        self._checkpoints.save(self._model, self._model.optimizer, state)
        self._record(valid)
        self._print_epoch(improved)

    def _train_epoch(self) -> dict[str, float]:
        """One pass over the training split; returns the mean of every loss part and of the gradient norm."""
        state = self._state
        batches = self._split.iterate(self._split.epoch(state.epoch))
        title = f"{self._stage} epoch {state.epoch + 1}/{self._stage_config.epochs}"
        later_steps = self._split.steps * (self._stage_config.epochs - state.epoch - 1)
        progress = StepProgress(title, self._split.steps, later_steps, self._split.batch_size)
        sums: dict[str, float] = {}
        for batch in progress.track(batches):
            batch["seed"] = tf.constant([self._config.seed, state.step])
            self._set_learning_rate()
            parts = {name: float(value) for name, value in self._train_step(batch).items()}
            state.step += 1
            self._require_finite(parts)
            progress.loss = parts["loss"]
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            if state.step % TENSORBOARD_EVERY == 0:
                self._record_step(parts, progress)
        return {name: total / progress.done for name, total in sums.items()}

    def _set_learning_rate(self) -> None:
        settings, state = self._stage_config, self._state
        if settings.learning_rate_schedule == "cosine":
            steps = settings.epochs * self._split.steps
            state.learning_rate = cosine_learning_rate(settings.learning_rate, state.step / steps)
        set_learning_rate(self._model.optimizer, state.learning_rate)

    def _require_finite(self, parts: dict[str, float]) -> None:
        broken = [name for name, value in parts.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"{self._stage} step {self._state.step}: {', '.join(broken)} is not finite; the last good checkpoint is kept. "
                f"Lower {self._stage}.learning_rate (now {self._state.learning_rate:g}) or {self._stage}.gradient_norm "
                f"(now {self._stage_config.gradient_norm:g})")

    def _judge(self, value: float) -> bool:
        """Compares the monitor with the best so far and counts stale epochs. Returns whether it improved."""
        monitor, state = self._stage_config.monitor, self._state
        score = -value if monitor in SMALLER_IS_BETTER else value
        improved = score > state.best
        if improved:
            state.best, state.best_epoch, state.stale_epochs = score, state.epoch, 0
        else:
            state.stale_epochs += 1
        return improved

    def _record_step(self, parts: dict[str, float], progress: StepProgress) -> None:
        with self._events.as_default(step=self._state.step):
            for name, value in parts.items():
                tf.summary.scalar(f"train/{name}", value)
            tf.summary.scalar("train/learning_rate", self._state.learning_rate)
            if progress.done:
                tf.summary.scalar("train/samples_per_second", progress.samples_per_second)

    def _record(self, valid: dict) -> None:
        with self._events.as_default(step=self._state.step):
            for name, value in valid.items():
                if value is not None:
                    tf.summary.scalar(f"valid/{name}", value)
        self._events.flush()

    def _print_epoch(self, improved: bool) -> None:
        record = self._state.history[-1]
        rate = self._split.steps * self._split.batch_size / record["training_seconds"]
        shown = {name: record["valid"][name] for name in ("loss", "auc", "logloss") if record["valid"].get(name) is not None}
        values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        print(f"{self._stage} epoch {record['epoch']}/{self._stage_config.epochs}  {rate:,.0f} samples/s  "
              f"train loss {record['train']['loss']:.4f}  valid {values}{'  *' if improved else ''}", flush=True)

    def _close(self, seconds: float) -> None:
        state = self._state
        best = next(record["valid"] for record in state.history if record["epoch"] == state.best_epoch)
        rows = [("epochs, steps", f"{state.epoch}, {state.step}"),
                ("best epoch", f"{state.best_epoch} (by valid {self._stage_config.monitor})")]
        rows += [(f"valid {name}", f"{best[name]:.5f}") for name in ("loss", "auc", "logloss", "calibration_bias")
                 if best.get(name) is not None]
        rows.append(("checkpoint", str(self._checkpoints.best())))
        print_table(f"{self._stage} finished in {seconds:.0f} s", rows)
