"""MAP's two pre-trainings, to compare with: masked and replaced features, without labels, their heads dropped afterwards.

Both hide a fixed number n = max(1, round(rate N)) of a sample's N id fields, drawn at random. The label's token is always masked
and never predicted; list fields are visible and not predicted either.

    masked_features     the hidden values are masked, and predicted by noise-contrastive estimation
    replaced_features   each hidden value is replaced by one drawn by its field's training frequency, and for every field
                        it is predicted whether its value is the sample's own

Source: arXiv 2308.01737 (KDD 2023); details as in the authors' published code: the network's state is mapped to one vector a
field, candidates are the values of all fields, noise is drawn by training frequency, scores start at -log of the number of
values. Unlike there, mask embeddings are those of the model (one a field), and the cells of a batch share their noise, of
which there is more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from preprocessing.schema import Schema
from trainer.batch import Batch
from trainer.config import PretrainConfig
from trainer.loss_parts import FIELD
from trainer.products import Dense, matmul

if TYPE_CHECKING:
    from trainer.model import DGenCTR

HEADS = "map_heads"  # the layer that only this pre-training has


class FieldVectors(tf.keras.layers.Layer):
    """One linear map a field, from the hidden state to z_k: H [B, h] or [B, tokens, h] -> [B, N, width].

    Of a state with one vector a token, field k reads that of token k.
    """

    def __init__(self, num_fields: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self._num_fields = num_fields
        self._width = width

    def build(self, hidden_shape: tf.TensorShape) -> None:
        inputs, fields, width = hidden_shape[-1], self._num_fields, self._width
        self._per_token = len(hidden_shape) == 3
        glorot = tf.keras.initializers.VarianceScaling(2.0 * inputs / (inputs + width), "fan_in")
        shape = (fields, inputs, width) if self._per_token else (inputs, fields * width)
        self.kernel = self.add_weight("kernel", shape, initializer=glorot)
        self.bias = self.add_weight("bias", (fields, width), initializer="zeros")
        super().build(hidden_shape)

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        if self._per_token:
            by_field = tf.transpose(hidden[:, :self._num_fields], (1, 0, 2))  # (N, B, h)
            return tf.transpose(matmul(by_field, self.kernel), (1, 0, 2)) + self.bias
        return tf.reshape(matmul(hidden, self.kernel), (-1, self._num_fields, self._width)) + self.bias


class MaskedFeatureHead(tf.keras.layers.Layer):
    """z_k of every field, and an output embedding w_v with a bias b_v of every row of the shared table.

        s_k(v) = z_k . w_v + b_v - log(rows)

    Args:
      num_fields: N.
      table_rows: rows of the shared table.
      width: of z_k.

    Shapes: H [B, h] or [B, tokens, h] -> z [B, N, width].
    """

    def __init__(self, num_fields: int, table_rows: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self._vectors = FieldVectors(num_fields, width)
        self._log_rows = math.log(table_rows)
        self.outputs = self.add_weight("outputs", (table_rows, width + 1), initializer=_WithoutBias(width ** -0.5))

    @property
    def tables(self) -> dict[str, tf.Variable]:
        return {"outputs": self.outputs}

    @property
    def whole_variables(self) -> list[tf.Variable]:
        return [self.outputs, *self._vectors.weights]

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        return self._vectors(hidden)

    def own_scores(self, vectors: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """s(v) [M] of one row of the table, int [M], for each of the vectors [M, width]."""
        outputs = tf.nn.embedding_lookup(self.outputs, rows)
        return tf.reduce_sum(vectors * outputs[:, :-1], axis=1) + outputs[:, -1] - self._log_rows

    def scores(self, vectors: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """s(v) [M, K] of all of these rows, int [K], for each of the vectors [M, width]."""
        outputs = tf.nn.embedding_lookup(self.outputs, rows)
        return tf.matmul(vectors, outputs[:, :-1], transpose_b=True) + outputs[:, -1] - self._log_rows


class _WithoutBias(tf.keras.initializers.Initializer):
    """Normal vectors whose last element is zero."""

    def __init__(self, stddev: float):
        self._normal = tf.keras.initializers.RandomNormal(stddev=stddev)

    def __call__(self, shape: Sequence[int], dtype: tf.DType | None = None, **kwargs) -> tf.Tensor:
        return self._normal(shape, dtype=dtype, **kwargs) * tf.concat([tf.ones(shape[1] - 1), tf.zeros(1)], axis=0)


class ReplacedFeatureHead(tf.keras.layers.Layer):
    """The logit of "replaced" for every field: a hidden layer of z_1, ..., z_N, ReLU, a linear layer.

    Shapes: H [B, h] or [B, tokens, h] -> [B, N].
    """

    tables: Mapping[str, tf.Variable] = {}

    def __init__(self, num_fields: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self._vectors = FieldVectors(num_fields, width)
        self._logits = Dense(num_fields)
        self._hidden_width = num_fields * width

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        return self._logits(tf.nn.relu(tf.reshape(self._vectors(hidden), (-1, self._hidden_width))))


def build_heads(settings: PretrainConfig, schema: Schema, name: str) -> MaskedFeatureHead | ReplacedFeatureHead:
    """The head that `objective` needs."""
    fields = len(schema.id_fields)
    if settings.objective == "masked_features":
        return MaskedFeatureHead(fields, schema.table_rows, settings.map.width, name=name)
    return ReplacedFeatureHead(fields, settings.map.width, name=name)


class MapObjective:
    """The loss of either pre-training; what is drawn is a function of the batch's seed.

    masked_features, with K noise values v_j drawn from q, the training shares of all fields' values together:

        L = mean over masked cells of  -log sigma(d(x)) - sum_j log(1 - sigma(d(v_j))),    d(v) = s_k(v) - log(K q(v))

    replaced_features, with r_k = 1 where field k's value is not the sample's own:

        L = mean over all cells of the binary cross-entropy of logit_k and r_k

    Unknown values, where they are masked (`model.unknown`), are left out of either mean.

    Args:
      model: the network, with heads.
      frequencies: of each of `schema.token_fields` the training count of every value, int64 [rows].
    """

    def __init__(self, model: "DGenCTR", frequencies: Sequence[np.ndarray]):
        self._model = model
        self._fields = model.schema.id_fields
        self._settings = model.run_config.pretrain.map
        self._hidden_fields = max(1, round(self._settings.rate * len(self._fields)))
        counts = list(frequencies)[:len(self._fields)]
        self._masks = model.run_config.pretrain.objective == "masked_features"
        if self._masks:
            of_rows = np.zeros(model.schema.table_rows, np.int64)
            for field, of_field in zip(self._fields, counts, strict=True):
                of_rows[field.offset:field.offset + field.rows] += of_field
            # A value of the batch that no training row has, as validation may hold some, counts as seen half a time.
            self._log_noise = tf.constant(np.log(np.maximum(of_rows, 0.5) / of_rows.sum()), tf.float32)
            self._cumulated = [_cumulated(of_rows)]
        else:
            self._cumulated = [_cumulated(of_field) for of_field in counts]

    def loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The loss under "loss", and each field's mean under "field/NAME"."""
        choice_seed, value_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 3))
        hidden_cells = _chosen(tf.shape(batch["ids"])[0], len(self._fields), self._hidden_fields, choice_seed)  # (B, N)
        if self._masks:
            losses, scored = self._of_masked(batch, hidden_cells, value_seed, training, dropout_seed)
        else:
            losses, scored = self._of_replaced(batch, hidden_cells, value_seed, training, dropout_seed)
        places = tf.cast(tf.where(scored)[:, 1], tf.int32)  # of the fields, (M,)
        sums = tf.math.unsorted_segment_sum(losses, places, len(self._fields))
        counts = tf.math.unsorted_segment_sum(tf.ones_like(losses), places, len(self._fields))
        means = tf.unstack(tf.math.divide_no_nan(sums, counts))
        return {"loss": tf.math.divide_no_nan(tf.reduce_sum(sums), tf.reduce_sum(counts)),
                **{FIELD + field.name: mean for field, mean in zip(self._fields, means, strict=True)}}

    def _of_masked(self, batch: Batch, masked: tf.Tensor, noise_seed: tf.Tensor, training: bool,
                   dropout_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Losses [M] of the scored cells, in the order of tf.where, and which these are, bool [B, N]."""
        scored = masked & self._model.embedding.known(batch)
        vectors = tf.boolean_mask(self._read(batch, masked, training, dropout_seed), scored)  # (M, width)
        rows = tf.boolean_mask(self._model.embedding.table_rows(batch["ids"]), scored)  # (M,)
        noise = _draw(self._cumulated[0], [self._settings.noise_samples], noise_seed)  # (K,)
        log_draws, heads = math.log(self._settings.noise_samples), self._model.heads
        own = heads.own_scores(vectors, rows) - log_draws - tf.gather(self._log_noise, rows)  # (M,)
        of_noise = heads.scores(vectors, noise) - log_draws - tf.gather(self._log_noise, noise)  # (M, K)
        return tf.nn.softplus(-own) + tf.reduce_sum(tf.nn.softplus(of_noise), axis=1), scored

    def _of_replaced(self, batch: Batch, replaced: tf.Tensor, value_seed: tf.Tensor, training: bool,
                     dropout_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `_of_masked`; every field that can be read is scored."""
        ids, size = batch["ids"], tf.shape(batch["ids"])[:1]
        seeds = tf.unstack(tf.random.split(value_seed, len(self._fields)))
        drawn = tf.stack([_draw(cumulated, size, seed) for cumulated, seed in zip(self._cumulated, seeds, strict=True)], axis=1)
        visible = batch | {"ids": tf.where(replaced, drawn, ids)}
        logits = self._read(visible, tf.zeros_like(replaced), training, dropout_seed)  # (B, N)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(tf.not_equal(visible["ids"], ids), tf.float32), logits)
        scored = self._model.embedding.known(visible)
        return tf.boolean_mask(losses, scored), scored

    def _read(self, features: dict[str, tf.Tensor], masked: tf.Tensor, training: bool, dropout_seed: tf.Tensor) -> tf.Tensor:
        """What the head says of features of which some id fields, bool [B, N], are masked, and the label."""
        model = self._model
        lists = tf.zeros((tf.shape(masked)[0], model.embedding.num_fields - len(self._fields)), tf.bool)
        mask = tf.concat([masked, lists, tf.ones_like(masked[:, :1])], axis=1)  # (B, F+1)
        tokens = model.embedding(features, tf.zeros_like(features["label"]), mask)
        return model.heads(model.hidden(tokens, training, dropout_seed if training else None))


def _chosen(rows: tf.Tensor, fields: int, number: int, seed: tf.Tensor) -> tf.Tensor:
    """`number` of the fields of each row, drawn without preference, bool [rows, fields]."""
    uniform = tf.random.stateless_uniform((rows, fields), seed)
    order = tf.argsort(tf.argsort(uniform, axis=1), axis=1)  # the rank of each field, so that ties do not add one
    return order < number


def _cumulated(counts: np.ndarray) -> tf.Tensor:
    return tf.constant(np.cumsum(counts), tf.float64)


def _draw(cumulated: tf.Tensor, shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Places int32 [n] drawn in proportion to counts, of which the cumulated sums are given; never one of count zero."""
    uniform = tf.random.stateless_uniform(shape, seed, dtype=tf.float64)
    return tf.searchsorted(cumulated, uniform * cumulated[-1], side="right")
