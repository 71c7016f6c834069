"""Fine-tuning on samples of which a part is drawn anew, so that the click loss never sees the same data twice."""

from typing import TYPE_CHECKING

import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.batch import Batch
from trainer.config import RegenerationConfig

if TYPE_CHECKING:
    from trainer.clicked import ClickedCombinations
    from trainer.model import DGenCTR

_LABEL = {"clicks": 1.0, "non_clicks": 0.0}


class Regenerator:
    """Gives a share of a batch's rows another value in some of their fields, the label kept.

    The fields, say an item and what describes it, are taken together from another row of the batch, so that they agree:

        source "batch"       a row of the same label, uniformly:       x_S' ~ p(x_S | y)
        source "generator"   by the pre-trained model, frozen:         x_S' ~ p(x_S | all other fields, y)

    The second is a Gibbs step, which leaves the joint distribution of features and label as it is: where the generator is right,
    (x', y) is as good as (x, y). It scores the values of the first of the fields, the others masked with it, among the rows of
    the batch, weighted by 1 / q(v) for how these were drawn (`FieldDistributions.draw_row`). The first is right where, given
    the label, the fields do not depend on the rest, as in a log whose non-clicks were drawn at random.

    A drawn non-click may be a click that the log knows. With `clicked`, such a draw is refused and the row stays as it is, as a log
    whose non-clicks were drawn among the items that the user never clicked has none.

    The cost does not grow with the vocabulary: a gather, and with a generator a forward pass of the rows concerned.

    Args:
      schema: of the model.
      config: share of rows, labels, fields, source.
      generator: a model of stage "pretrain" that nobody trains, for source "generator".
      clicked: what no non-click may become.

    Raises:
      UserError: a field that the model does not read.

    Source: this project; what it is worth is measured in docs/results.
    """

    def __init__(self, schema: Schema, config: RegenerationConfig, generator: "DGenCTR | None" = None,
                 clicked: "ClickedCombinations | None" = None):
        tokens = [field.name for field in schema.token_fields]
        unknown = [name for name in config.fields if name not in tokens]
        ids = [field.name for field in schema.id_fields]
        if unknown or config.fields[0] not in ids:
            raise UserError(f"finetune.regeneration.fields: expected fields that the model reads ({', '.join(tokens)}), the first of them "
                            f"with one value a row; received {', '.join(config.fields)}")
        self._config = config
        self._generator = generator
        self._clicked = clicked
        self._first = ids.index(config.fields[0])
        self._masked = [name in config.fields for name in tokens] + [False]
        self._moves_id = [name in config.fields for name in ids]
        self._lists = [name for name in config.fields if name not in ids]

    def __call__(self, batch: Batch, seed: tf.Tensor) -> Batch:
        """The batch with a share of its rows regenerated.

        Args:
          batch: features, "ids" int [B, N] among them, and "label" float [B].
          seed: int [2].
        """
        row_seed, value_seed = tf.unstack(tf.random.split(seed, 2))
        rows = self._chosen_rows(batch["label"], row_seed)  # (R,)
        origins = (self._drawn_by_label if self._generator is None else self._drawn_by_generator)(batch, rows, value_seed)  # (R,)
        ids = tf.where(self._moves_id, tf.gather(batch["ids"], origins), tf.gather(batch["ids"], rows))
        if self._clicked:
            kept = ~(self._clicked.holds(ids) & (tf.gather(batch["label"], rows) < 0.5))
            rows, origins, ids = (tf.boolean_mask(values, kept) for values in (rows, origins, ids))
        moved = {name: tf.gather(batch[name], origins) for name in self._lists} | {"ids": ids}
        places = rows[:, tf.newaxis]
        return batch | {name: tf.tensor_scatter_nd_update(batch[name], places, values) for name, values in moved.items()}

    def _chosen_rows(self, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        chosen = tf.random.stateless_uniform(tf.shape(labels), seed) < self._config.share
        if self._config.labels != "both":
            chosen &= tf.equal(labels, _LABEL[self._config.labels])
        return tf.where(chosen)[:, 0]

    @staticmethod
    def _drawn_by_label(batch: Batch, rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A row of the same label for each of `rows` [R], uniformly."""
        clicked = batch["label"] > 0.5
        order = tf.argsort(tf.cast(clicked, tf.int32), stable=True)  # rows without a click first
        clicks = tf.reduce_sum(tf.cast(clicked, tf.int32))
        others = tf.size(order) - clicks
        of_click = tf.gather(clicked, rows)
        first, count = tf.where(of_click, others, 0), tf.where(of_click, clicks, others)
        uniform = tf.random.stateless_uniform(tf.shape(rows), seed)
        place = first + tf.minimum(tf.cast(uniform * tf.cast(count, tf.float32), tf.int32), count - 1)
        return tf.gather(order, place)

    def _drawn_by_generator(self, batch: Batch, rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A row for each of `rows` [R], whose value of the first field is a draw of the generator."""
        generator = self._generator
        chosen = {name: tf.gather(values, rows) for name, values in batch.items() if name != "seed"}
        mask = tf.repeat(tf.constant([self._masked]), tf.size(rows), axis=0)  # (R, F+1)
        rates = tf.fill(tf.shape(rows), sum(self._masked) / len(self._masked))
        hidden = generator.hidden(generator.embedding(chosen, chosen["label"], mask), rates=rates)
        queries = generator.field_scoring(hidden)[self._first]  # (R, d)
        return generator.objective.distributions.draw_row(self._first, queries, batch["ids"][:, self._first], seed)
