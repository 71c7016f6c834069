"""Counts that went through files are the counts that went in, whatever was written when."""

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import count_files
from preprocessing.count_files import PARTITIONS, CountWriter, read_numbers, read_texts
from preprocessing.schema import CategoricalField
from preprocessing.statistics import NumberCounts, ValueCounts, Vocabulary


def texts(*values: str | None) -> ValueCounts:
    return ValueCounts.of(pa.array(values, pa.string()))


def test_texts_come_back_each_in_one_partition(tmp_path):
    first, second = CountWriter(tmp_path, "part-0"), CountWriter(tmp_path, "part-1")
    first.add({"item": texts("a", "b", "a", None), "user": texts("u")})
    second.add({"user": texts("v"), "item": texts("b", "c", None, None)})
    for writer in (first, second):
        writer.flush()
    parts = list(read_texts(first.files["item"] + second.files["item"], "item"))
    assert len(parts) == PARTITIONS
    rows = [(row["value"], row["count"]) for part in parts for row in part.table.to_pylist()]
    assert sorted(rows) == [("a", 2), ("b", 2), ("c", 1)]
    assert sum(part.missing for part in parts) == 3


def test_numbers_come_back(tmp_path):
    writers = [CountWriter(tmp_path, "part-0"), CountWriter(tmp_path, "part-1")]
    for writer, numbers in zip(writers, ([1.0, np.nan, 2.0], [2.0, np.inf]), strict=True):
        writer.add({"price": NumberCounts.of(np.array(numbers, np.float32))})
        writer.flush()
    counts = read_numbers([path for writer in writers for path in writer.files["price"]], "price")
    assert counts.edges().tolist() == [1.0, 2.0] and counts.counts.tolist() == [1, 2]
    assert (counts.missing, counts.low, counts.high) == (1, 0, 1)


@pytest.mark.parametrize("limit", [0, 3, 1000])
def test_how_often_counts_are_written_changes_no_vocabulary(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(count_files, "VALUES_IN_MEMORY", limit)
    rng = np.random.default_rng(3)
    writer = CountWriter(tmp_path, "part-0")
    batches = [[f"i{value}" for value in rng.zipf(1.5, 50) % 90] for _ in range(6)]
    for batch in batches:
        writer.add({"item": texts(*batch)})
    writer.flush()
    assert len(writer.files["item"]) == {0: 6, 3: 6, 1000: 1}[limit]
    field = CategoricalField(name="item", min_count=2)
    values, counts = np.unique(np.concatenate(batches), return_counts=True)
    expected = [value for _, value in sorted((-count, value) for value, count in zip(values, counts, strict=True) if count >= 2)]
    vocabulary = Vocabulary.build(read_texts(writer.files["item"], "item"), field)
    assert vocabulary.values.to_pylist() == expected
    assert vocabulary.distinct == len(values)
    assert vocabulary.frequencies[1] == counts[counts < 2].sum()
