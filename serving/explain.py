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

    Costs F + 1 passes through the network a row, but the features are parsed and transformed once. Row by row, each as a
    batch of F + 1, so that memory does not grow with B.
    """
    fields = len(model.schema.token_fields)
    masks = tf.concat([tf.zeros([1, fields], tf.bool), tf.eye(fields, dtype=tf.bool)], axis=0)  # (F+1, F)

    def logits_of_row(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
        copies = {name: tf.repeat(x[tf.newaxis], fields + 1, axis=0) for name, x in row.items()}
        return model.masked_click_logits(copies, masks)  # (F+1,)

    logits = tf.map_fn(logits_of_row, dict(features), fn_output_signature=tf.TensorSpec([fields + 1], tf.float32))  # (B, F+1)
    return logits[:, 0], logits[:, :1] - logits[:, 1:]
