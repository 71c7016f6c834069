"""What a checkpoint holds, how one is written and found, and the strict transfer from one stage to the next.

A stage's folder:

    config.yaml                                the configuration of the last call
    checkpoints/epoch-0003/                    after an epoch and its validation
    checkpoints/epoch-0003-step-00000420/      inside the next epoch, after 420 steps in all

A checkpoint holds model.* and optimizer.* (TensorFlow checkpoints), state.json, config.yaml, and checksums.json with
the size and SHA-256 of each. Where a stage averages its weights, model.* are the averages, which is what everybody
reads but the run itself when it continues: that one reads raw.*, the weights as the last step left them. A checkpoint
is written as `.NAME.partial` and renamed, so a folder with a final name was whole once; the checksums tell whether it
still is. The state of the last one names the best one, so that no second file can disagree with it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.files import flush, sha256, write_atomically
from preprocessing.schema import SCHEMA_FILE, Schema, load_schema
from trainer.click_model import ClickModel, Stage
from trainer.config import LEARNED_WEIGHTS, Config, load_config
from trainer.data_folder import DataFolder
from trainer.distribute.replicas import first_copy
from trainer.metrics import Calibration
from trainer.models import build_model
from trainer.optimizers import optimizer_checkpoint

CONFIG_FILE = "config.yaml"
STATE_FILE = "state.json"
CHECKSUM_FILE = "checksums.json"
MODEL = "model"
RAW = "raw"
OPTIMIZER = "optimizer"
RANDOM = "random parameters"
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
CLICK_RATE_OF_A_RESTORED_MODEL = 0.5
KEPT_AND_WRITTEN = 4  # the last two, the best, and the one that is being written
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


@dataclass
class TrainingState:
    """Everything beside the tensors that a run needs in order to continue as if it had never stopped.

    Attributes:
      origin: what the stage started from: `RANDOM`, or `StageCheckpoints.fingerprint` of the pre-training.
      data: checksum of the data folder.
      epoch: epochs finished, that is, trained and validated.
      step: steps finished.
      epoch_step: steps finished of the epoch under way.
      epoch_sums: sums of the loss parts over these steps.
      best: best value of the monitor so far, in the direction "larger is better".
      best_epoch: the epoch that reached it; 0 before the first.
      stale_epochs: epochs since then.
      history: one record an epoch; the same for two runs of one seed.
      seconds: wall-clock seconds by phase, which are not; of work that was lost to a kill nothing is known.
      changes: what `--allow_changes` let through: at which step, and the list of differences.
      masks_known: whether what it started from had learnt from masked features, in a pre-training or before `--init_from`.
      generator: the pre-training that regenerates rows, if any (`StageCheckpoints.fingerprint`).
    """

    origin: str
    data: str
    learning_rate: float
    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    epoch_sums: dict[str, float] = field(default_factory=dict)
    best: float = float("-inf")
    best_epoch: int = 0
    stale_epochs: int = 0
    history: list[dict] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    changes: list[dict] = field(default_factory=list)
    masks_known: bool = False
    generator: str | None = None

    @property
    def name(self) -> str:
        """Of the checkpoint that holds this state."""
        return _name(self.epoch) + (f"-step-{self.step:08d}" if self.epoch_step else "")


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _checksums(paths: Iterable[Path]) -> dict[str, str]:
    paths = list(paths)
    with ThreadPoolExecutor(2) as pool:  # one for model.*, one for optimizer.*, which are the large ones
        return dict(zip([path.name for path in paths], pool.map(sha256, paths), strict=True))


def seal(checkpoint: Path) -> None:
    """Makes the files of a finished checkpoint durable and writes their checksums, last."""
    files = sorted(checkpoint.iterdir())
    with ThreadPoolExecutor(1) as pool:
        durable = pool.submit(lambda: [flush(path) for path in files])  # while the checksums are computed
        checksums = _checksums(files)
        durable.result()
    content = {path.name: {"bytes": path.stat().st_size, "sha256": checksums[path.name]} for path in files}
    write_atomically(checkpoint / CHECKSUM_FILE, json.dumps(content, indent=2))
    flush(checkpoint)


def damage(checkpoint: Path, only: Callable[[str], bool] = lambda name: True) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file that `only` selects is as it was written."""
    try:
        stored = json.loads((checkpoint / CHECKSUM_FILE).read_text(encoding="utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in stored.items() if only(name)}
        for name, (size, _) in expected.items():
            if (found := (checkpoint / name).stat().st_size) != size:
                return f"{name} has {found:,} bytes and was written with {size:,}"
        actual = _checksums(checkpoint / name for name in expected)
    except OSError as error:
        return f"{Path(error.filename or CHECKSUM_FILE).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUM_FILE} is not readable"
    broken = [name for name, (_, checksum) in expected.items() if actual[name] != checksum]
    return f"{broken[0]} does not have the checksum it was written with" if broken else None


def _require_sound(checkpoint: Path) -> None:
    """Refuses a checkpoint whose model cannot be trusted. Its optimizer is of no interest to whom this serves."""
    problem = damage(checkpoint, only=lambda name: not name.startswith((OPTIMIZER, RAW)))
    if problem is None:
        return
    if checkpoint == max(_paths(checkpoint.parent), default=None, key=_place):
        mend = "call the training stage again: it goes on from the checkpoint before and ends with the same weights"
    else:
        mend = (f"restore it from a copy, or remove {checkpoint.parent.parent} and call the training stage again, which with the "
                "same settings ends with the same weights")
    raise UserError(f"checkpoint {checkpoint} is damaged: {problem}; {mend}")


def _place(path: Path) -> tuple[int, int]:
    epoch, step = _NAME.fullmatch(path.name).groups()
    return int(epoch), int(step or 0)


def _paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((path for path in folder.glob("epoch-*") if _NAME.fullmatch(path.name)), key=_place)


class StageCheckpoints:
    """The checkpoints of one stage of one model folder."""

    def __init__(self, model_dir: str | Path, stage: Stage):
        self.stage = stage
        self.stage_dir = Path(model_dir) / stage
        self.folder = self.stage_dir / "checkpoints"

    # Writing. Only the holder of the model folder's lock does it.

    def save(self, model: ClickModel, optimizer, state: TrainingState, config: Config) -> None:
        """Writes a checkpoint; keeps it, the one before it and the best one.

        Where writing fails, what was written of it is removed and the earlier ones stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove_leftovers()
        final = self.folder / state.name
        partial = self.folder / f".{final.name}.partial"
        try:
            partial.mkdir()
            copies = {name: first_copy(variable) for name, variable in model.named_variables().items()}
            weights = tf.train.Checkpoint(**copies)
            if model.average:
                weights.write(str(partial / RAW))
                with model.average.in_place():
                    weights.write(str(partial / MODEL))
            else:
                weights.write(str(partial / MODEL))
            _progress(model, optimizer).write(str(partial / OPTIMIZER))
            (partial / STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            (partial / CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")
            seal(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if final.exists():  # a damaged one that was skipped
            self._discard(final)
        partial.rename(final)
        flush(self.folder)
        self._keep_around(final, state.best_epoch)

    def remove_leftovers(self) -> None:
        """Removes what a killed run had not finished to write or to remove."""
        for path in self.folder.glob(".epoch-*"):
            shutil.rmtree(path)

    def _discard(self, path: Path) -> None:
        hidden = path.with_name(f".{path.name}.discarded")
        path.rename(hidden)  # so that no part of it is ever seen under the final name
        shutil.rmtree(hidden)

    def _keep_around(self, saved: Path, best_epoch: int) -> None:
        """Keeps the saved one, the one before it and the best; any after it are damaged ones that were skipped."""
        paths = _paths(self.folder)
        place = paths.index(saved)
        kept = {*paths[max(place - 1, 0):place + 1], self.folder / _name(best_epoch)}
        for path in paths:
            if path not in kept:
                self._discard(path)

    def used_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("epoch-*/*"))

    # Reading. Neither needs nor takes the lock.

    def last(self) -> Path | None:
        """The newest checkpoint whose state can be read, whether or not its tensors can."""
        return self._newest(lambda path: damage(path, only=lambda name: name == STATE_FILE), lambda line: None)

    def resume_point(self) -> Path | None:
        """The newest undamaged checkpoint. Prints a line for each newer one that is skipped."""
        return self._newest(damage, print)

    def _newest(self, problem_of: Callable[[Path], str | None], report: Callable[[str], None]) -> Path | None:
        problem = None
        for path in reversed(_paths(self.folder)):
            problem = problem_of(path)
            if problem is None:
                return path
            report(f"{self.stage}: skipping checkpoint {path}, which is damaged: {problem}")
        if problem:
            raise UserError(f"every checkpoint in {self.folder} is damaged (the oldest: {problem}): restore one from a copy, or "
                            f"remove {self.stage_dir} to train anew")
        return None

    def best(self) -> Path | None:
        """The checkpoint of the best epoch; None before the first epoch has finished."""
        last = self.last()
        return self.of_epoch(self.state(last).best_epoch) if last else None

    def of_epoch(self, epoch: int) -> Path | None:
        """The checkpoint after an epoch and its validation; None for epoch 0, which is none."""
        return self.folder / _name(epoch) if epoch else None

    def fingerprint(self) -> str | None:
        """Identifies the weights of the best checkpoint; the same for two runs of one seed. None before the first epoch."""
        best = self.best()
        if best is None:
            return None
        try:
            stored = json.loads((best / CHECKSUM_FILE).read_text(encoding="utf-8"))
            sums = [f"{name} {entry['sha256']}" for name, entry in sorted(stored.items()) if name.startswith("model.data")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            _require_sound(best)
            raise
        return f"{self.stage} {hashlib.sha256(' '.join(sums).encode()).hexdigest()[:16]}"

    def state(self, checkpoint: Path) -> TrainingState:
        content = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        before = content.pop("pretrained", content["origin"] != RANDOM)  # what earlier versions said instead
        return TrainingState(**{"masks_known": before, **content})

    def config(self, checkpoint: Path | None = None) -> Config:
        """The configuration that a checkpoint was trained with, by default the best one."""
        return load_config((checkpoint or self.best()) / CONFIG_FILE)

    def history(self) -> list[dict]:
        """One record an epoch of what has been trained so far; empty before the first checkpoint."""
        last = self.last()
        return self.state(last).history if last else []

    def seconds(self) -> float:
        """Wall-clock time that the training so far has taken."""
        last = self.last()
        return sum(self.state(last).seconds.values()) if last else 0.0


def _progress(model: ClickModel, optimizer) -> tf.train.Checkpoint:
    """What a run needs beside its weights: the optimizer's variables, and averages that are not among them."""
    averages = {"averages": tf.train.Checkpoint(**model.average.averages)} if model.average else {}
    return optimizer_checkpoint(optimizer, **averages)


def checkpoint_bytes(model: ClickModel, optimizer) -> int:
    """Size of a checkpoint, but for some kilobytes."""
    weights = list(model.named_variables().values())
    variables = [*weights, *(v for part in optimizer.optimizers for v in part.variables)]
    if model.average:
        variables += [*weights, *model.average.averages.values()]
    return sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)


def open_checkpoint(checkpoint: Path, shapes: dict[str, list[int]]) -> Callable[[str], np.ndarray]:
    """Opens a checkpoint of a model whose variables have these names and shapes, strictly: none more, none less.

    Returns:
      A function that reads the variable of a name.

    Raises:
      UserError: the checkpoint is damaged or of another model.
    """
    _require_sound(checkpoint)
    return _fitting_reader(checkpoint, shapes)


def _fitting_reader(checkpoint: Path, shapes: dict[str, list[int]], part: str = MODEL,
                    left_behind: str | None = None) -> Callable[[str], np.ndarray]:
    """See `open_checkpoint`; variables whose names begin with `left_behind` may be in the checkpoint alone."""
    try:
        reader = tf.train.load_checkpoint(str(checkpoint / part))
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(f"checkpoint {checkpoint} cannot be read: {' '.join(str(error).split())}: restore it from a copy, or remove "
                        f"{checkpoint.parent.parent} and call the training stage again") from error
    stored = {key.removesuffix(VALUE_SUFFIX): shape for key, shape in reader.get_variable_to_shape_map().items()
              if key.endswith(VALUE_SUFFIX) and not (left_behind and key.startswith(left_behind))}
    problems = [f"{name} is not in the checkpoint" for name in sorted(shapes.keys() - stored.keys())]
    problems += [f"{name} is not in the model" for name in sorted(stored.keys() - shapes.keys())]
    problems += [f"{name} has shape {stored[name]} in the checkpoint and {shape} in the model"
                 for name, shape in shapes.items() if name in stored and stored[name] != shape]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"checkpoint {checkpoint} does not fit the model, so nothing was loaded: {'; '.join(problems[:5])}{more}. Give the "
                        f"settings in {checkpoint / CONFIG_FILE}, and the data and version of the program that it was trained with, or "
                        "train anew in another --model_dir")
    return lambda name: reader.get_tensor(name + VALUE_SUFFIX)


