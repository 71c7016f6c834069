"""Field-specific scoring functions: from the hidden state to scores of a field's values, and of the click."""

import tensorflow as tf

from trainer.config import ScoringConfig
from trainer.products import Dense, matmul


class FieldScoring(tf.keras.layers.Layer):
    """One linear map G_k per field, scored against the tied input embeddings.

        z_k = G_k(H) = H_k W_k + c_k
        s_k(v) = cos(z_k, e(v)) / tau       (similarity "cosine"; tau learned, shared by the fields)
        s_k(v) = z_k . e(v)                 (similarity "dot")

    Args:
      config: similarity, start temperature and whether it is learned.
      num_fields: N.
      dim: embedding width d.

    Shapes: H is [B, h] (shared by all fields) or [B, N+1, h] (the state of each token; the label's is not read).
    Source: arXiv 2508.14500 (field-specific scoring, cosine); the temperature is this project's choice: with tau = 1 the
    softmax over n values cannot fall below log(1 + (n - 1) exp(-2)).
    """

    def __init__(self, config: ScoringConfig, num_fields: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self._cosine = config.similarity == "cosine"
        self._start = config.temperature
        self._learned = config.learn_temperature
        self._num_fields = num_fields
        self._dim = dim

    def build(self, hidden_shape: tf.TensorShape) -> None:
        width = hidden_shape[-1]
        glorot = tf.keras.initializers.VarianceScaling(2.0 * width / (width + self._dim), "fan_in")
        self._per_token = len(hidden_shape) == 3
        shape = (self._num_fields, width, self._dim) if self._per_token else (width, self._num_fields * self._dim)
        self.kernel = self.add_weight("kernel", shape, initializer=glorot)
        self.bias = self.add_weight("bias", (self._num_fields, self._dim), initializer="zeros")
        self.log_temperature = self.add_weight(
            "log_temperature", (), trainable=self._learned and self._cosine,
            initializer=tf.keras.initializers.Constant(tf.math.log(self._start).numpy()))
        super().build(hidden_shape)

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        """Query vectors z [N, B, d] of all fields: field-major, as each field is scored on its own."""
        if self._per_token:
            queries = matmul(tf.transpose(hidden[:, :-1], (1, 0, 2)), self.kernel)  # (N, B, d)
        else:
            flat = matmul(hidden, self.kernel)  # (B, N d)
            queries = tf.transpose(tf.reshape(flat, (-1, self._num_fields, self._dim)), (1, 0, 2))
        return queries + self.bias[:, tf.newaxis]

    def as_queries(self, queries: tf.Tensor) -> tf.Tensor:
        """Queries [..., d] such that query . key is the score."""
        if not self._cosine:
            return queries
        return tf.math.l2_normalize(queries, axis=-1) * tf.exp(-self.log_temperature)

    def as_keys(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Keys [..., d] such that query . key is the score."""
        return tf.math.l2_normalize(embeddings, axis=-1) if self._cosine else embeddings


class LabelScoring(tf.keras.layers.Layer):
    """The click logit: the label's scoring function against its two embeddings.

        logit_y = a z_y . (e(y=1) - e(y=0)) + b,     z_y = H_y W_y + c_y

    The scale a and the bias b are learned: a bare cosine would confine the probability to [0.12, 0.88], which ruins
    the logloss at low click rates. b starts at the log-odds of the training click rate.

    Shapes: H [B, h] or [B, N+1, h], label embeddings [2, d] -> [B].
    """

    def __init__(self, dim: int, click_rate: float, **kwargs):
        super().__init__(**kwargs)
        self._query = Dense(dim)
        self._log_odds = float(tf.math.log(click_rate / (1.0 - click_rate)))

    def build(self, hidden_shape: tf.TensorShape) -> None:
        self.scale = self.add_weight("scale", (), initializer="ones")
        self.bias = self.add_weight("bias", (), initializer=tf.keras.initializers.Constant(self._log_odds))
        super().build(hidden_shape)

    def call(self, hidden: tf.Tensor, label_embeddings: tf.Tensor) -> tf.Tensor:
        if hidden.shape.rank == 3:
            hidden = hidden[:, -1]  # (B, h)
        direction = label_embeddings[1] - label_embeddings[0]  # (d,)
        return self.scale * tf.linalg.matvec(self._query(hidden), direction) + self.bias
