"""FinalMLP: two MLP streams behind feature gates, fused bilinearly."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_recommenders as tfrs

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.backbones.tower import DeepTower
from trainer.baselines.network import ClickNetwork, concatenated
from trainer.config import Config
from trainer.products import Dense, matmul


class FeatureGate(tf.keras.layers.Layer):
    """Weights of a stream's features that follow from some of the sample's fields.

        output = 2 sigmoid(MLP(c)) * [e_1; ...; e_F],    c = the chosen fields' embeddings, or a learned vector where none is chosen

    The MLP is that of TensorFlow Recommenders: a gate has neither batch normalisation nor dropout, and its products are too
    small to gain from bfloat16. c is read from the embeddings that the streams read; the published code has a second table.

    Args:
      places: of the chosen fields among the F.
      hidden_units: hidden layers of the MLP.

    Shapes: [B, F, d] -> [B, F d].
    """

    def __init__(self, places: Sequence[int], hidden_units: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self._places = list(places)
        self._hidden_units = hidden_units

    def build(self, input_shape: tf.TensorShape) -> None:
        _, fields, dim = input_shape
        if not self._places:
            self._context = self.add_weight("context", (1, dim), initializer="random_normal")  # of zeros ReLU has no gradient
        self._gate = tfrs.layers.blocks.MLP([*self._hidden_units, fields * dim], final_activation="sigmoid")
        super().build(input_shape)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        context = concatenated(tf.gather(values, self._places, axis=1)) if self._places else self._context
        return 2.0 * self._gate(context) * concatenated(values)


class BilinearFusion(tf.keras.layers.Layer):
    """The logit of two streams' outputs, whose interaction is bilinear within each of H groups of their elements.

        f = u . o_1 + v . o_2 + sum_{h=1..H} o_1h^T W_h o_2h

    Shapes: [B, a], [B, c] -> [B]; H divides a and c, W is [H, a/H, c/H].
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self._heads = heads
        self._first, self._second = Dense(1, use_bias=False), Dense(1, use_bias=False)

    def build(self, shapes: Sequence[tf.TensorShape]) -> None:
        first, second = (shape[-1] // self._heads for shape in shapes)
        # Glorot's, of one map from all products of two elements to the logit.
        stddev = (2.0 / (self._heads * first * second + 1)) ** 0.5
        self.bilinear = self.add_weight("bilinear", (self._heads, first, second),
                                        initializer=tf.keras.initializers.RandomNormal(stddev=stddev))
        super().build(shapes)

    def call(self, streams: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        first, second = streams
        linear = self._first(first) + self._second(second)  # (B, 1)
        mixed = matmul(self._grouped(first), self.bilinear) * self._grouped(second)  # (H, B, c/H)
        return linear[:, 0] + tf.reduce_sum(mixed, axis=(0, 2))

    def _grouped(self, x: tf.Tensor) -> tf.Tensor:
        return tf.transpose(tf.reshape(x, (-1, self._heads, x.shape[1] // self._heads)), (1, 0, 2))  # (H, B, k/H)


class FinalMlp(ClickNetwork):
    """Two MLPs whose inputs are gated by other fields, so that they learn other things of the same embeddings.

        o_s = DeepTower_s(FeatureGate_s(e_1, ..., e_F))    s = 1, 2
        logit = b + BilinearFusion(o_1, o_2)

    Its section is `model.finalmlp`. Source: arXiv 2304.00902 (stream-specific feature selection, stream-level interaction
    aggregation in groups).

    Raises:
      UserError: a gate field that the schema does not have.
    """

    def __init__(self, schema: Schema, config: Config, click_rate: float, **kwargs):
        super().__init__(schema, config, click_rate, **kwargs)
        settings = config.model.finalmlp
        self._gates = [FeatureGate(_places(schema, stream.gate_fields), settings.gate_hidden_units)
                       for stream in (settings.first, settings.second)]
        self._towers = [DeepTower(stream.hidden_units, stream.batch_norm, config.finetune.dropout)
                        for stream in (settings.first, settings.second)]
        self._fusion = BilinearFusion(settings.heads)

    def score(self, values: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        seeds = [None, None] if seed is None else tf.unstack(tf.random.split(seed, 2))
        return self._fusion([tower(gate(values), training=training, seed=of_tower)
                             for gate, tower, of_tower in zip(self._gates, self._towers, seeds, strict=True)])


def _places(schema: Schema, names: Sequence[str]) -> list[int]:
    known = [field.name for field in schema.token_fields]
    for name in names:
        if name not in known:
            raise UserError(f"model.finalmlp: gate field {name!r} is no field that a model reads: expected some of {', '.join(known)}")
    return [known.index(name) for name in names]
