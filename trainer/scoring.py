"""Field-specific scoring functions: from the hidden state to scores of a field's values, and of the click."""

import tensorflow as tf

from trainer.config import ScoringConfig
from trainer.products import Dense, matmul


class FieldScoring(tf.keras.layers.Layer):
    """One scoring function G_k per field, scored against the tied input embeddings.

        z_k = G_k(H) = H_k W_k + c_k                          (function "field")
        z_k = G(H) + c_k = H_k W + c_k                        (function "shared": c_k is all that is the field's own)
        with hidden units, H_k is replaced by ReLU(H_k V_k + b_k), or ReLU(H_k V + b)
        s_k(v) = cos(z_k, e(v)) / tau       (similarity "cosine"; tau learned, shared by the fields)
        s_k(v) = z_k . e(v)                 (similarity "dot")

    Args:
      config: function, hidden units, similarity, start temperature and whether it is learned.
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
        self._shared = config.function == "shared"
        self._hidden_units = config.hidden_units
        self._num_fields = num_fields
        self._dim = dim

    def build(self, hidden_shape: tf.TensorShape) -> None:
        width, per_field = hidden_shape[-1], len(hidden_shape) == 3
        self.hidden_kernel = self.hidden_bias = None
        if self._hidden_units:
            self.hidden_kernel = self._add_kernel("hidden_kernel", per_field, width, self._hidden_units)
            self.hidden_bias = self.add_weight(
                "hidden_bias", (1 if self._shared else self._num_fields, self._hidden_units), initializer="zeros")
            width, per_field = self._hidden_units, True
        self.kernel = self._add_kernel("kernel", per_field, width, self._dim)
        self.bias = self.add_weight("bias", (self._num_fields, self._dim), initializer="zeros")
        self.log_temperature = self.add_weight(
            "log_temperature", (), trainable=self._learned and self._cosine,
            initializer=tf.keras.initializers.Constant(tf.math.log(self._start).numpy()))
        super().build(hidden_shape)

    def _add_kernel(self, name: str, per_field: bool, width: int, units: int) -> tf.Variable:
        """A kernel [width, units] for all fields; or one each, [N, width, units], or [width, N units] for a state that they share."""
        glorot = tf.keras.initializers.VarianceScaling(2.0 * width / (width + units), "fan_in")
        own = (self._num_fields, width, units) if per_field else (width, self._num_fields * units)
        return self.add_weight(name, (width, units) if self._shared else own, initializer=glorot)

    @property
    def per_field_variables(self) -> list[tf.Variable]:
        """Those whose first axis counts fields."""
        if self._shared:
            return [self.bias]
        kernels = [kernel for kernel in (self.hidden_kernel, self.kernel) if kernel is not None and kernel.shape.rank == 3]
        return kernels + [bias for bias in (self.hidden_bias, self.bias) if bias is not None]

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        """Query vectors z [N, B, d] of all fields: field-major, as each field is scored on its own."""
        state = hidden if hidden.shape.rank == 2 else tf.transpose(hidden[:, :-1], (1, 0, 2))  # (B, h) or (N, B, h)
        if self._hidden_units:
            state = tf.nn.relu(self._product(state, self.hidden_kernel) + self.hidden_bias[:, tf.newaxis])  # (N or 1, B, units)
        return self._product(state, self.kernel) + self.bias[:, tf.newaxis]

    def _product(self, state: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """State [B, k] or [N, B, k] times the fields' kernels: [N, B, units], or [1, B, units] where all fields have the same."""
        if kernel.shape.rank == 3:
            return matmul(state, kernel)
        flat, units = matmul(tf.reshape(state, (-1, state.shape[-1])), kernel), kernel.shape[1]
        if self._shared:
            return tf.reshape(flat, (state.shape[0] if state.shape.rank == 3 else 1, -1, units))
        units //= self._num_fields
        return tf.transpose(tf.reshape(flat, (-1, self._num_fields, units)), (1, 0, 2))

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
