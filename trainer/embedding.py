"""The shared embedding layers: one table for all fields, and the embeddings of masks, the label and the fields themselves."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import UNKNOWN_ROW, ListField, Schema, SequenceField
from trainer.config import InterestConfig
from trainer.interest import ListValues, MeanToken, TargetAttention

DEFAULT_INTEREST = InterestConfig()
LABEL_TOKEN_LENGTH = 0.1  # in lengths of the label's key


class FeatureEmbedding(tf.keras.layers.Layer):
    """One table for all fields, and the embeddings e(x_k) of a sample's F features: N id fields, then the list fields.

    e(x_k) of id field k is row offset_k + x_k of ONE table of all fields, so that a step needs one gather and one scatter
    and the table shards by rows. A list field is one token, too, made of the rows of its values: a sequence by target
    attention, whose query is the token of the field that it is the history of (`Schema.target`), another list by their mean.

    Args:
      schema: a resolved schema: fields with their rows and offsets.
      dim: width d of the table.
      stddev: standard deviation of the initial values.
      interest: what becomes of sequences.

    Raises:
      UserError: settings of sequences where none is read.
    """

    def __init__(self, schema: Schema, dim: int, stddev: float, interest: InterestConfig = DEFAULT_INTEREST, **kwargs):
        super().__init__(**kwargs)
        if interest != DEFAULT_INTEREST and not any(isinstance(field, SequenceField) for field in schema.list_fields):
            raise UserError(f"`model.interest` has no effect, as the model reads no sequence of schema {schema.name!r}: leave it out")
        self.num_fields = len(schema.token_fields)
        self.num_ids = len(schema.id_fields)
        self.dim = dim
        self._offsets = [field.offset for field in schema.id_fields]
        self._list_fields = schema.list_fields
        self._target_places = {field.name: _target_place(schema, field) for field in schema.list_fields}
        self.table = self._add_normal("table", schema.table_rows, stddev)
        self._list_tokens = [self._list_token(field, stddev, interest) for field in schema.list_fields]
        self.built = True

    def _list_token(self, field: ListField, stddev: float, interest: InterestConfig) -> MeanToken | TargetAttention:
        if not isinstance(field, SequenceField) or interest.attention == "mean":
            return MeanToken(self.dim, stddev, name=field.name)
        has_target = self._target_places[field.name] is not None
        return TargetAttention(interest, self.dim, field.max_length, stddev, has_target, name=field.name)

    def _add_normal(self, name: str, rows: int, stddev: float) -> tf.Variable:
        return self.add_weight(name, (rows, self.dim), initializer=tf.keras.initializers.RandomNormal(stddev=stddev))

    @property
    def whole_variables(self) -> list[tf.Variable]:
        """The weights, in their order, with the table as one variable where it is sharded over servers."""
        return [self.table, *self._list_variables]

    @property
    def _list_variables(self) -> list[tf.Variable]:
        return [variable for token in self._list_tokens for variable in token.weights]

    def table_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Rows of the shared table for local ids [..., N]."""
        return ids + tf.constant(self._offsets, ids.dtype)

    def lookup(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings [..., d] of rows of the shared table."""
        return tf.nn.embedding_lookup(self.table, rows)

    def values(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """e(x_k) of every feature, float [B, F, d]."""
        ids = self.id_values(features)
        return tf.concat([ids, *self.list_values(features, ids)], axis=1) if self._list_tokens else ids

    def id_values(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """e(x_k) of every id field, float [B, N, d]."""
        return self.lookup(self.table_rows(features["ids"]))

    def list_values(self, features: Mapping[str, tf.Tensor], ids: tf.Tensor) -> list[tf.Tensor]:
        """e(x_k) of every list field, each float [B, 1, d].

        Args:
          features: each list by its name, local ids int [B, L], -1 where there is none.
          ids: what of the id fields is visible, float [B, N, d]: the queries of the sequences.
        """
        found = []
        for field, token in zip(self._list_fields, self._list_tokens, strict=True):
            values = ListValues(self._readable(features[field.name], field.offset))
            embeddings = self.lookup(values.ids + field.offset)
            if isinstance(token, MeanToken):
                found.append(token(embeddings, values))
            else:
                place = self._target_places[field.name]
                found.append(token(embeddings, values, None if place is None else ids[:, place]))
        return [token[:, tf.newaxis] for token in found]

    def _readable(self, lists: tf.Tensor, offset: int) -> tf.Tensor:
        """Local ids int [B, L] of a list field whose rows begin at `offset`, -1 where there is none to be read."""
        return lists


def _target_place(schema: Schema, field: ListField) -> int | None:
    target = schema.target(field) if isinstance(field, SequenceField) else None
    return schema.id_fields.index(target) if target else None


class SharedEmbedding(FeatureEmbedding):
    """Turns a sample X = {f_1, ..., f_F, y} and its mask M into F + 1 tokens.

        h_k = (1 - M_k) e(x_k) + M_k m_k + p_k        k = 1..F+1, token F+1 being the label, with e(y) a tenth of its key

    p_k tells a backbone that reads tokens as a set which field a token is of; one that reads them in order needs none, and p_k is zero.

    Where the target of a sequence is masked, the query of its attention is the target's m_k.
    The same rows of the table are the targets that the scoring functions are scored against.

    A value may count as unknown: one that the vocabulary lacks, or with too few training occurrences for its row to have learnt
    anything. Its token is then masked (M_k = 1) whoever asks, and lists are read without it. Which values are rare is a
    variable, so that a model that is restored without its data folder knows it.

    Args:
      schema, dim, interest: as of `FeatureEmbedding`.
      stddev: standard deviation of the initial values. The two label embeddings, the keys that clicks are scored against, start at
        unit length instead: their difference scales the click logit, whose gradient would otherwise be almost zero. As long a token
        would drown those of the features, whose rows are decayed.
      mask_embedding: m_k: "field", one vector a token; "shared", one vector; "zero", zeros.
      unknown: "mask" masks unknown values; with "row" they are values like others.
      rare_count: with "mask", values with fewer training occurrences are unknown too (`set_rare_rows`).
      in_order: whether the backbone reads tokens by their place.

    Source: arXiv 2508.14500 (joint modelling of features and label); mask embeddings per field instead of one shared
    mask are this project's choice, as a shared mask made masked-feature training worse than none in arXiv 2512.14041.
    """

    def __init__(self, schema: Schema, dim: int, stddev: float, mask_embedding: Literal["field", "shared", "zero"] = "field",
                 unknown: Literal["row", "mask"] = "row", rare_count: int = 0, interest: InterestConfig = DEFAULT_INTEREST,
                 in_order: bool = False, **kwargs):
        super().__init__(schema, dim, stddev, interest, **kwargs)
        self._offsets_of_tokens = [field.offset for field in schema.token_fields]
        tokens = self.num_fields + 1
        self._masks_unknown = unknown == "mask"
        self._rare_count = rare_count
        self.mask_variable = None if mask_embedding == "zero" else self._add_normal(
            "mask_embeddings", tokens if mask_embedding == "field" else 1, stddev)
        self.field_embeddings = None if in_order else self._add_normal("field_embeddings", tokens, stddev)
        self.label_embeddings = self._add_normal("label_embeddings", 2, dim ** -0.5)
        self.rare_rows = self.add_weight("rare_rows", (schema.table_rows,), dtype=tf.bool, trainable=False,
                                         initializer="zeros") if rare_count else None

    @property
    def whole_variables(self) -> list[tf.Variable]:
        own = [self.mask_variable, self.field_embeddings, self.label_embeddings, self.rare_rows]
        return [self.table, *(variable for variable in own if variable is not None), *self._list_variables]

    @property
    def mask_embeddings(self) -> tf.Variable | tf.Tensor:
        """m_k of every token [F+1, d], the label's last, or what all tokens share, [1, d]."""
        return tf.zeros((1, self.dim)) if self.mask_variable is None else self.mask_variable

    @property
    def per_token_variables(self) -> list[tf.Variable]:
        """Those whose first axis counts tokens."""
        shares_masks = self.mask_variable is None or self.mask_variable.shape[0] != self.num_fields + 1
        found = [None if shares_masks else self.mask_variable, self.field_embeddings]
        return [variable for variable in found if variable is not None]

    def set_rare_rows(self, frequencies: Sequence[np.ndarray]) -> None:
        """Marks as rare the rows with fewer than `rare_count` training occurrences, over all fields that use them.

        Args:
          frequencies: of each of `schema.token_fields` the training count of every value, int64 [rows].
        """
        if self.rare_rows is None:
            return
        counts = np.zeros(self.rare_rows.shape[0], np.int64)
        for offset, of_field in zip(self._offsets_of_tokens, frequencies, strict=True):
            counts[offset:offset + len(of_field)] += of_field
        self.rare_rows.assign(counts < self._rare_count)

    def known(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Whether the values of the id fields are known, bool [B, N]; all of them where unknown values have a row."""
        return self.known_values(features["ids"], tf.constant(self._offsets))

    def known_values(self, ids: tf.Tensor, offsets: tf.Tensor | int) -> tf.Tensor:
        """The same of local ids of fields whose rows begin at `offsets`, each of a shape that fits the other."""
        return self._known(ids, ids + tf.cast(offsets, ids.dtype)) if self._masks_unknown else tf.ones_like(ids, tf.bool)

    def _known(self, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        known = tf.not_equal(ids, UNKNOWN_ROW)
        return known if self.rare_rows is None else known & ~tf.nn.embedding_lookup(self.rare_rows, rows)

    def _readable(self, lists: tf.Tensor, offset: int) -> tf.Tensor:
        return tf.where(self._known(lists, tf.maximum(lists, 0) + offset), lists, -1) if self._masks_unknown else lists

    def readable_lists(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Each list field by its name, int [B, L], with -1 for values that are not read."""
        return {field.name: self._readable(features[field.name], field.offset) for field in self._list_fields}

    def call(self, features: Mapping[str, tf.Tensor], labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Tokens [B, F+1, d] of features, labels in {0, 1} [B] and mask bool [B, F+1], True where corrupted."""
        labels = LABEL_TOKEN_LENGTH * tf.gather(self.label_embeddings, tf.cast(labels, tf.int32))[:, tf.newaxis]  # (B, 1, d)
        labels = self._masked(labels, mask[:, -1:], self.num_fields)
        return self._placed(tf.concat([self._visible(features, mask[:, :-1]), labels], axis=1))

    def click_tokens(self, features: Mapping[str, tf.Tensor], mask: tf.Tensor | None = None) -> tf.Tensor:
        """Tokens [B, F+1, d] of a masked label and clean features, but for those where `mask`, bool [B, F], is set."""
        values = self._visible(features, mask)  # (B, F, d)
        label = tf.broadcast_to(self.mask_embeddings[-1:], (tf.shape(values)[0], 1, self.dim))
        return self._placed(tf.concat([values, label], axis=1))

    def _placed(self, tokens: tf.Tensor) -> tf.Tensor:
        return tokens if self.field_embeddings is None else tokens + self.field_embeddings

    def _visible(self, features: Mapping[str, tf.Tensor], mask: tf.Tensor | None = None) -> tf.Tensor:
        """Values float [B, F, d] of all features, or m_k in their place where they are unknown or `mask`, bool [B, F], is set."""
        ids, hidden = self.id_values(features), None if mask is None else mask[:, :self.num_ids]
        if self._masks_unknown:
            unknown = ~self.known(features)
            hidden = unknown if hidden is None else hidden | unknown
        if hidden is not None:
            ids = self._masked(ids, hidden, 0)
        if not self._list_fields:
            return ids
        lists = tf.concat(self.list_values(features, ids), axis=1)
        if mask is not None:
            lists = self._masked(lists, mask[:, self.num_ids:], self.num_ids)
        return tf.concat([ids, lists], axis=1)

    def _masked(self, values: tf.Tensor, mask: tf.Tensor, first: int) -> tf.Tensor:
        """Values [B, n, d] of the tokens from `first` on, or their m_k where `mask`, bool [B, n], is set."""
        masks = self.mask_embeddings
        if masks.shape[0] > 1:
            masks = masks[first:first + values.shape[1]]
        return tf.where(mask[:, :, tf.newaxis], masks, values)
