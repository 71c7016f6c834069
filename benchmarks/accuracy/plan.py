"""Arms x seeds as runs. A run is told apart by what its result depends on, so arms and suites that agree share one."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy.suite import REPOSITORY, Arm, Suite
from preprocessing.errors import UserError
from trainer.config import Config, load_config

ROW_FILE = "row.json"
CHECKSUM_DIGITS = 12  # of the data folder's, in a row


@dataclass(frozen=True)
class Settings:
    """What a user gives to a training stage: --config and --set."""

    config: str
    assignments: tuple[str, ...]

    def resolved(self) -> Config:
        return load_config(REPOSITORY / self.config, self.assignments)

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--config", self.config, "--set", *self.assignments)


@dataclass(frozen=True)
class Pretraining:
    """A pre-training, and the folder that it has for itself."""

    settings: Settings
    folder: str


@dataclass(frozen=True)
class Run:
    """One training of an arm with one seed.

    Attributes:
      configuration: identifies settings of every stage, and data; without the seed.
      pretraining: None from scratch.
      folder: of model, predictions, log and row.
    """

    configuration: str
    seed: int
    settings: Settings
    pretraining: Pretraining | None
    data_dir: str
    folder: str

    @property
    def model_dir(self) -> Path:
        return Path(self.folder) / "model"

    @property
    def row_file(self) -> Path:
        return Path(self.folder) / ROW_FILE

    def predictions_file(self, split: str) -> Path:
        return Path(self.folder) / f"{split}.npz"

    def row(self) -> dict | None:
        """The figures of the run; None until it has finished."""
        return json.loads(self.row_file.read_text(encoding="utf-8")) if self.row_file.is_file() else None

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> "Run":
        pretraining = content["pretraining"]
        return cls(**{**content, "settings": Settings(**content["settings"]),
                      "pretraining": pretraining and Pretraining(Settings(**pretraining["settings"]), pretraining["folder"])})


@dataclass(frozen=True)
class Planned:
    """A run by the name that its suite has for it."""

    arm: str
    run: Run

    @property
    def title(self) -> str:
        return f"{self.arm}, seed {self.run.seed}"


def plan(suite: Suite, names: Sequence[str], seeds: Iterable[int], data_dir: Path, checksum: str, work_dir: Path) -> list[Planned]:
    """The runs of these arms, seed by seed, so that an interrupted suite has as many seeds of every arm as there was time for.

    Args:
      names: of `suite.run_names()`.
      checksum: of the data folder.
      work_dir: of the data set; runs of all its suites lie there side by side.

    Raises:
      UserError: the settings of an arm are refused.
    """
    arms = suite.all_arms()
    return [Planned(name, _run(suite, name, arms, seed, data_dir, checksum, work_dir)) for seed in seeds for name in names]


def _run(suite: Suite, name: str, arms: Mapping[str, Arm], seed: int, data_dir: Path, checksum: str, work_dir: Path) -> Run:
    arm = arms[name]
    settings, pretraining, identity = _settings(suite, arm, seed), None, {"data": checksum}
    try:
        identity["finetune"] = _without_seed(settings.resolved(), "finetune")
        if arm.is_pretrained:
            of_pretraining = _settings(suite, arms[arm.pretrained_by] if arm.pretrained_by else arm, seed)
            identity["pretrain"] = _without_seed(of_pretraining.resolved(), "pretrain")
            key = _digest({"data": checksum, "pretrain": identity["pretrain"]})
            pretraining = Pretraining(of_pretraining, str(work_dir / "pretrained" / key / f"seed-{seed}"))
    except UserError as error:
        raise UserError(f"suite {suite.title}: arms.{name}: {error}") from error
    configuration = _digest(identity)
    return Run(configuration, seed, settings, pretraining, str(data_dir), str(work_dir / "runs" / configuration / f"seed-{seed}"))


def _settings(suite: Suite, arm: Arm, seed: int) -> Settings:
    return Settings(arm.config or suite.config, (*suite.set, *arm.set, f"seed={seed}"))


def _without_seed(config: Config, stage: str) -> dict:
    return {key: value for key, value in config.settings_of(stage).items() if key != "seed"}


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
