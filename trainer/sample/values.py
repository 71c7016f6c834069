"""What the ids of a data folder stand for, as the user knows it; and the id of what the user types."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import (
    MISSING_ROW,
    SPECIAL_ROWS,
    VOCABULARIES,
    ListField,
    NamedField,
    NumericField,
    Schema,
    SequenceField,
    TableField,
)
from trainer.batch import NO_VALUE
from trainer.vocabularies import read_boundaries, read_vocabulary

UNKNOWN_TEXT = "(unknown)"
EXAMPLES_SHOWN = 3


class FieldValues:
    """Ids to texts and back.

        0               the empty text
        1               "(unknown)"
        a value's id    its text
        a bucket's id   its interval: "[0.5, 2)" holds 0.5 <= x < 2
        a hash's id     "(hash bucket 17)", as a hash cannot be read backwards

    Args:
      schema: a resolved schema.
      folder: a data folder, or the model folder's copy of its vocabularies.
    """

    def __init__(self, schema: Schema, folder: Path):
        self._schema = schema
        self._folder = folder
        self._vocabulary = cache(lambda owner: read_vocabulary(folder, owner))
        self._boundaries = cache(lambda field: read_boundaries(folder, field))

    def texts(self, field: TableField, ids: np.ndarray) -> np.ndarray:
        """Texts, object [rows], of ids [rows]."""
        distinct, places = np.unique(ids, return_inverse=True)
        own = distinct[distinct >= SPECIAL_ROWS] - SPECIAL_ROWS
        special = [("", UNKNOWN_TEXT)[value] for value in distinct[distinct < SPECIAL_ROWS]]
        return np.array([*special, *self._own_texts(field, own)], object)[places]

    def list_texts(self, field: ListField, lists: np.ndarray) -> pa.Array:
        """Texts of lists [rows, length], -1 where there is no value, joined by the field's separator."""
        there = lists != NO_VALUE
        ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        values = pa.array(self.texts(field, lists[there]), pa.string())
        return pc.binary_join(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values), field.separator)

    def _own_texts(self, field: TableField, places: np.ndarray) -> Sequence[str]:
        """Texts of a field's own values, numbered from 0."""
        if isinstance(field, NumericField):
            boundaries = self._boundaries(field)
            return [_interval(boundaries, place) for place in places]
        owner = self._schema.owner(field)
        if owner.hash_buckets:
            return [f"(hash bucket {place})" for place in places]
        lines = self._vocabulary(owner).take(pa.array(places, pa.int64())).to_pylist()
        return [line.decode("utf-8", "replace").removesuffix("\n") for line in lines]

    def id_of(self, field: TableField, text: str, counts: np.ndarray) -> int:
        """The id of a value as the log has it.

        Args:
          counts: how often the training split has each value of the field, [rows].

        Raises:
          UserError: no training row has the value, or a number is expected.
        """
        if text in ("", *self._schema.missing):
            value = MISSING_ROW
        elif isinstance(field, NumericField):
            value = self._bucket(field, text)
        else:
            value = self._named(field, text)
        if value is None or not counts[value]:
            raise UserError(f"--given {field.name}={text}: no training row has this value, so the model knows nothing of it; "
                            f"{self._expected(field, counts)}")
        return value

    def list_of(self, field: ListField, text: str, counts: np.ndarray) -> np.ndarray:
        """The ids of a list's values as a log of texts has them, int32 [max_length], -1 where there is no value.

        Args and errors: as `id_of`, of each value.
        """
        values = [value for value in text.split(field.separator) if value not in ("", *self._schema.missing)]
        values = values[-field.max_length:] if isinstance(field, SequenceField) else values[:field.max_length]
        ids = np.full(field.max_length, NO_VALUE, np.int32)
        ids[:len(values)] = [self.id_of(field, value, counts) for value in values]
        return ids

    def _bucket(self, field: NumericField, text: str) -> int:
        try:
            number = np.float32(text)
        except ValueError:
            raise UserError(f"--given {field.name}={text}: expected a number, as the field is numeric") from None
        if np.isnan(number):
            return MISSING_ROW
        return SPECIAL_ROWS + int(np.searchsorted(self._boundaries(field), number, side="right"))

    def _named(self, field: NamedField, text: str) -> int | None:
        owner = self._schema.owner(field)
        if owner.hash_buckets:
            return SPECIAL_ROWS + int(tf.strings.to_hash_bucket_fast(text, owner.hash_buckets))
        line = pc.index(self._vocabulary(owner), pa.scalar(f"{text}\n".encode(), pa.large_binary())).as_py()
        return None if line < 0 else SPECIAL_ROWS + line

    def _expected(self, field: TableField, counts: np.ndarray) -> str:
        known = np.flatnonzero(counts)
        frequent = known[np.argsort(-counts[known], kind="stable")][:EXAMPLES_SHOWN]
        names = ", ".join(repr(str(text)) for text in self.texts(field, frequent))
        owner = self._schema.owner(field)
        where = f" of {self._folder / VOCABULARIES / owner.name}.txt" if owner in self._schema.vocabulary_fields else ""
        return f"expected one{where}: the most frequent are {names}"


def _interval(boundaries: np.ndarray, place: int) -> str:
    """Bucket `place` holds boundaries[place-1] <= x < boundaries[place]."""
    if not len(boundaries):
        return "any number"
    if place == 0:
        return f"< {boundaries[0]:.7g}"
    if place == len(boundaries):
        return f">= {boundaries[-1]:.7g}"
    return f"[{boundaries[place - 1]:.7g}, {boundaries[place]:.7g})"
