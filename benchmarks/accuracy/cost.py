"""What training costs, in passes over the training rows."""

from typing import TYPE_CHECKING, Literal

from trainer.config import Config, RegenerationConfig

if TYPE_CHECKING:
    from trainer.data_folder import DataFolder

FORWARD = 1 / 3  # of a training pass; the backward pass has two products where the forward pass has one


def passes_per_epoch(stage: Literal["pretrain", "finetune"], config: Config, data: "DataFolder") -> float:
    """Forward and backward passes of an epoch over as many rows as the training split has.

    Fine-tuning with a share of the labels reads fewer rows; an auxiliary diffusion loss is a pass of its own; a generator that
    draws rows anew goes forward over them.

    Args:
      data: the data folder as it is, with all its labels.
    """
    read = data.with_label_share(config.input.label_share).rows_read(stage)["train"] / data.rows("train")
    if stage == "pretrain":
        return read
    auxiliary = 1.0 if config.finetune.auxiliary_diffusion else 0.0
    return read * (1 + auxiliary + FORWARD * _generated_share(config.finetune.regeneration, data.click_rate))


def _generated_share(config: RegenerationConfig, click_rate: float) -> float:
    """Share of a batch that a generator draws anew."""
    if config.source != "generator":
        return 0.0
    return config.share * {"clicks": click_rate, "non_clicks": 1 - click_rate, "both": 1.0}[config.labels]
