"""Comparing a new log with a data folder: distances, limits, words, and the whole command."""

import math

import numpy as np
import pytest

from preprocessing.drift import measures
from preprocessing.drift.comparison import LOG, compare
from preprocessing.drift.profile import FieldProfile, LogProfile
from preprocessing.errors import UserError
from preprocessing.schema import parse_schema


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


# ---- Distances ----


def test_the_infinity_norm_is_the_largest_change_of_a_share():
    distance, place = measures.infinity_norm(counts(50, 30, 20), counts(10, 30, 10), 100, 100)
    assert (distance, place) == (pytest.approx(0.4), 0)


def test_values_that_are_not_listed_dilute_the_shares():
    distance, place = measures.infinity_norm(counts(40, 40), counts(40, 40), 80, 160)
    assert (distance, place) == (pytest.approx(0.25), 0)


def test_the_jensen_shannon_divergence_lies_between_0_and_1():
    assert measures.jensen_shannon_divergence(counts(10, 30), counts(1, 3)) == (0, 0)
    assert measures.jensen_shannon_divergence(counts(5, 0), counts(0, 7)) == (1, 0)
    # H(3/4, 1/4) - (H(1) + H(1/2, 1/2)) / 2 = 2 - 3/4 log2(3) - 1/2
    divergence, place = measures.jensen_shannon_divergence(counts(0, 8), counts(2, 2))
    assert (divergence, place) == (pytest.approx(1.5 - 0.75 * math.log2(3)), 0)


def test_two_proportions():
    # pooled 1/2, deviation sqrt(1/4 * (1/100 + 1/100)) = 0.0707, difference 0.2
    assert measures.two_proportion_z(40, 100, 60, 100) == pytest.approx(0.2 / math.sqrt(0.005))
    assert measures.two_proportion_z(60, 100, 40, 100) == pytest.approx(-0.2 / math.sqrt(0.005))
    assert measures.two_proportion_z(0, 100, 0, 10) == measures.two_proportion_z(100, 100, 10, 10) == 0


def test_homogeneity_is_zero_on_average_and_grows_with_the_rows():
    # Expected 15, 15 in each: 4 x 25/15 = 20/3, one degree of freedom.
    assert measures.homogeneity_z(counts(10, 20), counts(20, 10)) == pytest.approx((20 / 3 - 1) / math.sqrt(2))
    assert measures.homogeneity_z(counts(10, 0), counts(5, 0)) == 0
    rng = np.random.default_rng(0)
    draws = [measures.homogeneity_z(*rng.multinomial(5000, np.full(20, 1 / 20), 2)) for _ in range(200)]
    assert abs(np.mean(draws)) < 0.3 and 0.8 < np.std(draws) < 1.2


# ---- Differences and limits ----

SCHEMA = {
    "name": "shop",
    "label": {"column": "click"},
    "split": {"by": "hash", "key": ["user"]},
    "fields": [
        {"name": "item", "kind": "categorical"},
        {"name": "price", "kind": "numeric"},
        {"name": "seen", "kind": "sequence", "vocabulary": "item", "max_length": 3},
        {"name": "city", "kind": "categorical", "hash_buckets": 4},
        {"name": "picture", "kind": "vector", "size": 2},
    ],
}


def schema(**drift):
    return parse_schema(SCHEMA | {"drift": drift}, "the test")


