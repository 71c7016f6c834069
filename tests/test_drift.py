"""Comparing a new log with a data folder: distances, limits, words, and the whole command."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click_logs import failed, preprocess
from rich.console import Console

from preprocessing.drift import measures, report
from preprocessing.drift.comparison import LOG, compare
from preprocessing.drift.counting import field_frequencies, field_profiles
from preprocessing.drift.new_values import FrequentTexts, unknown_texts
from preprocessing.drift.profile import FieldProfile, LogProfile
from preprocessing.drift.wording import Comparison
from preprocessing.encoded import Encoded
from preprocessing.errors import UserError
from preprocessing.folder import lock_folder
from preprocessing.rows import Rows
from preprocessing.schema import parse_schema
from preprocessing.tally import Tally

ROOT = Path(__file__).resolve().parent.parent


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
    # (24.625 + 3/8) / (99.25 + 3/4) = 1/4; arcsin sqrt(1/4) = pi/6, arcsin sqrt(3/4) = pi/3
    z = 2 * math.pi / 6 / math.sqrt(2 / 99.75)
    assert measures.two_proportion_z(24.625, 99.25, 74.625, 99.25) == pytest.approx(z)
    assert measures.two_proportion_z(74.625, 99.25, 24.625, 99.25) == pytest.approx(-z)
    assert measures.two_proportion_z(0, 100, 0, 100) == measures.two_proportion_z(100, 100, 100, 100) == 0


def test_homogeneity():
    # pooled 1/2 and 1/2, parts 1 and 0: G = 2 ln(2) (20 - 0 - 0) with one degree of freedom
    expected = ((40 * math.log(2)) ** (1 / 3) - 7 / 9) / math.sqrt(2 / 9)
    assert measures.homogeneity_z(counts(10, 0), counts(0, 10)) == pytest.approx(expected)
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
        ("seen", "new_share"), ("seen", "missing_share"), ("seen", "infinity_norm"), ("seen", "length_divergence"),
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
    ({"fields": {"seen": FieldProfile(10_000, 5000, 5000, lengths=counts(5000, 5000, 0, 0))}}, ("seen", "length_divergence")),
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


def test_new_values_without_a_validation_split_are_expected_as_in_training():
    nobody = FieldProfile(0, 0, 0)
    valid = LogProfile(0, 0, 0, 0, 0, fields={name: nobody for name in log().fields})
    item = next(one for one in compare(schema(), log(), valid, log(5000)) if one.measure == "new_share" and one.subject == "item")
    assert (item.before, item.now) == (pytest.approx(0.01), pytest.approx(0.01))


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


def test_no_small_log_of_the_same_distribution_cries_wolf():
    """Zipf values, buckets and lengths: limits far below the noise of few rows, none exceeded in 600 comparisons."""
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, 101)
    shares /= shares.sum()

    def draw(rows):
        item, price = rng.multinomial(rows, shares), rng.multinomial(rows, np.full(32, 1 / 32))
        length = rng.multinomial(rows, [0.1, 0.5, 0.3, 0.1])
        fields = {"seen": FieldProfile(rows, int(length[0]), int(length @ np.arange(4)), lengths=length)}
        return log(rows, positives=int(rng.binomial(rows, 0.03)), fields=fields,
                   frequencies={"item": np.r_[0, 0, item], "price": np.r_[0, 0, price]})

    train, beyond = draw(100_000), 0
    for rows in [20, 50, 200] * 200:
        found = [one for one in compare(schema(), train, train, draw(rows)) if one.ratio > 1]
        beyond += bool(found)
        assert not any(one.exceeded for one in found)
    assert beyond > 100


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


# ---- Counting ----


def frequent(*batches: list[str]) -> FrequentTexts:
    texts = FrequentTexts()
    for batch in batches:
        texts.add(pa.array(batch))
    return texts


def test_the_most_frequent_new_values():
    texts = frequent(["b", "a", "b"], ["c", "a", "b", "x" * 300])
    assert texts.top(3) == [("b", 3), ("a", 2), ("c", 1)]
    assert texts.top(9)[3] == ("x" * 200, 1)
    texts.merge(frequent(["c", "c", "c"]))
    assert texts.top(1) == [("c", 4)]


def test_new_values_in_bounded_memory_are_counted_from_below():
    many = frequent(["often"] * 50, [f"once {number}" for number in range(1000)])
    assert many.top(2000) == [("often", 49)]


def test_the_texts_of_unknown_ids():
    resolved = schema().resolve({"item": 3, "price": 4, "city": 6})
    seen = pa.ListArray.from_arrays([0, 4, 4, 6], pa.array(["A", "x", "y", "A", "z", "A"]).dictionary_encode())
    rows = Rows(features={"item": pa.array(["A", "x", None]).dictionary_encode(), "price": np.zeros(3, np.float32), "seen": seen,
                          "city": pa.array(["c", "d", "e"]).dictionary_encode(), "picture": np.zeros((3, 2), np.float32)},
                label=np.zeros(3, np.int64), split=np.zeros(3, np.int8), group=None, timestamp=None, key=None, weight=None,
                rejections=[], bytes_read=0)
    # Of "seen" (max_length 3) the last three stay; item and seen know only A.
    encoded = Encoded(ids=np.array([[2, 2, 2], [1, 2, 3], [0, 2, 4]]), values=np.zeros((3, 1), np.float32),
                      lists={"seen": (np.array([1, 1, 2, 1, 2]), np.array([3, 0, 2]))}, uncut_lengths={}, vectors={}, vector_rows={})
    found = {name: texts.to_pylist() for name, texts in unknown_texts(rows, encoded, resolved).items()}
    assert found == {"item": ["x"], "seen": ["x", "y", "z"]}


def test_a_tally_counts_each_field_for_itself_and_adds_up(tmp_path):
    resolved = schema().resolve({"item": 3, "price": 4, "city": 6})
    ids = np.array([[2, 2, 2], [1, 2, 3], [0, 0, 4], [2, 2, 2]])
    encoded = Encoded(ids=ids, values=np.zeros((4, 1), np.float32), lists={"seen": (np.array([1, 1, 2, 2, 2]), np.array([3, 0, 1, 1]))},
                      uncut_lengths={"seen": np.array([5, 0, 1, 1])}, vector_rows={},
                      vectors={"picture": (np.zeros((4, 2), np.float32), np.array([0, 1, 1, 0]))})
    tally = Tally.empty(resolved)
    tally.add(encoded, np.array([0, 0, 0, 1], np.int8), resolved)
    for name in ("one", "two"):
        tally.write(tmp_path / name)
    twice = Tally.read_sum([tmp_path / "one", tmp_path / "two"], resolved)
    frequencies = {name: counts.tolist() for name, counts in field_frequencies(twice, resolved).items()}
    assert frequencies == {"item": [2, 2, 2], "price": [2, 0, 4, 0], "seen": [0, 4, 4], "city": [0, 0, 2, 2, 2, 0]}
    profiles = field_profiles(twice, resolved, split=0, rows=6)
    assert profiles["seen"].lengths.tolist() == [2, 2, 0, 2]
    assert {name: (one.missing, one.values, one.unknown) for name, one in profiles.items()} == {
        "item": (2, 4, 2), "price": (2, 4, 0), "seen": (2, 8, 4), "city": (0, 6, 0), "picture": (4, 2, 0)}


# ---- The report ----

ODD = "A$_{|`\xe4\u6f22"  # neither a formula to matplotlib nor the end of a cell to Markdown, and not in every font


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "vocabularies").mkdir()
    (tmp_path / "vocabularies" / "item.txt").write_text(f"{ODD}\nB\n", encoding="utf-8")
    price = {"boundaries": [10.0], "mean": 9.0, "standard_deviation": 1.0}
    (tmp_path / "buckets.json").write_text(json.dumps({"price": price}))
    return tmp_path


def comparison(data_dir, new: LogProfile, **drift) -> Comparison:
    return Comparison(data_dir, schema(**drift), log(), log(1000), new, differences(new, **drift))


def drifted() -> LogProfile:
    fields = {
        "item": FieldProfile(10_000, 0, 10_000, unknown=5000, new_values=(("x|y", 4000), ("z", 10))),
        "seen": FieldProfile(10_000, 5000, 5000, lengths=counts(5000, 5000, 0, 0)),
    }
    frequencies = {"item": counts(0, 5000, 5000, 0), "price": counts(1000, 0, 0, 9000)}
    return log(fields=fields, frequencies=frequencies, rejected=300, read=10_300, days=("2026-01-01", "2026-01-02"),
               reasons={"price is not a number (first: new.csv, line 7)": 300})


def printed(one: Comparison) -> str:
    console = Console(width=140, file=io.StringIO())
    report.print_comparison(console, one)
    return console.file.getvalue()


def test_each_difference_in_words(data_dir):
    one = comparison(data_dir, drifted())
    words = {(found.subject, found.measure): one.meaning(found) for found in one.exceeded}
    assert words == {
        ("item", "new_share"): "50.0% of the values are not in the vocabulary, in the validation split 1.0%. Most frequent new "
                               "ones: `x/y` (40.0%), `z` (0.1%).",
        ("item", "infinity_norm"): "The value `B` makes up 0.0% of the values, before 49.5%; no other moved as much.",
        ("price", "jensen_shannon_divergence"): "The median was below 10 and is 10 or more. What moved most: below 10, from 50.0% "
                                                "to 0.0%.",
        ("seen", "length_divergence"): "The median was length 2 and is length 1. What moved most: length 1, from 0.0% "
                                               "to 100.0%.",
        (LOG, "rejected_share"): "2.9% of the rows cannot be read, before 0.0%. Most frequent: 300 x price is not a number (first: "
                                 "new.csv, line 7).",
    }
    assert all(one.advice(found) for found in one.differences)


def test_the_console_shows_the_worst_first(data_dir):
    text = printed(comparison(data_dir, drifted()))
    assert "5 of 15 differences exceed their limits, first of all seen: length of lists." in text
    lines = [line for line in text.splitlines() if "│" in line]
    worst = next(place for place, line in enumerate(lines) if "length of lists" in line)
    assert worst < next(place for place, line in enumerate(lines) if "new values" in line)
    assert "2026-01-01 to 2026-01-02" in text


def test_the_console_says_what_a_small_log_cannot_show(data_dir):
    text = printed(comparison(data_dir, log(40, positives=0, unlabelled=40), unlabelled_share=2))
    assert "0 of 14 differences exceed their limits." in text
    assert "only 40 rows (few: below 2,000): a share near one half must change by about 31.6%" in text
    assert "No row of the new log has a label, so the click rate is not compared." in text
    text = printed(comparison(data_dir, log(40, positives=8)))
    assert "1 more are beyond their limits, but may be chance in a log of this size." in text


def test_the_report_is_written_whole(data_dir, tmp_path, recwarn):
    folder = tmp_path / "report"
    one = comparison(data_dir, drifted())
    report.write_report(folder, one, ["new.csv"])
    assert {path.name for path in folder.iterdir()} == {"DRIFT.md", "drift.json", "differences.png", "fields.png"}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("differences.png", "fields.png"))
    text = (folder / "DRIFT.md").read_text(encoding="utf-8")
    assert "New log: `new.csv`." in text and "**Drift.**" in text
    culprits = [line for line in text.splitlines() if line.startswith("**") and "times the limit" in line]
    assert [line.split(":")[0] for line in culprits] == ["**seen", "**item", "**item", "**price", f"**{LOG}"]
    content = json.loads((folder / "drift.json").read_text(encoding="utf-8"))
    first = content["differences"][0]
    assert (content["exceeded"], first["subject"], first["exceeded"], first["ratio"]) == (True, "seen", True, pytest.approx(10))
    assert content["new_values"] == {"item": [{"value": "x|y", "at_least": 4000}, {"value": "z", "at_least": 10}]}
    assert content["logs"]["new"]["rejected"] == 300
    assert not list(recwarn)


def test_a_report_within_the_limits(data_dir, tmp_path):
    report.write_report(tmp_path / "report", comparison(data_dir, log()), ["new.csv"])
    text = (tmp_path / "report" / "DRIFT.md").read_text(encoding="utf-8")
    assert "**Within the limits.** 0 of 15 differences exceed their limits." in text and "what to do" not in text


# ---- The command ----

SHOP = {
    "name": "shop",
    "label": {"column": "click"},
    "timestamp": "time",
    "split": {"by": "files", "train": "train.csv", "valid": "valid.csv", "test": "test.csv"},
    "fields": [
        {"name": "item", "kind": "categorical", "min_count": 2},
        {"name": "city", "kind": "categorical", "hash_buckets": 8},
        {"name": "price", "kind": "numeric", "buckets": 8},
        {"name": "history", "kind": "sequence", "vocabulary": "item", "max_length": 3},
        {"name": "tags", "kind": "multivalued", "max_length": 2},
        {"name": "picture", "kind": "vector", "size": 2},
    ],
    "drift": {"fields": {"tags": {"length_divergence": 0.5}}},
}
HEADER = "time,click,item,city,price,history,tags,picture\n"


def shop_rows(rows: int, seed: int, price: float = 1.0, item: str = "i") -> list[str]:
    """Some of each: missing values, rare items, rows without label, lists that are cut."""
    rng = np.random.default_rng(seed)
    items = np.minimum(rng.zipf(1.5, (rows, 6)), 200)
    lines = []
    for row in range(rows):
        label = "" if row % 10 == 0 else int(rng.random() < 0.3)
        history = "|".join(f"i{one}" for one in items[row, 1:rng.integers(1, 7)])
        tags = "|".join(["new", "sale", "used"][:rng.integers(0, 4)])
        picture = "" if row % 7 == 0 else "0.5|-1"
        cost = "" if row % 11 == 0 else f"{price * rng.lognormal(2, 1):.2f}"
        lines.append(f"{1767225600 + row},{label},{item}{items[row, 0]},c{rng.integers(20)},{cost},{history},{tags},{picture}\n")
    return lines


def write_rows(path, lines: list[str]):
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with the data folder `data`, what it was made from, and new logs: `same.csv`, `drifted.csv`."""
    folder = tmp_path_factory.mktemp("shop")
    for seed, (name, rows) in enumerate({"train": 6000, "valid": 2000, "test": 1000, "same": 3000}.items()):
        lines = shop_rows(rows, seed)
        write_rows(folder / f"{name}.csv", [*lines, "1,maybe,i1,c1,1,,,\n"] if name == "train" else lines)
    write_rows(folder / "drifted.csv", shop_rows(3000, 9, price=100) + shop_rows(3000, 10, item="I"))
    (folder / "schema.yaml").write_text(yaml.safe_dump(SHOP))
    assert preprocess("--input", folder, "--schema", folder / "schema.yaml", "--output", folder / "data") == 0
    return folder


