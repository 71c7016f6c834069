"""Which value of a list pre-training predicts, and what of the list stays visible while it does."""

from typing import Literal

import tensorflow as tf

from preprocessing.schema import ListField, SequenceField
from trainer.batch import NO_VALUE


def draw_values(lists: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """One value a row, uniformly among those that there are: int [B]; -1 where there is none.

    Args:
      lists: int [B, L], -1 where there is no value.
      seed: int [2].
    """
    there = lists >= 0
    counts = tf.reduce_sum(tf.cast(there, tf.int32), axis=1)  # (B,)
    uniform = tf.random.stateless_uniform(tf.shape(counts), seed)
    place = tf.minimum(tf.cast(uniform * tf.cast(counts, tf.float32), tf.int32), counts - 1)
    drawn = there & (tf.cumsum(tf.cast(there, tf.int32), axis=1) - 1 == place[:, tf.newaxis])  # (B, L)
    return tf.reduce_max(tf.where(drawn, lists, NO_VALUE), axis=1)


class ListTargets:
    """The value of each list that is predicted where its token is scored, drawn uniformly from `seed`.

    A multi-valued field is masked as a whole. Of a sequence, with `held_out`

        item      only the drawn item is hidden, wherever it occurs: the token is made of the rest, and masked if nothing is left
        history   the sequence is masked as a whole
        none      the sequence is never masked nor scored

    Args:
      fields: of the lists.
      lists: by name, int [B, L], -1 where there is no value.
      held_out: `diffusion.held_out`.
      seed: int [2].

    Attributes:
      values: int [B, lists], -1 where there is none.
      scorable: bool [B, lists], whether there is something to predict.
    """

    def __init__(self, fields: tuple[ListField, ...], lists: dict[str, tf.Tensor], held_out: Literal["item", "history", "none"],
                 seed: tf.Tensor):
        self._fields = fields
        self._lists = lists
        self._held_out = held_out
        seeds = tf.unstack(tf.random.split(seed, len(fields)))
        self.values = tf.stack([draw_values(lists[field.name], seeds[k]) for k, field in enumerate(fields)], axis=1)
        never = tf.constant([isinstance(field, SequenceField) and held_out == "none" for field in fields])
        self.scorable = (self.values >= 0) & ~never

    def corrupted(self, scored: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """What is visible of the lists where tokens are scored (bool [B, lists]), and which tokens are masked, bool [B, lists]."""
        visible, masked = {}, []
        for k, field in enumerate(self._fields):
            lists, hidden = self._lists[field.name], scored[:, k]
            if isinstance(field, SequenceField) and self._held_out == "item":
                held_out = (lists == self.values[:, k, tf.newaxis]) & hidden[:, tf.newaxis]
                lists = tf.where(held_out, NO_VALUE, lists)
                hidden &= ~tf.reduce_any(lists >= 0, axis=1)
            visible[field.name] = lists
            masked.append(hidden)
        return visible, tf.stack(masked, axis=1)
