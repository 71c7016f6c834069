"""The reverse process: whole samples drawn from the model, token by token, from masks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from trainer.config import DiffusionConfig
from trainer.diffusion.distributions import FieldDistributions
from trainer.diffusion.schedule import masking_rate
from trainer.diffusion.time import masked_share

if TYPE_CHECKING:
    from trainer.model import DGenCTR

# Drawing takes no gradients, so it can afford to score more of a large field than a training step.
FULL_ROWS = 16_384
CANDIDATES = 4096
NEVER = -1


class Sampler:
    """Draws the tokens of samples that are not given, each from p(x_k | visible tokens), until none is masked.

    Every token is hidden by a time of its own, lambda^-1(u_k) with u_k ~ U(0, 1), as in the forward process; going back in
    time, the tokens whose times have passed are drawn and from then on visible:

        one at a time (`steps` None)   step s draws the token with the s-th largest u_k: a random order for each sample
        `steps` = S                    step s draws all tokens with lambda((S - s) / S) <= u_k < lambda((S - s + 1) / S),
                                       s = 1..S, independently of each other

    For a perfect denoiser the first is exact (ancestral sampling from p(X) or p(X | given)), and so is the second as S
    grows. The label is a token like the others, drawn from sigmoid(logit_y); with `diffusion.label: absent` the model knows
    none: it stays masked. Lists are always given. Fields are drawn by `FieldDistributions.draw`: of fields up to 16,384 rows
    among all values that training rows have, of larger ones (with `scoring.candidates: batch`, of all) among 4,096 values drawn
    by training frequency. Values that the network reads as masked (`model.unknown: mask`) are not among them. A network with time
    input is told the share of tokens that are masked. One that was pre-trained at a fixed rate has seen few samples masked as a
    whole, so its samples start badly.

    Args:
      model: the pre-trained network.
      frequencies: of each of `schema.token_fields` the training count of every value, int64 [rows].
      steps: see above; at least 1.

    Raises:
      UserError: `steps` with the schedule "fixed", which hides no sample as a whole; or a field without a value that can be drawn.

    Source: arXiv 2406.03736 (absorbing diffusion is any-order generation); times drawn ahead of values are equal in law to
    the step-wise reverse posterior, as the times of an absorbing process do not depend on the values.
    """

    def __init__(self, model: "DGenCTR", frequencies: Sequence[np.ndarray], steps: int | None = None):
        if steps is not None and steps < 1:
            raise UserError(f"steps: expected at least 1, received {steps}; leave it out to draw one token at a time")
        if steps is not None and model.run_config.diffusion.schedule == "fixed":
            raise UserError("steps: the model was pre-trained with `diffusion.schedule: fixed`, which has no way from a sample that is "
                            "masked as a whole to a visible one: leave steps out to draw one token at a time")
        self._model = model
        self._steps = steps
        self._has_label = model.run_config.diffusion.label == "token"
        scoring = model.run_config.model.scoring
        self._scoring = scoring.model_copy(update={
            "full_softmax_rows": max(scoring.full_softmax_rows, FULL_ROWS),
            "sampled_candidates": max(scoring.sampled_candidates, CANDIDATES)})
        drawable = _drawable_counts(model, frequencies)
        self._distributions = FieldDistributions(model.schema, self._scoring, model.field_scoring, model.embedding,
                                                 [*drawable, *frequencies[len(drawable):]])
        self._counts_below = [tf.constant(np.cumsum(counts)) for counts in drawable]
        self._draw = tf.function(self._reverse, reduce_retracing=True)

    def draw(self, features: Mapping[str, tf.Tensor], labels: tf.Tensor, given: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Completes samples.

        Args:
          features: "ids" int32 [B, N], and lists where the model reads them, which are always given.
          labels: float [B], 0 or 1.
          given: bool [B, N+1], True where the field's value, or last the label, is kept; what stands elsewhere is not read. A label
            that the model does not know is kept in any case.
          seed: int [2]; equal seeds give equal samples.

        Returns:
          ids int32 [B, N] and labels float [B].
        """
        return self._draw(dict(features), labels, given, seed)

    def knows(self, ids: np.ndarray) -> np.ndarray:
        """Whether the network reads all of a row's values, bool [rows]; with `model.unknown: mask` it reads some as masked.

        Args:
          ids: int32 [rows, N].
        """
        return self._known(ids).all(axis=1)

    def unread(self, ids: Mapping[str, int]) -> list[str]:
        """Names of the fields, of these with these values, that the network reads as masked."""
        fields = self._model.schema.id_fields
        known = self._known(np.array([[ids.get(field.name, 0) for field in fields]], np.int32))[0]
        return [field.name for field, is_known in zip(fields, known, strict=True) if field.name in ids and not is_known]

    def _known(self, ids: np.ndarray) -> np.ndarray:
        return self._model.embedding.known({"ids": tf.constant(ids)}).numpy()

    def _reverse(self, features: dict[str, tf.Tensor], labels: tf.Tensor, given: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        time_seed, value_seed = tf.unstack(tf.random.split(seed, 2))
        if not self._has_label:
            given = tf.concat([given[:, :-1], tf.ones_like(given[:, -1:])], axis=1)
        turns = unmasking_turns(self._model.run_config.diffusion, given, self._steps, time_seed)  # (B, N+1)
        ids = tf.where(turns[:, :-1] == NEVER, features["ids"], 0)
        labels = tf.where(turns[:, -1] == NEVER, labels, 0.0)
        for turn in tf.range(tf.reduce_max(turns) + 1):
            turn_seed = tf.random.experimental.stateless_fold_in(value_seed, turn)
            ids, labels = self._unmask({**features, "ids": ids}, labels, turns >= turn, turns == turn, turn_seed)
        return ids, labels

    def _unmask(self, features: dict[str, tf.Tensor], labels: tf.Tensor, mask: tf.Tensor, chosen: tf.Tensor,
                seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the `chosen` tokens, bool [B, N+1], of samples that are masked where `mask` says."""
        model = self._model
        of_lists = tf.zeros([tf.shape(mask)[0], len(model.schema.list_fields)], tf.bool)
        of_label = mask[:, -1:] if self._has_label else tf.ones_like(mask[:, -1:])
        mask = tf.concat([mask[:, :-1], of_lists, of_label], axis=1)  # (B, F+1)
        hidden = model.hidden(model.embedding(features, labels, mask), rates=masked_share(mask))
        queries = model.field_scoring(hidden)  # (F, B, d)
        columns = tf.unstack(features["ids"], axis=1)
        *seeds, label_seed = tf.unstack(tf.random.split(seed, len(columns) + 1))
        ids = tf.stack([self._drawn(k, column, queries[k], chosen[:, k], seeds[k]) for k, column in enumerate(columns)], axis=1)
        clicks = tf.sigmoid(model.label_scoring(hidden, model.embedding.label_embeddings))  # (B,)
        drawn = tf.cast(tf.random.stateless_uniform(tf.shape(clicks), label_seed) < clicks, tf.float32)
        return ids, tf.where(chosen[:, -1], drawn, labels)

    def _drawn(self, k: int, values: tf.Tensor, queries: tf.Tensor, chosen: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Values [B] of field k, redrawn in the chosen rows."""
        candidate_seed, value_seed = tf.unstack(tf.random.split(seed, 2))
        places = tf.where(chosen)  # (M, 1)
        is_full = self._scoring.is_full(self._model.schema.id_fields[k].rows)
        candidates = values if is_full else self._training_values(k, candidate_seed, values.dtype)
        drawn = self._distributions.draw(k, tf.gather_nd(queries, places), candidates, value_seed)
        return tf.tensor_scatter_nd_update(values, places, drawn)

    def _training_values(self, k: int, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Values of field k drawn by training frequency, int [candidates], as a batch of training rows would have them."""
        below = self._counts_below[k]
        places = tf.random.stateless_uniform([self._scoring.sampled_candidates], seed, maxval=below[-1], dtype=tf.int64)
        return tf.cast(tf.searchsorted(below, places, side="right"), dtype)


def _drawable_counts(model: "DGenCTR", frequencies: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Training counts of each id field's values, int64 [rows], 0 for those that the network reads as masked.

    Raises:
      UserError: a field has no others.
    """
    fields, counts = model.schema.id_fields, []
    for field, of_field in zip(fields, frequencies, strict=False):
        known = model.embedding.known_values(tf.range(field.rows), field.offset).numpy()
        counts.append(np.where(known, of_field, 0))
    empty = [field.name for field, drawable in zip(fields, counts, strict=True) if not drawable.any()]
    if empty:
        rare = model.run_config.model.rare_count
        setting, remedy = (f", `model.rare_count: {rare}`", " or a smaller `model.rare_count`") if rare else ("", "")
        raise UserError(f"no value of {', '.join(empty)} can be drawn: the model reads all that training rows have as masked "
                        f"(`model.unknown: mask`{setting}); pre-train with `model.unknown: row`{remedy}, or without what cannot be drawn "
                        "(`model.ignored_fields`)")
    return counts


def unmasking_turns(config: DiffusionConfig, given: tf.Tensor, steps: int | None, seed: tf.Tensor) -> tf.Tensor:
    """In which step, counted from 0, each token is drawn, int32 [B, N+1]; `NEVER` where it is given. See `Sampler`.

    Args:
      given: bool [B, N+1]; steps: None for one token at a time; seed: int [2].
    """
    hidden_until = tf.random.stateless_uniform(tf.shape(given), seed)
    if steps is None:
        order = tf.argsort(tf.where(given, -1.0, hidden_until), axis=1, direction="DESCENDING")
        turns = tf.argsort(order, axis=1)  # the rank of each token
    else:
        rates = masking_rate(config, tf.range(1, steps, dtype=tf.float32) / steps)  # lambda(1/S), ..., lambda((S-1)/S)
        turns = steps - 1 - tf.searchsorted(rates, tf.reshape(hidden_until, [-1]), side="right")
        turns = tf.reshape(turns, tf.shape(given))
    return tf.where(given, NEVER, turns)
