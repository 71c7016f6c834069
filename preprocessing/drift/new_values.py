"""Which values a vocabulary lacks: the most frequent of them, in bounded memory."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.rows import Rows
from preprocessing.schema import UNKNOWN_ROW, ListField, NamedField, Schema, SequenceField, drift_measures
from preprocessing.statistics import ValueCounts
from preprocessing.transform import Encoded

_CAPACITY = 1000
_TEXT_LENGTH = 200


class FrequentTexts:
    """The most frequent of many texts; each count is a lower bound, and exact while no more than a thousand differ.

    Whenever more differ, the count of the first one too many is taken off all (Misra and Gries, Finding repeated elements,
    Science of Computer Programming 2, 1982; in batches as in Agarwal et al., Mergeable summaries, PODS 2012).
    """

    def __init__(self, texts: list[str] | tuple[str, ...] = (), counts: list[int] | tuple[int, ...] = ()):
        self._texts, self._counts = pa.array(texts, pa.large_string()), np.array(counts, np.int64)

    def add(self, texts: pa.Array) -> None:
        """Counts strings, dictionary-encoded or not; only their beginnings are kept."""
        if not len(texts):
            return
        found = ValueCounts.of(texts).table
        starts = pc.utf8_slice_codeunits(found["value"].combine_chunks(), 0, _TEXT_LENGTH)
        self._merge(starts, found["count"].to_numpy())

    def merge(self, other: "FrequentTexts") -> None:
        self._merge(other._texts, other._counts)

    def top(self, number: int) -> list[tuple[str, int]]:
        """The most frequent texts and their counts."""
        return list(zip(self._texts[:number].to_pylist(), self._counts[:number].tolist(), strict=True))

    def _merge(self, texts: pa.Array, counts: np.ndarray) -> None:
        both = pa.table({"text": pa.concat_arrays([self._texts, texts]), "count": np.concatenate([self._counts, counts])})
        total = both.group_by("text").aggregate([("count", "sum")]).sort_by([("count_sum", "descending"), ("text", "ascending")])
        counts = total["count_sum"].to_numpy()
        if len(counts) > _CAPACITY:
            counts = counts - counts[_CAPACITY]
        self._counts = counts[counts > 0]
        self._texts = total["text"].combine_chunks()[:len(self._counts)]


def unknown_texts(rows: Rows, encoded: Encoded, schema: Schema) -> dict[str, pa.Array]:
    """By the name of each field with a vocabulary: the texts of its values that the vocabulary lacks, as often as they occur."""
    id_columns = dict(zip((field.name for field in schema.id_fields), encoded.ids.T, strict=True))
    found = {}
    for field in fields_with_new_values(schema):
        texts = rows.features[field.name]
        if isinstance(field, ListField):
            ids, lengths = encoded.lists[field.name]
            texts = _kept_elements(texts, lengths, field)
        else:
            ids = id_columns[field.name]
        found[field.name] = texts.filter(pa.array(ids == UNKNOWN_ROW))
    return found


def fields_with_new_values(schema: Schema) -> list[NamedField]:
    """The fields that have a vocabulary, their own or another's."""
    return [field for field in schema.fields if "new_share" in drift_measures(field)]


def _kept_elements(lists: pa.ListArray, kept: np.ndarray, field: ListField) -> pa.Array:
    """The elements that are left of lists when each keeps its first or last `kept` [rows] ones."""
    first = lists.offsets.to_numpy()[:-1].astype(np.int64)
    if isinstance(field, SequenceField):
        first = first + pc.list_value_length(lists).to_numpy() - kept
    start = np.cumsum(kept) - kept
    return lists.values.take(pa.array(np.repeat(first - start, kept) + np.arange(kept.sum())))