def restore_model(model: ClickModel, checkpoint: Path, chosen: Callable[[str], bool] = lambda name: True,
                  left_behind: str | None = None) -> int:
    """Loads the variables of the model whose names are chosen, strictly: model and checkpoint must agree in all of them.

    Args:
      left_behind: beginning of the names of variables that the checkpoint may have more.

    Returns:
      The number of parameters loaded.

    Raises:
      UserError: the checkpoint is damaged or of another model: a variable is missing on either side, or of another shape.
    """
    _require_sound(checkpoint)
    variables = model.named_variables()
    _fitting_reader(checkpoint, _shapes(variables), left_behind=left_behind)
    loaded = {name: variable for name, variable in variables.items() if chosen(name)}
    tf.train.Checkpoint(**loaded).read(str(checkpoint / MODEL)).assert_existing_objects_matched().expect_partial()
    return _parameters(loaded)


def resume(model: ClickModel, optimizer, checkpoint: Path) -> None:
    """Loads model and optimizer from `StageCheckpoints.resume_point`, which has looked for damage already."""
    averaged = (checkpoint / f"{RAW}.index").exists()
    _read_model(model, checkpoint, RAW if averaged else MODEL)
    try:
        _progress(model, optimizer).read(str(checkpoint / OPTIMIZER)).assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise UserError(f"checkpoint {checkpoint} holds the state of another optimizer: give the configuration that it was trained "
                        "with, or another --model_dir") from error
    if averaged and not model.average:
        raise UserError(f"checkpoint {checkpoint} has averages of its weights, which this configuration would not carry on: give "
                        "the `averaging` that it was trained with, or another --model_dir")


