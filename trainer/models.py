"""Models by name: what `model.kind` of the configuration stands for."""

from collections.abc import Sequence

import numpy as np

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.baselines.model import Baseline
from trainer.click_model import ClickModel, Stage
from trainer.config import Config
from trainer.model import DGenCTR


def build_model(schema: Schema, config: Config, stage: Stage = "finetune", frequencies: Sequence[np.ndarray] | None = None,
                click_rate: float = 0.5) -> ClickModel:
    """The model that the configuration names, for a stage; see `DGenCTR` for the arguments.

    Raises:
      UserError: a baseline is to be pre-trained, or does not fit the schema.
    """
    schema = schema.without(config.model.ignored_fields)
    if config.model.kind == "dgenctr":
        return DGenCTR(schema, config, stage, frequencies, click_rate)
    if stage == "pretrain":
        raise UserError(f"model.kind {config.model.kind} has no pre-training")
    return Baseline(schema, config, click_rate)