def drift_of(folder) -> dict:
    return json.loads((folder / "drift.json").read_text(encoding="utf-8"))


def by_measure(content: dict) -> dict[tuple[str, str], dict]:
    return {(one["subject"], one["measure"]): one for one in content["differences"]}


def test_the_training_rows_do_not_differ_from_themselves(shop, tmp_path):
    assert preprocess("--compare", shop / "data", "--input", shop / "train.csv", "--report", tmp_path / "report") == 0
    content = drift_of(tmp_path / "report")
    assert content["logs"]["train"] == content["logs"]["new"] | {"reasons": {}, "rejected": 1, "read": 9001}
    assert content["logs"]["new"]["rejected"] == 1 and content["logs"]["new"]["days"] == ["2026-01-01", "2026-01-01"]
    found = by_measure(content)
    assert ("history", "length_divergence") in found and ("tags", "infinity_norm") in found and ("picture", "missing_share") in found
    for (subject, measure), one in found.items():
        if measure != "new_share" and measure != "rejected_share":
            assert one["size"] == 0, (subject, measure)
    assert found["item", "new_share"]["before"] > found["item", "new_share"]["now"] > 0


def test_another_log_of_the_same_distribution_is_within_the_limits(shop, tmp_path):
    lines = (shop / "same.csv").read_text().splitlines(keepends=True)[1:]
    parts = [write_rows(tmp_path / f"same-{part}.csv", lines[part::3]) for part in range(3)]
    assert preprocess("--compare", shop / "data", "--input", shop / "same.csv", "--report", tmp_path / "whole") == 0
    assert preprocess("--compare", shop / "data", "--input", *parts, "--report", tmp_path / "parts") == 0
    whole, dealt_out = drift_of(tmp_path / "whole"), drift_of(tmp_path / "parts")
    assert dealt_out | {"input": whole["input"]} == whole
    assert not whole["exceeded"] and not list(tmp_path.glob("*/.*"))