def _read_model(model: ClickModel, checkpoint: Path, part: str = MODEL) -> int:
    variables = model.named_variables()
    _fitting_reader(checkpoint, _shapes(variables), part)
    tf.train.Checkpoint(**variables).read(str(checkpoint / part)).assert_consumed()
    return _parameters(variables)


def _shapes(variables: dict[str, tf.Variable]) -> dict[str, list[int]]:
    return {name: variable.shape.as_list() for name, variable in variables.items()}


def _parameters(variables: dict[str, tf.Variable]) -> int:
    return sum(variable.shape.num_elements() for variable in variables.values())


def differences(stored: Config, current: Config, stage: Stage) -> list[str]:
    """What the stage depends on and has changed, as `key: stored -> current`; a longer run is no difference."""
    found = []

    def compare(old, new, key: str) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for name in sorted(old.keys() | new.keys()):
                compare(old.get(name), new.get(name), f"{key}.{name}")
        elif old != new and key not in (f"{stage}.epochs", f"{stage}.patience"):
            found.append(f"{key}: {old} -> {new}")

    before, after = stored.settings_of(stage), current.settings_of(stage)
    for section in {**before, **after}:
        compare(before.get(section), after.get(section), section)
    return found


def network_differences(stored: Config, current: Config, stage: Stage) -> list[str]:
    """The differences that make another network: other variables, or something else computed from them."""
    found = [line for line in differences(stored, current, stage) if line.startswith("model.")]
    before, now = stored.diffusion.loss_weights, current.diffusion.loss_weights
    if (before in LEARNED_WEIGHTS) != (now in LEARNED_WEIGHTS) or stored.scales_queries != current.scales_queries:
        found.append(f"diffusion.loss_weights: {before} -> {now}")
    return found


