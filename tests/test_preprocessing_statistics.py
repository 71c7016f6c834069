"""Counts that add up, and the vocabularies and buckets read off them."""

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import statistics
from preprocessing.schema import CategoricalField, NumericField
from preprocessing.statistics import Accumulator, Buckets, NumberCounts, ValueCounts, Vocabulary


def vocabulary(texts, missing=(), **settings):
    field = CategoricalField(name="f", kind="categorical", **settings)
    return Vocabulary.build(ValueCounts.of(pa.array(texts, pa.string())), field, missing)


def buckets(numbers, count):
    field = NumericField(name="f", kind="numeric", buckets=count)
    return Buckets.build(NumberCounts.of(np.array(numbers, np.float32)), field)


def test_a_vocabulary_falls_by_count_then_rises_by_value():
    built = vocabulary(["b", "c", "a", "c", "", "NULL", "\xe4"], missing=("NULL",))
    assert built.values.to_pylist() == ["c", "a", "b", "\xe4"]
    assert built.frequencies.tolist() == [2, 0, 2, 1, 1, 1]
    report = built.report()
    assert (report["rows"], report["distinct"], report["missing_share"], report["top_share"]) == (7, 4, 2 / 7, 2 / 7)
    assert report["top_values"][0] == {"value": "c", "count": 2}


def test_rare_values_train_the_unknown_row():
    built = vocabulary(["a", "a", "a", "b", "b", "c"], min_count=2)
    assert (built.values.to_pylist(), built.frequencies.tolist()) == (["a", "b"], [0, 1, 3, 2])
    built = vocabulary(["a", "a", "a", "b", "b", "c"], max_size=1)
    assert (built.values.to_pylist(), built.frequencies.tolist()) == (["a"], [0, 3, 3])


def test_a_value_with_a_line_end_cannot_be_in_a_vocabulary_file():
    built = vocabulary(["a", "b\nb", "c\r"])
    assert (built.values.to_pylist(), built.frequencies.tolist()) == (["a"], [0, 2, 1])


def test_a_field_that_is_always_missing():
    built = vocabulary(["", ""])
    assert (built.values.to_pylist(), built.frequencies.tolist()) == ([], [2, 0])
    built = buckets([np.nan, np.nan], 4)
    assert (built.boundaries.tolist(), built.frequencies.tolist(), built.mean, built.deviation) == ([], [2, 0, 0], 0, 1)


def test_quantile_buckets_of_different_numbers():
    built = buckets(range(8), 4)
    assert built.boundaries.tolist() == [2, 4, 6]
    assert built.frequencies.tolist() == [0, 0, 2, 2, 2, 2]
    assert (built.mean, built.deviation) == (3.5, pytest.approx(np.std(range(8))))


def test_coinciding_quantiles_give_fewer_buckets():
    built = buckets([0, 0, 0, 0, 0, 0, 1, 1, 5, 9], 4)
    assert built.boundaries.tolist() == [1]
    assert built.frequencies.tolist() == [0, 0, 6, 4]
    built = buckets([3, 3, 3], 4)
    assert (built.boundaries.tolist(), built.frequencies.tolist(), built.deviation) == ([], [0, 0, 3], 1)


def test_infinite_numbers_lie_in_the_outermost_buckets_and_do_not_move_the_mean():
    built = buckets([1, 2, 3, 4, np.inf, np.inf, -np.inf, np.nan], 2)
    assert built.boundaries.tolist() == [3]
    assert built.frequencies.tolist() == [1, 0, 3, 4]
    assert (built.mean, built.lowest, built.highest) == (2.5, 1, 4)


def test_numbers_keep_their_order_and_sign():
    numbers = np.array([-3.4e38, -1.5, -1e-40, 0.0, 1e-40, 1.5, 3.4e38], np.float32)
    counts = NumberCounts.of(np.concatenate([numbers[::-1], np.array([-0.0], np.float32)]))
    np.testing.assert_array_equal(counts.edges(), numbers)
    assert counts.counts.tolist() == [1, 1, 1, 2, 1, 1, 1]


def test_the_histogram_does_not_depend_on_how_rows_were_dealt_out(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_CELLS", 100)
    numbers = np.random.default_rng(0).lognormal(0, 3, 5000).astype(np.float32)
    whole = NumberCounts.of(numbers)
    assert whole.shift > 0 and whole.size <= 100
    for parts in (2, 7, 500):
        merged = NumberCounts.merge([NumberCounts.of(part) for part in np.array_split(numbers[::-1], parts)])
        assert merged.shift == whole.shift
        np.testing.assert_array_equal(merged.cells, whole.cells)
        np.testing.assert_array_equal(merged.counts, whole.counts)


def test_coarse_buckets_still_count_exactly(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_CELLS", 1000)
    numbers = np.random.default_rng(0).normal(0, 1, 20_000).astype(np.float32)
    built = buckets(numbers, 10)
    expected = np.bincount(np.searchsorted(built.boundaries, numbers, side="right"))
    np.testing.assert_array_equal(built.frequencies[2:], expected)
    np.testing.assert_allclose(expected, 2000, rtol=0.05)


def test_an_accumulator_merges_as_it_goes():
    accumulator = Accumulator()
    for _ in range(5):
        accumulator.add(ValueCounts.of(pa.array([str(number) for number in range(40_000)])))
    total = accumulator.total()
    assert total.size == 40_000
    assert set(total.table["count"].to_pylist()) == {5}
