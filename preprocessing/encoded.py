"""What the transform graph makes of rows, on its way to statistics and records."""

from dataclasses import dataclass

import numpy as np

from preprocessing.schema import VectorField


@dataclass
class Encoded:
    """Rows as the transform graph gives them.

    Attributes:
      ids: int64 [rows, F], of `schema.id_fields`, local to each field.
      values: float32 [rows, numeric fields].
      lists: by list field: ids int64 of all rows one after another, cut to `max_length`, and int64 [rows] of them a row.
      uncut_lengths: by list field: int64 [rows], how many there were before the cut.
      vectors: by inline vector: float32 [rows, size], zeros where missing, and int64 [rows], 1 where missing.
      vector_rows: by vector with a side table: int64 [rows], rows of it, 0 where missing or not in it.
    """

    ids: np.ndarray
    values: np.ndarray
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    uncut_lengths: dict[str, np.ndarray]
    vectors: dict[str, tuple[np.ndarray, np.ndarray]]
    vector_rows: dict[str, np.ndarray]

    def missing_vectors(self, field: VectorField) -> np.ndarray:
        """bool [rows]: the rows without a vector."""
        return self.vector_rows[field.name] == 0 if field.table else self.vectors[field.name][1] == 1
