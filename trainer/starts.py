"""What a stage starts from where it has not begun: random parameters, the pre-training, or an earlier model."""

from pathlib import Path
from typing import Protocol

from trainer.carry_over import EarlierModel, carry_over
from trainer.checkpoints import RANDOM, StageCheckpoints
from trainer.click_model import ClickModel, Stage
from trainer.config import Config
from trainer.data_folder import DataFolder
from trainer.distribute.distribution import Distribution
from trainer.refusals import require_one_process, require_pretraining
from trainer.transfer import transfer


class Start(Protocol):
    """Where parameters come from.

    Attributes:
      origin: identifies it; a run that is resumed must give the same. None where there is no such thing yet.
    """

    origin: str | None

    def begin(self, model: ClickModel) -> bool:
        """Sets the parameters of a new model. Returns whether they have learnt from masked features."""


def start_of(stage: Stage, config: Config, data: DataFolder, model_dir: Path, from_scratch: bool, init_from: str | Path | None,
             distribution: Distribution) -> Start:
    """What a call of a stage starts from: with `init_from` that model; else random parameters in pre-training and with `from_scratch`;
    else the pre-training in the model folder."""
    if init_from:
        return FromEarlierModel(EarlierModel(init_from, stage), config, data, distribution)
    if stage == "pretrain" or from_scratch:
        return FromRandom(stage)
    return FromPretraining(StageCheckpoints(model_dir, "pretrain"), config)


class FromRandom:
    """Leaves the parameters as they were drawn."""

    origin = RANDOM

    def __init__(self, stage: Stage):
        self._stage = stage

    def begin(self, model: ClickModel) -> bool:
        print(f"{self._stage}: starting from random parameters")
        return False


class FromPretraining:
    """Loads what `finetune.transfer` names of the best pre-trained checkpoint."""

    def __init__(self, pretrained: StageCheckpoints, config: Config):
        self._pretrained, self._config = pretrained, config
        self.origin = pretrained.fingerprint()

    def begin(self, model: ClickModel) -> bool:
        best = require_pretraining(self._pretrained, self._config)
        learnt, what = self._pretrained.config(best).pretrain, self._config.finetune.transfer
        transfer(model, best, what, learnt.objective)
        return learnt.masks_features and what == "all"


class FromEarlierModel:
    """Loads every parameter of the model of `--init_from`, its rows carried over by value."""

    def __init__(self, earlier: EarlierModel, config: Config, data: DataFolder, distribution: Distribution):
        self._earlier, self._config, self._data, self._distribution = earlier, config, data, distribution
        self.origin = earlier.origin

    def begin(self, model: ClickModel) -> bool:
        require_one_process(self._distribution.is_single, self._earlier.model_dir)
        carry_over(model, self._earlier, self._config, self._data)
        return self._earlier.masks_known
