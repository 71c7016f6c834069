"""The loss of discrete-diffusion pre-training."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import SequenceField
from trainer.batch import UNLABELLED, Batch
from trainer.diffusion.corruption import corrupt
from trainer.diffusion.distributions import FieldDistributions
from trainer.diffusion.list_targets import ListTargets
from trainer.diffusion.weights import inverse_rate_weights
from trainer.layers import layer_seed
from trainer.loss_parts import FIELD, LABEL

if TYPE_CHECKING:
    from trainer.model import DGenCTR

Corruption = Callable[[tf.Tensor], tuple[dict[str, tf.Tensor], tf.Tensor]]
LIST_DRAWS = 2  # what a step's seed is folded with to draw values of lists


class DiffusionObjective:
    """L = mean over samples of  sum_{k masked} -log p(x_k | visible tokens),   M_k ~ Bernoulli(lambda(t)).

    A sample without label has its label masked and nothing to score there: its features alone count; with label "absent" that
    is every sample. A value that counts as unknown is masked and not scored either. With weights w of the samples, the label's
    part of the loss, sum over n samples of l_i, becomes n sum_i w_i l_i / sum_i w_i; the features' parts know no such weights.

    Training weights the losses of masked tokens as `diffusion.loss_weights` says. Validation adds them up plainly, so that epochs
    and runs can be compared; the parts are plain means always.

    Args:
      model: the network.
      frequencies: of each of `schema.token_fields` the training count of every value, int64 [rows].

    Source: arXiv 2508.14500.
    """

    def __init__(self, model: "DGenCTR", frequencies: Sequence[np.ndarray]):
        self._model = model
        self._config = model.run_config.diffusion
        if self._config.held_out != "item" and not any(isinstance(field, SequenceField) for field in model.schema.list_fields):
            raise UserError(f"`diffusion.held_out: {self._config.held_out}` has no effect, as the model reads no sequence of schema "
                            f"{model.schema.name!r}: leave it out")
        self._has_label = self._config.label == "token"
        self._names = [FIELD + field.name for field in model.schema.token_fields] + [LABEL] * self._has_label
        self.distributions = FieldDistributions(
            model.schema, model.run_config.model.scoring, model.field_scoring, model.embedding, frequencies)

    def loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The loss under "loss", the mean of each masked field under "field/NAME", that of the label, if a token, under "label"."""
        model = self._model
        labelled = tf.not_equal(batch["label"], UNLABELLED) & self._has_label  # (B,)
        labels = tf.where(labelled, batch["label"], 0.0)  # a label that is not there is masked, whatever it is
        mask_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 2))
        values, known, visible_of = self._values(batch, mask_seed)  # (B, F)
        scored, rates = corrupt(self._config, tf.concat([known, labelled[:, tf.newaxis]], axis=1), mask_seed)  # (B, F+1)
        features, mask = visible_of(scored[:, :-1])
        mask = tf.concat([mask, scored[:, -1:] | ~labelled[:, tf.newaxis]], axis=1)
        hidden = model.hidden(model.embedding(features, labels, mask), training, dropout_seed if training else None, rates)

        losses = self.distributions.losses(values, scored[:, :-1], model.field_scoring(hidden))  # [M_k] field by field
        if self._has_label:
            clicks = tf.nn.sigmoid_cross_entropy_with_logits(
                labels, model.label_scoring(hidden, model.embedding.label_embeddings))  # (B,)
            losses.append(_label_losses(tf.boolean_mask(clicks, scored[:, -1]), scored[:, -1], batch.get("weight")))
        sums = [tf.reduce_sum(of_token) for of_token in losses]
        counts = tf.unstack(tf.reduce_sum(tf.cast(scored, tf.float32), axis=0))[:len(sums)]
        total = self._weighted_sum(losses, sums, counts, scored, rates) if training else tf.add_n(sums)
        parts = {name: tf.math.divide_no_nan(*of_token) for name, *of_token in zip(self._names, sums, counts, strict=True)}
        return {"loss": total / tf.cast(tf.shape(scored)[0], tf.float32), **parts}

    def _values(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Corruption]:
        """What can be predicted of the features: of a list one of its values.

        Returns:
          Values int [B, F]; whether they can be predicted, bool [B, F]; and a function from those that are, bool [B, F], to the
          features that stay visible and the mask, bool [B, F], of the others.
        """
        embedding, fields = self._model.embedding, self._model.schema.list_fields
        ids, known = batch["ids"], embedding.known(batch)
        if not fields:
            return ids, known, lambda scored: (batch, scored)
        targets = ListTargets(fields, embedding.readable_lists(batch), self._config.held_out, layer_seed(seed, LIST_DRAWS))

        def visible_of(scored: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            lists, masked = targets.corrupted(scored[:, len(self._model.schema.id_fields):])
            return {"ids": ids, **lists}, tf.concat([scored[:, :-len(fields)], masked], axis=1)

        return tf.concat([ids, targets.values], axis=1), tf.concat([known, targets.scorable], axis=1), visible_of

    def _weighted_sum(self, losses: list[tf.Tensor], sums: list[tf.Tensor], counts: list[tf.Tensor], scored: tf.Tensor,
                      rates: tf.Tensor) -> tf.Tensor:
        """The losses [M_k] of each token, added up with the weights of `diffusion.loss_weights`, scalar."""
        if self._config.loss_weights == "equal":
            return tf.add_n(sums)
        if self._config.loss_weights == "inverse_rate":
            weights = inverse_rate_weights(self._config, rates, scored.shape[1])  # (B,)
            return tf.add_n([tf.reduce_sum(tf.boolean_mask(weights, scored[:, k]) * of_token) for k, of_token in enumerate(losses)])
        return self._model.loss_weights(tf.stack(sums), tf.stack(counts))


def _label_losses(losses: tf.Tensor, scored: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Losses [M] of the scored samples (bool [B]); with weights [B], each times its weight, divided by their mean."""
    if weights is None:
        return losses
    weights = tf.boolean_mask(weights, scored)  # (M,)
    return losses * tf.math.divide_no_nan(weights, tf.reduce_mean(weights))
