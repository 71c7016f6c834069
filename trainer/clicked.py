"""Which combinations of values the clicks of the training split have."""

import math

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.config import Config
from trainer.data_folder import DataFolder
from trainer.input import EvaluationSplit

_MOST = 2**63


class ClickedCombinations:
    """A set of combinations of values of some fields, each kept as one sorted number

        c(x) = sum_j id_j(x) prod_{i<j} V_i,    V_i the rows of field i,

    8 bytes a combination, so that looking up B rows among C of them costs O(B log C).

    Args:
      schema: of the model.
      names: fields with one value a row.
      clicks: "ids" of the rows with a click, int [R, N].

    Raises:
      UserError: a field that the model does not read or that has several values a row, or more combinations than numbers.
    """

    def __init__(self, schema: Schema, names: tuple[str, ...], clicks: np.ndarray):
        ids = [field.name for field in schema.id_fields]
        if unknown := [name for name in names if name not in ids]:
            raise UserError(f"finetune.regeneration.unless_clicked: expected fields with one value a row that the model reads "
                            f"({', '.join(ids)}); received {', '.join(unknown)}")
        self._columns = [ids.index(name) for name in names]
        rows = [schema.id_fields[column].rows for column in self._columns]
        if math.prod(rows) >= _MOST:
            raise UserError(f"finetune.regeneration.unless_clicked: {', '.join(names)} have {math.prod(rows):.1e} combinations of values, "
                            f"expected fewer than {_MOST:.1e}: name fewer fields")
        self._radix = np.cumprod([1, *rows[:-1]], dtype=np.int64)
        self._clicked = tf.constant(np.unique(clicks[:, self._columns].astype(np.int64) @ self._radix))

    @classmethod
    def of_training(cls, data: DataFolder, config: Config) -> "ClickedCombinations":
        """Reads the training split once; of a label that `input.label_share` leaves out nothing is used."""
        split = EvaluationSplit(data, "train", config.input.window_rows, config.input.corrupt_records)
        clicks = [batch["ids"].numpy()[batch["label"].numpy() > 0.5] for batch in split.batches()]
        return cls(data.schema, config.finetune.regeneration.unless_clicked, np.concatenate(clicks))

    def holds(self, ids: tf.Tensor) -> tf.Tensor:
        """Whether some click has the values of each row, bool [B].

        Args:
          ids: int [B, N].
        """
        if not len(self._clicked):
            return tf.zeros_like(ids[:, 0], tf.bool)
        numbers = tf.reduce_sum(tf.cast(tf.gather(ids, self._columns, axis=1), tf.int64) * self._radix, axis=1)  # (B,)
        places = tf.minimum(tf.searchsorted(self._clicked, numbers), tf.size(self._clicked) - 1)
        return tf.equal(tf.gather(self._clicked, places), numbers)