def test_drift_is_found_by_a_scheduler(shop, tmp_path):
    flags = ["--compare", "data", "--input", "drifted.csv", "--report", str(tmp_path / "report")]
    command = [sys.executable, "-m", "preprocessing.task", *flags]
    ended = subprocess.run(command, check=False, cwd=shop, env=os.environ | {"PYTHONPATH": str(ROOT)},
                           capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    worst = by_measure(drift_of(tmp_path / "report"))
    exceeded_ones = [subject_and_measure for subject_and_measure, one in worst.items() if one["exceeded"]]
    assert exceeded_ones == [("item", "new_share"), ("item", "infinity_norm"), ("price", "jensen_shannon_divergence")]
    assert worst["item", "new_share"]["now"] == pytest.approx(0.5, abs=0.05)
    new = drift_of(tmp_path / "report")["new_values"]["item"]
    assert new[0]["value"] == "I1" and new[0]["at_least"] == sum(",I1,c" in line for line in (shop / "drifted.csv").open())
    culprits = [line for line in (tmp_path / "report" / "DRIFT.md").read_text().splitlines() if "times the limit" in line]
    assert culprits[0].startswith("**item: new values**") and "`I1`" in culprits[0]
    assert "item" in ended.stdout and "DRIFT.md" in ended.stdout


def test_limits_and_label_of_another_schema(shop, tmp_path, capsys):
    limits = {"new_share": 1, "jensen_shannon_divergence": 1, "infinity_norm": 1}
    (tmp_path / "lenient.yaml").write_text(yaml.safe_dump(SHOP | {"drift": limits}))
    arguments = ("--compare", shop / "data", "--input", shop / "drifted.csv", "--schema")
    assert preprocess(*arguments, tmp_path / "lenient.yaml") == 0
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(SHOP | {"fields": SHOP["fields"][:1], "drift": {}}))
    assert "has other fields than schema 'shop'" in failed(capsys, *arguments, tmp_path / "other.yaml")


