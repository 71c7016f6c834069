"""The loss of discrete-diffusion pre-training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from trainer.click_model import FIELD
from trainer.diffusion.corruption import corrupt
from trainer.diffusion.distributions import FieldDistributions
from trainer.input import UNLABELLED

if TYPE_CHECKING:
    from trainer.model import DGenCTR

LABEL = "label"


class DiffusionObjective:
    """L = mean over samples of  sum_{k masked} -log p(x_k | visible tokens),   M_k ~ Bernoulli(lambda(t)).

    A sample without label has its label masked and nothing to score there: its features alone count. With weights w, the
    label's part of the loss, sum over n samples of l_i, becomes n sum_i w_i l_i / sum_i w_i; the features' parts know no
    weights.

    Args:
      model: the network.
      frequencies: of each id field the training count of every value, int64 [rows].

    Source: arXiv 2508.14500.
    """

    def __init__(self, model: "DGenCTR", frequencies: Sequence[np.ndarray]):
        self._model = model
        self._config = model.run_config.diffusion
        self._fields = model.schema.id_fields
        self.distributions = FieldDistributions(
            model.schema, model.run_config.model.scoring, model.field_scoring, model.embedding, frequencies)

    def loss_parts(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        """The loss under "loss", the mean of each masked field under "field/NAME", that of the label under "label"."""
        model, ids = self._model, batch["ids"]
        labelled = tf.not_equal(batch["label"], UNLABELLED)  # (B,)
        labels = tf.where(labelled, batch["label"], 0.0)  # a label that is not there is masked, whatever it is
        mask_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 2))
        scored = corrupt(self._config, labelled, len(self._fields) + 1, mask_seed)  # (B, N+1)
        mask = tf.concat([scored[:, :-1], scored[:, -1:] | ~labelled[:, tf.newaxis]], axis=1)
        hidden = model.hidden(model.embedding(batch, labels, mask), training, dropout_seed if training else None)

        counts = tf.reduce_sum(tf.cast(scored, tf.float32), axis=0)  # (N+1,)
        losses = self.distributions.losses(ids, scored[:, :-1], model.field_scoring(hidden))
        sums = {FIELD + field.name: loss for field, loss in zip(self._fields, losses, strict=True)}
        clicks = tf.nn.sigmoid_cross_entropy_with_logits(
            labels, model.label_scoring(hidden, model.embedding.label_embeddings))  # (B,)
        sums[LABEL] = _label_loss(tf.where(scored[:, -1], clicks, 0.0), scored[:, -1], counts[-1], batch.get("weight"))
        parts = {name: tf.math.divide_no_nan(total, counts[k]) for k, (name, total) in enumerate(sums.items())}
        return {"loss": tf.add_n(list(sums.values())) / tf.cast(tf.shape(ids)[0], tf.float32), **parts}


def _label_loss(losses: tf.Tensor, scored: tf.Tensor, count: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Sum of the losses [B] of `count` scored samples; with weights, as many times their weighted mean."""
    if weights is None:
        return tf.reduce_sum(losses)
    total = tf.reduce_sum(tf.where(scored, weights, 0.0))
    return count * tf.math.divide_no_nan(tf.reduce_sum(weights * losses), total)
