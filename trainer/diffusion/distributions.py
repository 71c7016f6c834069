"""The distribution of a masked field: its scores, normalised over all values or over candidates from the batch."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from preprocessing.schema import Schema
from trainer.config import ScoringConfig
from trainer.diffusion.loss import full_cross_entropy, inclusion_log_probability, log_shares, sampled_cross_entropy
from trainer.embedding import SharedEmbedding
from trainer.scoring import FieldScoring


class FieldDistributions:
    """p(x_k = v | visible tokens) = softmax over v of s_k(v) + log p_k(v), for every field k.

    s_k is the field's scoring function, p_k(v) the training share of value v (`scoring.prior`; not in the paper). Large fields
    (`scoring.candidates`) are normalised over candidates from the batch, whose scores are corrected by -log q(v), the
    probability that v is among them; with the prior the two nearly cancel for rare values.

    Fields that share a vocabulary share its embeddings. Scoring function, p and q are each field's own: how a value is
    distributed over them is no property of the value.

    Args:
      schema: a resolved schema.
      config: the scoring's configuration.
      scoring, embedding: layers of the model.
      frequencies: of each of `schema.token_fields` the training count of every value, int64 [rows].
    """

    def __init__(self, schema: Schema, config: ScoringConfig, scoring: FieldScoring, embedding: SharedEmbedding,
                 frequencies: Sequence[np.ndarray]):
        self._fields = schema.token_fields
        self._ids = len(schema.id_fields)
        self._config = config
        self._scoring = scoring
        self._embedding = embedding
        self._full = [k for k, field in enumerate(self._fields) if config.is_full(field.rows)]
        self._log_shares = [tf.constant(log_shares(counts)) for counts in frequencies]
        self._seen = [tf.constant(counts > 0) for counts in frequencies]

    def losses(self, values: tf.Tensor, mask: tf.Tensor, queries: tf.Tensor) -> list[tf.Tensor]:
        """Cross-entropies of each field in the samples in which it is masked, in their order: float [M_k], field by field.

        Args:
          values: int [B, F], of a list the one that is predicted, or -1; mask: bool [B, F]; queries: float [F, B, d].
        """
        mask = tf.stack(tf.unstack(mask, axis=1))  # (F, B); oneDNN prints a warning for a transpose of truth values
        counts = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # (F,)
        cells = tf.where(mask)  # (M, 2), field by field
        masked_queries = tf.split(self._scoring.as_queries(tf.gather_nd(queries, cells)), counts, num=len(self._fields))
        masked_ids = tf.split(tf.gather_nd(values, tf.reverse(cells, [1])), counts, num=len(self._fields))

        keys = self._keys_of_full_fields()
        return [
            full_cross_entropy(query, keys[k], self.log_prior(k), true) if k in keys
            else self._sampled_loss(k, query, true, self._there(k, values[:, k]))
            for k, (query, true) in enumerate(zip(masked_queries, masked_ids, strict=True))
        ]

    def _there(self, k: int, values: tf.Tensor) -> tf.Tensor:
        """Values [B] of field k without those that stand for an empty list."""
        return values if k < self._ids else tf.boolean_mask(values, values >= 0)

    def draw(self, k: int, queries: tf.Tensor, in_batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws a value of field k a row from p(x_k | visible tokens), int [B], among those with a training count above 0.

        Of a large field the value is drawn among the candidates of the batch: with their weights 1 / q(v) these stand for
        the whole field as they do in the loss (self-normalised importance sampling).

        Args:
          queries: z_k, float [B, d]; seed: int [2].
          in_batch: values of the field from which candidates are taken, int, all with a count above 0.
        """
        queries = self._scoring.as_queries(queries)
        if k in self._full:
            values = tf.range(self._fields[k].rows, dtype=in_batch.dtype)
            log_weight = tf.where(self._seen[k], self.log_prior(k), -np.inf)
        else:
            values, log_weight = self.candidates(k, in_batch)
        return tf.gather(values, self._drawn_places(k, queries, values, log_weight, seed))

    def draw_row(self, k: int, queries: tf.Tensor, in_batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The same among all distinct values of a batch, whatever the field's size: the first row that has the value drawn.

        Args:
          queries: z_k, float [B, d]; in_batch: the field's values, int [R]; seed: int [2].

        Returns:
          int [B], from 0 to R - 1.
        """
        values, place_of_row = tf.unique(in_batch)
        log_weight = self._log_weight(k, values, tf.size(in_batch))
        first_rows = tf.math.unsorted_segment_min(tf.range(tf.size(in_batch)), place_of_row, tf.size(values))
        return tf.gather(first_rows, self._drawn_places(k, self._scoring.as_queries(queries), values, log_weight, seed))

    def _drawn_places(self, k: int, queries: tf.Tensor, values: tf.Tensor, log_weight: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Places [B] in `values` [V], drawn in proportion to exp(score + log_weight)."""
        scores = tf.matmul(queries, self.keys(k, values), transpose_b=True) + log_weight  # (B, V)
        weights = tf.exp(scores - tf.reduce_max(scores, axis=1, keepdims=True))
        below = tf.cumsum(weights, axis=1)
        heights = tf.random.stateless_uniform(tf.shape(queries)[:1], seed) * below[:, -1]  # (B,)
        return tf.reduce_sum(tf.cast(below <= heights[:, tf.newaxis], tf.int32), axis=1)

    def log_prior(self, k: int) -> tf.Tensor:
        """What is added to the scores of field k's values, float [V_k]."""
        log_shares = self._log_shares[k]
        return log_shares if self._config.prior == "frequency" else tf.zeros_like(log_shares)

    def keys(self, k: int, values: tf.Tensor) -> tf.Tensor:
        """Keys [..., d] of values of field k."""
        return self._scoring.as_keys(self._embedding.lookup(values + self._fields[k].offset))

    def candidates(self, k: int, in_batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Distinct values of the batch's first rows, int [C], and what to add to their scores, float [C].

        Args:
          in_batch: the field's values in the batch, int [B].
        """
        drawn = in_batch[: self._config.sampled_candidates]
        candidates, _ = tf.unique(drawn)
        return candidates, self._log_weight(k, candidates, tf.size(drawn))

    def _log_weight(self, k: int, values: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        log_q = inclusion_log_probability(tf.gather(self._log_shares[k], values), draws)
        return tf.gather(self.log_prior(k), values) - log_q

    def _keys_of_full_fields(self) -> dict[int, tf.Tensor]:
        """Keys [V_k, d] of every field with a full softmax, from a single lookup, in which shared rows stand once."""
        if not self._full:
            return {}
        offsets = {k: self._fields[k].offset for k in self._full}
        sizes = {offsets[k]: self._fields[k].rows for k in self._full}
        rows = np.concatenate([np.arange(offset, offset + size, dtype=np.int32) for offset, size in sizes.items()])
        keys = self._scoring.as_keys(self._embedding.lookup(tf.constant(rows)))
        by_offset = dict(zip(sizes, tf.split(keys, list(sizes.values())), strict=True))
        return {k: by_offset[offset] for k, offset in offsets.items()}

    def _sampled_loss(self, k: int, query: tf.Tensor, true: tf.Tensor, in_batch: tf.Tensor) -> tf.Tensor:
        """Cross-entropy [M] of field k against the distinct values of the batch's first rows."""
        candidates, log_weight = self.candidates(k, in_batch)
        draws = tf.minimum(tf.size(in_batch), self._config.sampled_candidates)
        return sampled_cross_entropy(
            tf.reduce_sum(query * self.keys(k, true), axis=1) + self._log_weight(k, true, draws), true,
            tf.matmul(query, self.keys(k, candidates), transpose_b=True) + log_weight, candidates)
