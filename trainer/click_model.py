"""What every click model of this project is to the training loop: a loss by parts, one step, variables by name."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from preprocessing.schema import Schema
from trainer.batch import Batch
from trainer.config import Config
from trainer.distribute.replicas import average_over_replicas, own_name, replica_seed, shards
from trainer.layers import layer_seed
from trainer.loss_parts import FIELD
from trainer.metrics import Calibration
from trainer.norms import touched_values, update_norms
from trainer.optimizers import scaled_to_norm
from trainer.products import bfloat16_products

if TYPE_CHECKING:
    from trainer.averaging import WeightAverage
    from trainer.regeneration import Regenerator

Stage = Literal["pretrain", "finetune"]
Features = Mapping[str, tf.Tensor]
OBSERVED_EVERY = 10
REGENERATION_DRAWS = 4  # what a step's seed is folded with to regenerate rows


class ClickModel(tfrs.Model):
    """Features in, click logit out; fine-tuning minimises the weighted binary cross-entropy.

        L = sum_i w_i l_i / sum_i w_i,   l_i the binary cross-entropy of sigmoid(logit_i)

    Features are a mapping with "ids", local ids int [B, N] of `schema.id_fields`. A sub-class has a shared embedding layer
    `embedding`, whose variable `table` gets sparse gradients, and says what its other parts are.

    Args:
      schema: a resolved schema.
      config: the run's configuration.
      stage: which loss `loss_parts` and `train_step` use.

    Attributes:
      masks_known_at_start: whether fine-tuning started from what had learnt from masked features; only `load_trained` says so.
      average: the average of the weights that steps keep, if any.
      calibration: what turns raw logits into calibrated ones, if anything.
      regenerator: draws values of a batch anew before the click loss of a training step, if any.
    """

    def __init__(self, schema: Schema, config: Config, stage: Stage):
        super().__init__()
        self.schema = schema
        self.run_config = config
        self.stage = stage
        self.masks_known_at_start = False
        self.average: WeightAverage | None = None
        self.regenerator: Regenerator | None = None
        self.calibration: Calibration | None = None
        self.click_task = tfrs.tasks.Ranking(loss=tf.keras.losses.BinaryCrossentropy(
            from_logits=True, reduction=tf.keras.losses.Reduction.NONE))

    # What a sub-class says.

    @property
    @abstractmethod
    def parts(self) -> tuple[tf.keras.layers.Layer, ...]:
        """The layers that own the variables, the embedding layer among them, in a fixed order."""

    @abstractmethod
    def raw_click_logits(self, features: Features) -> tf.Tensor:
        """logit of p(click | features), float [B], before any calibration."""

    @abstractmethod
    def training_click_logits(self, batch: Batch) -> tf.Tensor:
        """Click logits [B] in a training step: with dropout, and the moments of the batch, drawn from batch["seed"]."""

    def pretraining_loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The loss of pre-training under "loss" and its parts, for models that have one."""
        raise NotImplementedError(f"{type(self).__name__} has no pre-training")

    @property
    def predicts_clicks(self) -> bool:
        """Whether the stage trains click prediction, so that its click metrics mean something."""
        return True

    @property
    def stage_variables(self) -> list[tf.Variable]:
        """What the stage trains, in a fixed order."""
        frozen = {id(variable) for variable in self.frozen_variables}
        return [variable for variable in self.trainable_variables if id(variable) not in frozen]

    @property
    def tables(self) -> dict[str, tf.Variable]:
        """The variables whose gradients are sparse, by a name that stays the same."""
        return {"table": self.embedding.table}

    # What follows.

    def click_logits(self, features: Features) -> tf.Tensor:
        """logit of p(click | features), float [B]: slope * raw logit + intercept, where the model is calibrated."""
        return self.calibrated(self.raw_click_logits(features))

    def calibrated(self, raw_logits: tf.Tensor) -> tf.Tensor:
        return raw_logits if self.calibration is None else self.calibration.slope * raw_logits + self.calibration.intercept

    @property
    def frozen_variables(self) -> list[tf.Variable]:
        """What fine-tuning leaves as it was loaded (`finetune.train`)."""
        frozen = self.stage == "finetune" and self.run_config.finetune.train == "no_table"
        return shards(self.embedding.table) if frozen else []

    def named_variables(self) -> dict[str, tf.Variable]:
        """Every variable under a name that is the same in both stages and in every process."""
        return {
            f"{part.name}:{number:02d}:{own_name(variable)}": variable
            for part in self.parts
            for number, variable in enumerate(getattr(part, "whole_variables", part.weights))
        }

    def call(self, features: Features) -> tf.Tensor:
        """Click probability, float [B]."""
        return tf.sigmoid(self.click_logits(features))

    def loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The stage's loss under "loss", and in pre-training each field's own under "field/NAME" and the label's under "label".

        Args:
          batch: the features; "label" float [B], in pre-training -1 where there is none; "weight" float [B] where the
            schema has one; and in training or pre-training "seed" int [2], from which the masks and dropout are drawn.
          training: whether dropout, feature masks and the batch's own moments are used.
        """
        with bfloat16_products(training and self.run_config.runtime.matmul == "bfloat16"):
            if self.stage == "pretrain":
                return self.pretraining_loss_parts(batch, training)
            return self.finetuning_loss_parts(batch, training)

    def finetuning_loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The loss of fine-tuning under "loss", and its parts where there are several."""
        return {"loss": self._click_loss(batch, training)}

    def _click_loss(self, batch: Batch, training: bool) -> tf.Tensor:
        if training and self.regenerator:
            batch = self.regenerator(batch, layer_seed(batch["seed"], REGENERATION_DRAWS))
        logits = self.training_click_logits(batch) if training else self.click_logits(batch)
        losses = self.click_task(labels=batch["label"][:, tf.newaxis], predictions=logits[:, tf.newaxis])  # (B,)
        if "weight" not in batch:
            return tf.reduce_mean(losses)
        total = tf.reduce_sum(batch["weight"])
        if training:
            total = average_over_replicas(total)  # so that the mean over replicas is the weighted mean of the whole batch
        return tf.math.divide_no_nan(tf.reduce_sum(batch["weight"] * losses), total)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.loss_parts(inputs, training)["loss"]

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One optimizer step. Returns the loss parts, the global norm of the gradient before clipping, and update norms.

        The norm takes the table's gradient as it comes, a slice for every cell of the batch: slices of one row are not summed, so
        that of a row which occurs often counts for less than its gradient.
        Update norms are computed in every `OBSERVED_EVERY`-th step and zero in others. A gradient that is not finite is
        replaced by zeros, so that what it came from can still be found (`explain_non_finite`).
        """
        variables = self.stage_variables
        with tf.GradientTape() as tape:
            parts = self.loss_parts({**batch, "seed": replica_seed(batch["seed"])}, training=True)
        gradients, parts = average_over_replicas((tape.gradient(parts["loss"], variables), parts))
        norm = tf.linalg.global_norm(gradients)
        gradients = scaled_to_norm(gradients, norm, getattr(self.run_config, self.stage).gradient_norm)
        observed = tf.equal((batch["seed"][1] + 1) % OBSERVED_EVERY, 0)
        before = touched_values(observed, gradients, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True), experimental_aggregate_gradients=False)
        if self.average:
            self.average.update()
        return {**parts, "gradient_norm": norm, **update_norms(observed, before, gradients, variables)}

    def explain_non_finite(self, batch: Batch) -> list[str]:
        """What is not finite in a step on this batch: loss parts, fields and variables. Empty where nothing is found."""
        with tf.GradientTape() as tape:
            parts = self.loss_parts(batch, training=True)
        variables = self.stage_variables
        found = [f"loss part {name.removeprefix(FIELD)}" for name, value in parts.items() if not np.isfinite(value)]
        for variable, gradient in zip(variables, tape.gradient(parts["loss"], variables), strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                found += [f"gradient of field {name}" for name in self._fields_of_non_finite_rows(gradient)]
            elif not np.all(np.isfinite(gradient)):
                found.append(f"gradient of {variable.name.removesuffix(':0')}")
        return found

    def _fields_of_non_finite_rows(self, gradient: tf.IndexedSlices) -> Sequence[str]:
        owners = self.schema.owners
        rows = tf.boolean_mask(gradient.indices, ~tf.reduce_all(tf.math.is_finite(gradient.values), axis=1)).numpy()
        places = np.searchsorted([owner.offset for owner in owners], rows, side="right") - 1
        return [owners[k].name for k in np.unique(places)]
