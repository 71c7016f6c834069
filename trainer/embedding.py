"""The shared embedding layers: one table for all fields, and the embeddings of masks, the label and the fields themselves."""

from collections.abc import Mapping

import tensorflow as tf

from preprocessing.schema import Schema


class FeatureEmbedding(tf.keras.layers.Layer):
    """One table for all fields, and the embeddings e(x_k) of a sample's features.

    e(x_k) of field k is row offset_k + x_k of ONE table of all fields, so that a step needs one gather and one scatter
    and the table shards by rows.

    Args:
      schema: a resolved schema: N fields with their rows and offsets.
      dim: width d of the table.
      stddev: standard deviation of the initial values.
    """

    def __init__(self, schema: Schema, dim: int, stddev: float, **kwargs):
        super().__init__(**kwargs)
        self.num_fields = len(schema.id_fields)
        self.dim = dim
        self._offsets = [field.offset for field in schema.id_fields]
        self.table = self._add_normal("table", schema.table_rows, stddev)
        self.built = True

    def _add_normal(self, name: str, rows: int, stddev: float) -> tf.Variable:
        return self.add_weight(name, (rows, self.dim), initializer=tf.keras.initializers.RandomNormal(stddev=stddev))

    @property
    def whole_variables(self) -> list[tf.Variable]:
        """The weights, in their order, with the table as one variable where it is sharded over servers."""
        return [self.table]

    def table_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Rows of the shared table for local ids [..., N]."""
        return ids + tf.constant(self._offsets, ids.dtype)

    def lookup(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings [..., d] of rows of the shared table."""
        return tf.nn.embedding_lookup(self.table, rows)

    def values(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """e(x_k) of every feature, float [B, F, d]."""
        return self.lookup(self.table_rows(features["ids"]))


class SharedEmbedding(FeatureEmbedding):
    """Turns a sample X = {f_1, ..., f_N, y} and its mask M into N + 1 tokens.

        h_k = (1 - M_k) e(x_k) + M_k m_k + p_k        k = 1..N+1, token N+1 being the label

    The same rows of the table are the targets that the scoring functions are scored against.

    Args:
      schema, dim: as of `FeatureEmbedding`.
      stddev: standard deviation of the initial values. The two label embeddings start at unit length instead: their
        difference scales the click logit, whose gradient would otherwise be almost zero.

    Source: arXiv 2508.14500 (joint modelling of features and label); mask embeddings per field instead of one shared
    mask are this project's choice, as a shared mask made masked-feature training worse than none in arXiv 2512.14041.
    """

    def __init__(self, schema: Schema, dim: int, stddev: float, **kwargs):
        super().__init__(schema, dim, stddev, **kwargs)
        tokens = self.num_fields + 1
        self.mask_embeddings = self._add_normal("mask_embeddings", tokens, stddev)
        self.field_embeddings = self._add_normal("field_embeddings", tokens, stddev)
        self.label_embeddings = self._add_normal("label_embeddings", 2, dim ** -0.5)

    @property
    def whole_variables(self) -> list[tf.Variable]:
        return [*super().whole_variables, self.mask_embeddings, self.field_embeddings, self.label_embeddings]

    def call(self, features: Mapping[str, tf.Tensor], labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Tokens [B, N+1, d] of features, labels in {0, 1} [B] and mask bool [B, N+1], True where corrupted."""
        values = tf.concat([
            self.values(features),
            tf.gather(self.label_embeddings, tf.cast(labels, tf.int32))[:, tf.newaxis],
        ], axis=1)  # (B, N+1, d)
        tokens = tf.where(mask[:, :, tf.newaxis], self.mask_embeddings, values)
        return tokens + self.field_embeddings

    def click_tokens(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Tokens [B, N+1, d] of clean features and a masked label: what a click is predicted from."""
        values = self.values(features) + self.field_embeddings[:-1]  # (B, F, d)
        label = self.mask_embeddings[-1:] + self.field_embeddings[-1:]  # (1, d)
        label = tf.broadcast_to(label, (tf.shape(values)[0], 1, self.dim))
        return tf.concat([values, label], axis=1)  # (B, N+1, d)
