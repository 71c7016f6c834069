"""Counts that add up, and the vocabularies and buckets read off them."""

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import statistics
from preprocessing.schema import CategoricalField, NumericField, parse_schema
from preprocessing.statistics import (
    Accumulator,
    Buckets,
    NumberCounts,
    ValueCounts,
    Vocabulary,
    count_features,
    hashing_report,
)


def vocabulary(*parts, kept=None, **settings):
    """The vocabulary of texts, counted in parts that have no text in common."""
    field = CategoricalField(name="f", kind="categorical", **settings)
    return Vocabulary.build([ValueCounts.of(pa.array(texts, pa.string())) for texts in parts], field, kept and pa.array(kept))


def buckets(numbers, count=32, bucketing="quantile"):
    field = NumericField(name="f", kind="numeric", buckets=count, bucketing=bucketing)
    return Buckets.build(NumberCounts.of(np.array(numbers, np.float32)), field)


def test_a_vocabulary_falls_by_count_then_rises_by_value():
    built = vocabulary(["b", "c", None, "c"], ["a", None, "\xe4"])
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


def test_a_grown_vocabulary_never_renumbers():
    built = vocabulary(["new", "b", "new", None], ["rare", "a"], kept=["a", "gone", "b"], min_count=2)
    assert built.values.to_pylist() == ["a", "gone", "b", "new"]
    assert built.frequencies.tolist() == [1, 1, 1, 0, 1, 2]
    assert vocabulary(["c", "d", "d"], kept=["a", "b"], max_size=3).values.to_pylist() == ["a", "b", "d"]
    assert vocabulary(["c"], kept=["a", "b"], max_size=1).values.to_pylist() == ["a", "b"]
    assert [one["value"] for one in built.report()["top_values"]] == ["new", "a", "b", "gone"]


def test_texts_are_counted_whether_or_not_they_are_dictionary_encoded_or_in_lists():
    plain = pa.array(["b", "a", None, "b"])
    unused = pa.DictionaryArray.from_arrays(pa.array([0, 2, None, 0], pa.int32()), pa.array(["b", "unused", "a"]))
    in_lists = pa.array([["b", "a"], [], ["b"]])
    for column, missing in ((plain, 1), (plain.dictionary_encode(), 1), (unused, 1), (in_lists, 0)):
        counts = ValueCounts.of(column)
        assert dict(zip(counts.table["value"].to_pylist(), counts.table["count"].to_pylist(), strict=True)) == {"a": 1, "b": 2}
        assert counts.missing == missing


def test_fields_that_share_rows_are_counted_together():
    schema = parse_schema({
        "name": "log", "label": {"column": "y"}, "split": {"by": "hash", "key": ["u"]}, "fields": [
            {"name": "item", "kind": "categorical"},
            {"name": "price", "kind": "numeric"},
            {"name": "history", "kind": "sequence", "vocabulary": "item"},
            {"name": "user", "kind": "categorical", "hash_buckets": 10},
            {"name": "image", "kind": "vector", "size": 1},
        ]}, "log.yaml")
    features = {"item": pa.array(["a", None]), "price": np.array([1, 2], np.float32), "history": pa.array([["a", "b"], []]),
                "user": pa.array(["u", "v"]), "image": np.zeros([2, 1], np.float32)}
    counts = count_features(features, schema)
    assert list(counts) == ["item", "price"]
    assert sorted(zip(*counts["item"].table.to_pydict().values(), strict=True)) == [("a", 2), ("b", 1)]
    assert (counts["item"].missing, counts["price"].counts.tolist()) == (1, [1, 1])
    assert list(count_features(features, schema, {"price"})) == ["price"]


def test_collisions_of_hashed_values():
    # 4 of 8 buckets occur: n = -8 ln(1/2) = 5.545; a value is alone with probability (7/8)^4.545 = 0.545.
    report = hashing_report(np.array([3, 0, 1, 2, 3, 4, 0, 0, 0, 0]))
    assert report == {"hash_buckets": 8, "occupied_buckets": 4, "distinct": 6, "collision_rate": pytest.approx(0.4550, abs=1e-4)}


def test_the_estimate_of_collisions_is_close_where_the_truth_is_known():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 1000, 500)  # 500 different values, each in one of 1000 buckets
    in_bucket = np.bincount(drawn, minlength=1000)
    report = hashing_report(np.concatenate([[0, 0], in_bucket]))
    assert report["distinct"] == pytest.approx(500, rel=0.05)
    assert report["collision_rate"] == pytest.approx((in_bucket[drawn] > 1).mean(), abs=0.05)


@pytest.mark.parametrize(("frequencies", "distinct", "rate"), [
    ([5, 0, 0, 0], 0, 0.0), ([0, 0, 1, 0], 1, 0.235), ([0, 0, 1, 1], 3, 0.71), ([0, 0, 9], 1, 0.0), ([0, 0, 0], 0, 0.0),
])
def test_collisions_where_no_bucket_or_every_bucket_occurs(frequencies, distinct, rate):
    report = hashing_report(np.array(frequencies))
    assert (report["distinct"], report["collision_rate"]) == (distinct, pytest.approx(rate, abs=0.01))


def test_a_value_with_a_line_end_cannot_be_in_a_vocabulary_file():
    built = vocabulary(["a", "b\nb", "c\r"])
    assert (built.values.to_pylist(), built.frequencies.tolist()) == (["a"], [0, 2, 1])


def test_a_field_that_is_always_missing():
    built = vocabulary([None, None])
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


def test_log_square_buckets():
    # floor(ln(x)^2): 3 and 4 -> 1, 5 and 6 -> 2 and 3, 10 -> 5; each whole number from -2 to 2 alone; mirrored below.
    built = buckets([-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 10], bucketing="log_square")
    steps = np.exp(np.sqrt(np.arange(1, 6)))
    np.testing.assert_allclose(built.boundaries, [-np.e, -1, 0, 1, 2, *steps], rtol=1e-6)
    assert built.frequencies.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 1, 1, 0, 1]
    mirrored = buckets([3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -10], bucketing="log_square")
    assert mirrored.frequencies.tolist() == [0, 0, 1, 0, 1, 1, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("numbers", "boundaries"), [
    ([], []), ([np.nan, np.inf], []), ([0.5], []), ([0.5, 1.5], [1]), ([3, 4], []), ([2, np.inf, 3], [np.e]),
])
def test_log_square_buckets_reach_as_far_as_the_finite_numbers(numbers, boundaries):
    np.testing.assert_allclose(buckets(numbers, bucketing="log_square").boundaries, boundaries, rtol=1e-6)


def test_log_square_buckets_of_enormous_numbers():
    built = buckets([-3.4e38, 3.4e38], bucketing="log_square")
    assert len(built.boundaries) == 2 * int(np.log(3.4e38) ** 2) + 4
    assert (np.diff(built.boundaries) > 0).all()


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
