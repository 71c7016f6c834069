"""What the doctor examines, and what a check can say beside "ok"."""

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SET_UP = "run `make setup`, which installs the tested versions"


class Concern(Exception):
    """Something that a run survives but its owner should know."""


class Inapplicable(Exception):
    """A check that makes no sense before another one passes, or without a flag."""


@dataclass(frozen=True)
class Patient:
    """What is examined: the flags of the call, and what the first checks have read.

    Attributes:
      data_dir, model_dir, init_from: None where the flag was not given.
      config_path, assignments: as for training.
      from_scratch: whether fine-tuning is meant to start from random parameters.
      allow_changes: whether a stage that has begun may go on with other settings.
      devices, slices, export_dir, keep, label: as for training, evaluation and export.
    """

    data_dir: Path | None = None
    model_dir: Path | None = None
    init_from: Path | None = None
    config_path: str | None = None
    assignments: tuple[str, ...] = ()
    from_scratch: bool = False
    allow_changes: bool = False
    devices: str | None = None
    slices: tuple[str, ...] = ()
    export_dir: Path | None = None
    keep: int | None = None
    label: str | None = None

    @property
    def needs_pretraining(self) -> bool:
        return not (self.from_scratch or self.init_from)

    @property
    def has_pretraining(self) -> bool:
        """Whether the model folder holds one that fine-tuning can start from."""
        from trainer.checkpoints import StageCheckpoints

        return self.model_dir is not None and StageCheckpoints(self.model_dir, "pretrain").best() is not None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of training that are to run."""
        return ("pretrain", "finetune") if self.needs_pretraining else ("finetune",)

    @cached_property
    def is_single(self) -> bool:
        """Whether one process on one device is to train."""
        from trainer.distribute.cluster import Cluster

        return self.devices is None and Cluster.from_environment() is None

    def command(self, stage: str) -> str:
        """What the user types to run a stage on these folders."""
        flags = [f"--data_dir={self.data_dir or 'DATA'}", f"--model_dir={self.model_dir or 'MODEL'}"]
        return shlex.join(["python", "-m", "trainer.task", f"--stage={stage}", *flags])

    @property
    def preprocessing(self) -> str:
        """The command that wrote the data folder, where its manifest is readable."""
        try:
            return json.loads((self.data_dir / "manifest.json").read_text(encoding="utf-8"))["command"] + " --overwrite"
        except (OSError, ValueError, KeyError, TypeError):
            return f"python -m preprocessing.task --input LOG --schema SCHEMA --output {self.data_dir}"

    @cached_property
    def config(self):
        """The resolved configuration (`trainer.config.Config`)."""
        from trainer.config import load_config

        return load_config(self.config_path, self.assignments)

    @cached_property
    def schema(self):
        """The data folder's resolved schema."""
        from preprocessing.schema import load_data_folder_schema

        return load_data_folder_schema(self.given(self.data_dir, "--data_dir"))

    @cached_property
    def read_schema(self):
        """The schema without `model.ignored_fields`."""
        return self.schema.without(self.config.model.ignored_fields)

    @cached_property
    def manifest(self) -> dict:
        from preprocessing.schema import read_manifest

        return read_manifest(self.given(self.data_dir, "--data_dir"))

    @cached_property
    def data(self):
        """The data folder as training sees it (`trainer.data_folder.DataFolder`)."""
        from trainer.loop import open_data

        return open_data(self.given(self.data_dir, "--data_dir"), self.config)

    @property
    def existing_model_dir(self) -> Path:
        model_dir = self.given(self.model_dir, "--model_dir")
        if not model_dir.is_dir():
            raise Inapplicable(f"{model_dir} is not there yet")
        return model_dir

    @property
    def base_path(self) -> Path:
        """The model base path that export would publish under."""
        from serving.versions.folders import default_base_path

        return self.export_dir or default_base_path(self.given(self.model_dir, "--model_dir"), self.schema.name)

    def given(self, path: Path | None, flag: str) -> Path:
        if path is None:
            raise Inapplicable(f"{flag} is not given")
        return path