def schema_differences(stored: Schema, current: Schema) -> list[str]:
    """What distinguishes two resolved schemas, field by field; empty where they are equal."""
    if stored == current:
        return []
    before, now = ({field.name: field for field in schema.fields} for schema in (stored, current))
    found = [f"field {name!r} is gone" for name in before if name not in now]
    found += [f"field {name!r} is new" for name in now if name not in before]
    for name in (name for name in before if name in now and before[name] != now[name]):
        rows = before[name].rows, now[name].rows
        found.append(f"field {name!r} has {rows[1]} rows instead of {rows[0]}" if rows[0] != rows[1] else f"field {name!r} is defined otherwise")
    return found or ["the order of the fields, the label, the group or the split"]


def load_pretrained(checkpoint: Path, config: Config, data: DataFolder) -> ClickModel:
    """The pre-trained model of a checkpoint with this configuration, as the stage left it."""
    model = build_model(data.schema, config, "pretrain", data.field_frequencies, data.click_rate)
    restore_model(model, checkpoint)
    return model


def load_trained(model_dir: str | Path) -> ClickModel:
    """The fine-tuned model of a model folder, at its best checkpoint.

    Raises:
      UserError: the folder has no fine-tuned checkpoint, or its best one is damaged.
    """
    model_dir = Path(model_dir)
    checkpoints = StageCheckpoints(model_dir, "finetune")
    best = checkpoints.best()
    if best is None:
        raise UserError(f"model folder {model_dir} has no fine-tuned checkpoint: run "
                        f"`python -m trainer.task --stage=finetune --model_dir {model_dir} --data_dir ...` first")
    _require_sound(best)
    schema = load_schema(model_dir / SCHEMA_FILE)
    model = build_model(schema, checkpoints.config(best), "finetune", click_rate=CLICK_RATE_OF_A_RESTORED_MODEL)
    _read_model(model, best)
    state = checkpoints.state(best)
    model.masks_known_at_start = state.masks_known
    if model.run_config.finetune.calibration == "platt":
        model.calibration = Calibration.of_metrics(state.history[-1]["valid"])
    return model