def log(rows=10_000, **changes) -> LogProfile:
    """A log of five fields, half of whose rows hold item A, half B."""
    fields = {
        "item": FieldProfile(rows, missing=0, values=rows, unknown=rows // 100),
        "price": FieldProfile(rows, missing=rows // 10, values=rows - rows // 10),
        "seen": FieldProfile(rows, missing=rows // 2, values=rows, unknown=0, lengths=counts(rows // 2, 0, rows // 2, 0)),
        "city": FieldProfile(rows, missing=0, values=rows),
        "picture": FieldProfile(rows, missing=0, values=rows),
    }
    frequencies = {
        "item": counts(0, rows // 100, rows // 2, rows // 2),
        "price": counts(rows // 10, 0, rows // 2, rows // 2),
        "seen": counts(0, 0, rows // 2, rows // 2),
        "city": counts(0, 0, *[rows // 4] * 4),
    }
    everything = {"positives": rows // 10, "unlabelled": 0, "rejected": 0, "read": rows} | changes
    return LogProfile(rows, fields=fields | everything.pop("fields", {}),
                      frequencies=frequencies | everything.pop("frequencies", {}), **everything)


def differences(new: LogProfile, train: LogProfile | None = None, **drift):
    return compare(schema(**drift), train or log(), log(1000), new)


def exceeded(*arguments, **drift) -> list[tuple[str, str]]:
    return [(one.subject, one.measure) for one in differences(*arguments, **drift) if one.exceeded]


def test_every_measure_of_every_kind_of_field_once():
    found = {(one.subject, one.measure) for one in differences(log())}
    assert found == {
        (LOG, "rejected_share"), (LOG, "unlabelled_share"), (LOG, "label_rate"),
        ("item", "new_share"), ("item", "missing_share"), ("item", "infinity_norm"),
        ("price", "missing_share"), ("price", "jensen_shannon_divergence"),
        ("seen", "new_share"), ("seen", "missing_share"), ("seen", "infinity_norm"), ("seen", "jensen_shannon_divergence"),
        ("city", "missing_share"), ("city", "infinity_norm"),
        ("picture", "missing_share"),
    }


def test_the_same_distribution_passes():
    assert all(one.size == pytest.approx(0, abs=1e-12) for one in differences(log(5000)))
    assert exceeded(log(5000)) == []


@pytest.mark.parametrize(("changes", "culprit"), [
    ({"positives": 1500}, (LOG, "label_rate")),
    ({"positives": 500}, (LOG, "label_rate")),
    ({"rejected": 200}, (LOG, "rejected_share")),
    ({"unlabelled": 1000, "positives": 900}, (LOG, "unlabelled_share")),
    ({"fields": {"item": FieldProfile(10_000, 0, 10_000, unknown=2000)}}, ("item", "new_share")),
    ({"fields": {"price": FieldProfile(10_000, 0, 10_000)}}, ("price", "missing_share")),
    ({"fields": {"picture": FieldProfile(10_000, 1000, 9000)}}, ("picture", "missing_share")),
    ({"fields": {"seen": FieldProfile(10_000, 5000, 5000, lengths=counts(5000, 5000, 0, 0))}}, ("seen", "jensen_shannon_divergence")),
    ({"frequencies": {"item": counts(0, 100, 8000, 2000)}}, ("item", "infinity_norm")),
    ({"frequencies": {"price": counts(1000, 0, 500, 8500)}}, ("price", "jensen_shannon_divergence")),
    ({"frequencies": {"city": counts(0, 0, 5000, 0, 2500, 2500)}}, ("city", "infinity_norm")),
])
def test_drift_is_found_and_comes_first(changes, culprit):
    assert exceeded(log(**changes)) == [culprit]
    assert (differences(log(**changes))[0].subject, differences(log(**changes))[0].measure) == culprit


def test_the_worst_comes_first():
    new = log(positives=1500, fields={"item": FieldProfile(10_000, 0, 10_000, unknown=9000)})
    assert exceeded(new) == [("item", "new_share"), (LOG, "label_rate")]


def test_new_values_are_expected_as_in_the_validation_split():
    train = log(fields={"item": FieldProfile(10_000, 0, 10_000, unknown=0)})
    item = next(one for one in differences(log(), train) if one.measure == "new_share" and one.subject == "item")
    assert (item.before, item.now, item.size) == (pytest.approx(0.01), pytest.approx(0.01), pytest.approx(0))


def test_fewer_new_values_or_malformed_rows_are_no_drift():
    train = log(rejected=5000)
    assert exceeded(log(fields={"item": FieldProfile(10_000, 0, 10_000, unknown=0)}), train) == []


def test_a_small_log_does_not_cry_wolf():
    few = differences(log(40, positives=8))
    rate = next(one for one in few if one.measure == "label_rate")
    assert (rate.before, rate.now, rate.size) == (pytest.approx(0.1), pytest.approx(0.2), pytest.approx(1))
    assert rate.ratio > 1 and rate.uncertain and not rate.exceeded
    many = next(one for one in differences(log(4000, positives=800)) if one.measure == "label_rate")
    assert many.exceeded and not many.uncertain


def test_what_cannot_be_compared_is_left_out():
    nothing = counts(10_000, 0, 0, 0)
    new = log(unlabelled=10_000, positives=0, frequencies={"item": nothing, "price": nothing},
              fields={"item": FieldProfile(10_000, 10_000, 0), "price": FieldProfile(10_000, 10_000, 0)})
    found = {(one.subject, one.measure) for one in differences(new)}
    assert not found & {(LOG, "label_rate"), ("item", "new_share"), ("item", "infinity_norm"), ("price", "jensen_shannon_divergence")}
    assert {(LOG, "unlabelled_share"), ("item", "missing_share"), ("price", "missing_share")} <= set(exceeded(new))


def test_limits_of_a_field():
    new = log(frequencies={"item": counts(0, 100, 8000, 2000), "city": counts(0, 0, 5000, 0, 2500, 2500)})
    assert exceeded(new) == [("item", "infinity_norm"), ("city", "infinity_norm")]
    assert exceeded(new, fields={"item": {"infinity_norm": 0.5}}) == [("city", "infinity_norm")]
    assert exceeded(new, infinity_norm=1, fields={"item": {"infinity_norm": 0.2}}) == [("item", "infinity_norm")]


@pytest.mark.parametrize(("drift", "message"), [
    ({"fields": {"itme": {"missing_share": 0.1}}}, r"`drift.fields` names 'itme', which is not a field: expected some of \['item'"),
    ({"fields": {"price": {"infinity_norm": 0.1}}}, r"`drift.fields.price`: \['infinity_norm'\] are not measured .* 'jensen_shannon"),
    ({"fields": {"city": {"new_share": 0.1}}}, r"`drift.fields.city`: \['new_share'\] are not measured"),
    ({"label_rate": 0}, r"drift.label_rate: Input should be greater than 0 \(received 0\)"),
    ({"click_rate": 0.1}, r"drift.click_rate: unknown key"),
])
def test_limits_that_make_no_sense_are_refused(drift, message):
    with pytest.raises(UserError, match=message):
        schema(**drift)


def test_limits_survive_the_resolved_schema():
    limits = schema(label_rate=0.5, fields={"item": {"new_share": 0.3}}).drift
    assert (limits.of("new_share", "item"), limits.of("new_share", "seen"), limits.label_rate) == (0.3, 0.1, 0.5)