def test_what_a_killed_comparison_left_behind_is_gone(shop, tmp_path):
    (tmp_path / "report" / ".work" / "tallies").mkdir(parents=True)
    (tmp_path / "report" / ".work" / "tallies" / "part-00000-of-00001.npz").write_bytes(b"half")
    assert preprocess("--compare", shop / "data", "--input", shop / "same.csv", "--report", tmp_path / "report") == 0
    assert not (tmp_path / "report" / ".work").exists()


def test_two_comparisons_do_not_write_one_report(shop, tmp_path, capsys):
    (tmp_path / ".work").mkdir()
    handle = lock_folder(tmp_path / ".work")
    message = failed(capsys, "--compare", shop / "data", "--input", shop / "same.csv", "--report", tmp_path)
    os.close(handle)
    assert "is being written by another comparison: wait for it or choose another path" in message


def test_a_log_of_malformed_rows_only(shop, tmp_path, capsys):
    log_path = write_rows(tmp_path / "bad.csv", ["1,maybe,i1,c1,1,,,\n", "1,1,i1,c1,cheap,,,\n"])
    message = failed(capsys, "--compare", shop / "data", "--input", log_path)
    assert "none of the 2 rows of the new log is well-formed" in message and f"(first: {log_path}, line 3)" in message


def test_a_data_folder_of_an_earlier_version(shop, tmp_path, capsys):
    earlier = shutil.copytree(shop / "data", tmp_path / "earlier")
    (earlier / "tally.npz").unlink()
    manifest = json.loads((earlier / "manifest.json").read_text())
    del manifest["checksums"]  # which came with the tally
    (earlier / "manifest.json").write_text(json.dumps(manifest))
    assert "has no tally.npz of this version" in failed(capsys, "--compare", earlier, "--input", shop / "same.csv")


@pytest.mark.parametrize(("flags", "expected"), [
    (("--compare", "{shop}", "--input", "{shop}/same.csv"), "has no manifest.json, so it is unfinished"),
    (("--compare", "{shop}/data", "--input", "{shop}/none.csv"), "no file matches"),
    (("--compare", "{shop}/data", "--input", "{shop}/schema.yaml"), "has no column 'item'"),
    (("--compare", "{shop}/data", "--input", "{shop}/same.csv", "--report", "{shop}/data"), "is a data folder, expected another one"),
    (("--compare", "{shop}/data", "--input", "{shop}/same.csv", "--output", "x"), "--output has no meaning beside --compare"),
    (("--compare", "{shop}/data", "--input", "{shop}/same.csv", "--compression=gzip"), "--compression has no meaning beside"),
    (("--input", "{shop}/same.csv", "--schema", "{shop}/schema.yaml", "--output", "x", "--report", "y"), "--report needs --compare DIR"),
    (("--compare", "{shop}/data", "--input", "{shop}/same.csv", "--no_such_flag"), "unknown argument '--no_such_flag'"),
])
def test_what_the_command_refuses(shop, capsys, flags, expected):
    assert expected in failed(capsys, *(flag.format(shop=shop) for flag in flags))
