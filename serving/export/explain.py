"""How much each field contributes to the click logit: what the logit loses when the field is masked.

    c_k = logit(x_1, ..., x_F) - logit(x_1, ..., x_{k-1}, mask_k, x_{k+1}, ..., x_F)

mask_k is the model's own mask embedding: the model predicts as it learnt to where it does not know the field, which is
another thing than the field being missing (a value like others) or zero. So only a model has this that was trained with masks: a
DGenCTR that was pre-trained, or fine-tuned with masked features. A baseline has no masks, and its export no such signature.

The contributions of fields that say the same thing are small, as each makes up for the other; they do not add up to the logit.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import tensorflow as tf

from preprocessing.schema import Schema

PASSES_AT_A_TIME = 512


@runtime_checkable
class MaskableModel(Protocol):
    """What explaining needs of a trained model.

    Attributes:
      knows_masks: whether its mask embeddings were trained.
    """

    schema: Schema
    knows_masks: bool

    def masked_click_logits(self, features: Mapping[str, tf.Tensor], mask: tf.Tensor) -> tf.Tensor:
        """Click logits `[B]` of features with those masked where `mask`, bool `[B, F]` in the order of `token_fields`, is set."""


def can_explain(model: object) -> bool:
    """Whether masking a field of the model means something."""
    return isinstance(model, MaskableModel) and model.knows_masks


def contributions(model: MaskableModel, features: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits `[B]` and contributions `[B, F]` of `model.schema.token_fields`.

    Costs F + 1 passes through the network a row, but the features are parsed and transformed once. The passes of some rows at
    a time make one batch, so that memory does not grow with B.
    """
    fields, rows = len(model.schema.token_fields), tf.shape(features["ids"])[0]
    masks = tf.concat([tf.zeros([1, fields], tf.bool), tf.eye(fields, dtype=tf.bool)], axis=0)  # (F+1, F)
    at_a_time = tf.clip_by_value(rows, 1, max(1, PASSES_AT_A_TIME // (fields + 1)))
    times = tf.maximum(-(-rows // at_a_time), 1)  # once with no rows, too: a loop without turns cannot tell its shape
    places = tf.minimum(tf.range(times * at_a_time), rows)  # what the last time lacks is a blank row, behind all others

    def logits_of(some: Mapping[str, tf.Tensor]) -> tf.Tensor:
        copies = {name: tf.repeat(x, fields + 1, axis=0) for name, x in some.items()}
        return tf.reshape(model.masked_click_logits(copies, tf.tile(masks, [at_a_time, 1])), [at_a_time, fields + 1])

    read = {name: tf.gather(tf.pad(x, [[0, 1], [0, 0]]), places) for name, x in features.items()}
    by_time = {name: tf.reshape(x, [times, at_a_time, x.shape[1]]) for name, x in read.items()}
    logits = tf.map_fn(logits_of, by_time, fn_output_signature=tf.TensorSpec([None, fields + 1], tf.float32))
    logits = tf.reshape(logits, [-1, fields + 1])[:rows]  # (B, F+1)
    return logits[:, 0], logits[:, :1] - logits[:, 1:]
