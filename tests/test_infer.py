"""A first schema for a log that nobody has described: what is guessed, what is left out, what is refused."""

import gzip
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from rich.console import Console

from preprocessing import task
from preprocessing.errors import UserError
from preprocessing.infer import leaks, names
from preprocessing.infer import sample as sample_module
from preprocessing.infer.command import infer_schema
from preprocessing.infer.fields import cells_of_several, guess_single
from preprocessing.infer.profile import Profile
from preprocessing.infer.roles import guess_time, is_key
from preprocessing.infer.sample import take_sample
from preprocessing.schema import HashSplit, Schema, TimeSplit, load_schema

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
ROWS = 1200


def write_csv(path: Path, columns: dict[str, list], separator: str = ",", header: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(columns)] * header
    lines += [separator.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def infer(output: Path, *patterns: Path | str, **options) -> Schema:
    return infer_schema(output, [str(pattern) for pattern in patterns], Console(quiet=True), **options)


def refused(output: Path, *patterns: Path | str, **options) -> str:
    with pytest.raises(UserError) as caught:
        infer(output, *patterns, **options)
    assert not output.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def unwrapped(text: str) -> str:
    """A schema's text with its comments on one line."""
    return " ".join(text.replace("#", " ").split())


def by_name(schema: Schema) -> dict[str, dict]:
    return {field.name: field.model_dump(exclude_none=True, exclude_defaults=True, exclude={"name"}) | {"kind": field.kind}
            for field in schema.fields}


def clicks(rng: np.random.Generator, rows: int = ROWS) -> list[int]:
    return (rng.random(rows) < 0.2).astype(int).tolist()


def shop_log() -> dict[str, list]:
    """A log with something of everything; the comments of its schema are checked below."""
    rng = np.random.default_rng(3)
    click = clicks(rng)
    items = np.minimum(rng.zipf(1.6, ROWS), 60)
    histories = ["|".join(f"i{item}" for item in np.minimum(rng.zipf(1.6, rng.integers(0, 8)), 60)) for _ in range(ROWS)]
    tags = [";".join(sorted(set(rng.choice(["red", "blue", "xl"], rng.integers(1, 4))))) for _ in range(ROWS)]
    vectors = [" ".join(f"{x:.2f}" for x in rng.normal(size=3)) for _ in range(ROWS)]
    prices = [f"{price:.2f}" for price in rng.lognormal(2, 1, ROWS)]
    start = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    return {
        "request_id": [f"r{row:05d}" for row in range(ROWS)],
        "event_time": [int(start + row * 600) for row in range(ROWS)],
        "user": [f"u{row * 7 % 90}" for row in range(ROWS)],
        "item_id": [f"i{item}" for item in items],
        "history": histories,
        "tags": tags,
        "image": vectors,
        "price": [r"\N" if row % 50 == 0 else price for row, price in enumerate(prices)],
        "country": [("NA", "DE", "US")[row % 3] for row in range(ROWS)],
        "views": [int(views) for views in np.minimum(rng.zipf(1.5, ROWS), 10_000)],
        "store_code": [int(code) for code in rng.integers(100, 180, ROWS)],
        "seconds_on_page": [f"{rng.exponential(9):.1f}" if one else "0" for one in click],
        "pctr": [f"{0.1 * rng.random():.4f}" for _ in click],
        "platform": ["web"] * ROWS,
        "nothing": [""] * ROWS,
        "class": [("a", "b", "null")[row % 3] for row in range(ROWS)],
        "clicked": [("no", "yes")[one] for one in click],
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> tuple[Schema, str]:
    """The schema guessed for `shop_log`, and its text."""
    folder = tmp_path_factory.mktemp("shop")
    schema = infer(folder / "shop.yaml", write_csv(folder / "log.csv", shop_log()))
    return schema, (folder / "shop.yaml").read_text()


# ---- Kinds and roles ----


def test_every_kind_of_field_is_found(shop):
    assert by_name(shop[0]) == {
        "user": {"kind": "categorical"},
        "item_id": {"kind": "categorical"},
        "history": {"kind": "sequence", "max_length": 7, "vocabulary": "item_id"},
        "tags": {"kind": "multivalued", "separator": ";", "max_length": 3},
        "image": {"kind": "vector", "size": 3, "separator": " "},
        "price": {"kind": "numeric"},
        "country": {"kind": "categorical"},
        "views": {"kind": "numeric"},
        "store_code": {"kind": "categorical"},
        "column_class": {"kind": "categorical", "column": "class"},
    }


def test_roles_are_found(shop):
    schema = shop[0]
    assert schema.name == "shop" and schema.separator == "," and schema.header is None
    assert (schema.label.column, schema.label.positive, schema.label.negative) == ("clicked", ("yes",), ("no",))
    assert (schema.group, schema.key, schema.scenario) == ("user", "request_id", None)
    assert (schema.timestamp.column, schema.timestamp.unit) == ("event_time", "seconds")
    assert schema.missing == ("null", r"\N")  # but not the NA of Namibia


def test_the_split_is_by_time_at_round_times(shop):
    # 1,200 rows, one each ten minutes from March 1: 80% of them before 16:00 of March 7, 90% before 12:00 of March 8.
    split = shop[0].split
    assert isinstance(split, TimeSplit) and split.column == "event_time"
    limits = datetime(2026, 3, 7, 16, tzinfo=UTC), datetime(2026, 3, 8, 12, tzinfo=UTC)
    assert (split.valid_from, split.test_from) == limits
    assert "train 960 rows" in shop[1] and "valid 120 rows" in shop[1] and "test 120 rows" in shop[1]


@pytest.mark.parametrize(("column", "reason"), [
    ("request_id", "all its cells differ: a key"),
    ("event_time", "it is a time"),
    ("seconds_on_page", "it decides the label: alone it explains"),
    ("pctr", "it is named like a prediction"),
    ("platform", "it is always 'web'"),
    ("nothing", "it is always missing"),
])
def test_what_is_left_out_says_why(shop, column, reason):
    assert f"# {column}: LEFT OUT: {reason}" in shop[1]


def test_a_left_out_column_can_be_taken_in_again(shop, tmp_path):
    path = tmp_path / "schema.yaml"
    path.write_text(shop[1].replace("  # - {name: pctr,", "  - {name: pctr,"))
    assert by_name(load_schema(path))["pctr"] == {"kind": "numeric"}


def test_comments_tell_what_was_seen(shop):
    text = shop[1]
    assert text.startswith("# A first guess at a log, from all 1,200 rows.")
    assert "# price: " in text and "2.0% missing" in text
    assert r"'\\N' in price" in text and "'null' in class" in text
    assert "yes" in text.split("label:")[1] and "% clicks." in text
    assert "Its values are those of item_id" in unwrapped(text)
    assert max(map(len, text.splitlines())) < 200


# ---- Files ----


def write_headerless(path: Path) -> Path:
    rng = np.random.default_rng(1)
    rows = 400
    columns = {
        "label": clicks(rng, rows),
        "count": [int(count) if row % 9 else "" for row, count in enumerate(rng.zipf(1.5, rows) % 5000)],
        "hash": [f"{value:08x}" for value in rng.integers(0, 40, rows) * 7919 + 4096],
    }
    return write_csv(path, columns, "\t", header=False)


def test_no_header_means_numbered_columns_and_the_label_first(tmp_path):
    schema = infer(tmp_path / "s.yaml", write_headerless(tmp_path / "log.tsv"))
    assert (schema.separator, schema.header, schema.label.column) == ("\t", ("c1", "c2", "c3"), "c1")
    assert {name: field["kind"] for name, field in by_name(schema).items()} == {"c2": "numeric", "c3": "categorical"}
    assert schema.split == HashSplit(key=("c2", "c3"))


def test_a_header_of_plain_numbers_is_a_header(tmp_path):
    columns = {"0": [0, 1] * 100, "1": ["a", "a", "b", "b"] * 50, "2": [f"x{row // 10}" for row in range(200)]}
    schema = infer(tmp_path / "s.yaml", write_csv(tmp_path / "log.csv", columns), label="0")
    assert schema.header is None
    assert [(field.name, field.column) for field in schema.fields] == [("column_1", "1"), ("column_2", "2")]


def test_words_that_come_again_are_no_header(tmp_path):
    columns = {"user": ["u1", "u2"] * 30, "click": ["yes", "no", "no"] * 20, "item": [f"i{row % 7}" for row in range(60)]}
    path = write_csv(tmp_path / "log.csv", columns, header=False)
    assert take_sample([str(path)], None, 100).layout.header == ("c1", "c2", "c3")
    joined = tmp_path / "joined.csv"
    joined.write_text("user,click,item\n" + path.read_text() + "user,click,item\n" + path.read_text())
    assert take_sample([str(joined)], None, 100).layout.header is None


def test_a_sample_comes_from_all_over_the_files(tmp_path):
    for number in range(3):
        columns = {"click": [0, 1] * 500, "row": list(range(number * 1000, number * 1000 + 1000))}
        path = write_csv(tmp_path / f"log-{number}.csv", columns)
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    sample = take_sample([str(tmp_path / "log-*")], None, 300)
    assert sample.files == 3 and not sample.complete
    rows = np.array(sample.table["row"].to_pylist(), int)
    assert [int(((rows // 1000) == number).sum()) for number in range(3)] == [100, 100, 100]
    assert take_sample([str(tmp_path / "log-*")], None, 3000).complete


def test_a_sample_of_many_files_takes_the_first_and_the_last(tmp_path):
    for number in range(40):
        write_csv(tmp_path / f"log-{number:02d}.csv", {"click": [0, 1], "file": [number, number]})
    sample = take_sample([str(tmp_path / "log-*")], None, 1000)
    assert sample.files == 16 and not sample.complete
    assert {"0", "39"} < set(sample.table["file"].to_pylist())


def test_the_end_of_a_file_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_module, "_MOST_BYTES", 1000)
    rows = "".join(f"{row % 2},u{row * 7 % 101},{row}\n" for row in range(400_000)).encode()
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(b"click,user,row\n" + rows, 1))
    sample = take_sample([str(tmp_path / "log.csv.gz")], None, 1000)
    assert sample.unread == (str(tmp_path / "log.csv.gz"),) and sample.table.num_rows == 1000
    infer(tmp_path / "s.yaml", tmp_path / "log.csv.gz", sample_rows=1000)
    assert "Only the beginning of" in (tmp_path / "s.yaml").read_text()


def test_columns_that_not_all_files_have_are_named(tmp_path):
    write_csv(tmp_path / "a.csv", {"click": [0, 1] * 50, "user": [f"u{row % 9}" for row in range(100)], "new": [1] * 100})
    write_csv(tmp_path / "b.csv", {"user": [f"u{row % 9}" for row in range(100)], "click": [0, 1] * 50})
    schema = infer(tmp_path / "s.yaml", tmp_path / "*.csv")
    assert schema.columns == ("click", "user")
    assert "Columns new are not in every file" in (tmp_path / "s.yaml").read_text()


def test_rows_that_cannot_be_read_are_told(tmp_path):
    path = write_csv(tmp_path / "log.csv", {"click": [0, 1] * 50, "user": [f"u{row % 9}" for row in range(100)]})
    path.write_text(path.read_text() + "1,u1,more\n")
    infer(tmp_path / "s.yaml", path)
    text = unwrapped((tmp_path / "s.yaml").read_text())
    assert "1 rows could not be read; the first: " in text and "line 102: wrong number of columns: expected 2, received 3" in text


def test_files_named_after_splits_are_the_split(tmp_path):
    columns = {"click": [0, 1] * 50, "user": [f"u{row % 9}" for row in range(100)]}
    for name in ("train-1.csv", "train-2.csv", "validation.csv", "test.csv"):
        write_csv(tmp_path / "log" / name, columns)
    schema = infer(tmp_path / "s.yaml", tmp_path / "log" / "*.csv")
    assert schema.split.model_dump() == {"by": "files", "train": "train-*.csv", "valid": "validation.csv", "test": "test.csv"}
    assert f"--input {tmp_path / 'log'} --schema" in (tmp_path / "s.yaml").read_text()


# ---- Label ----


def label_log(tmp_path: Path, **columns: list) -> Path:
    """60 rows with the columns given, and users that have nothing to do with them."""
    users = np.random.default_rng(7).integers(0, 9, 60)
    return write_csv(tmp_path / "log.csv", columns | {"user": [f"u{user}" for user in users]})


def test_a_label_that_is_not_found_lists_candidates(tmp_path):
    path = label_log(tmp_path, answer=[0, 1] * 30, shop=["a", "b", "c"] * 20)
    message = refused(tmp_path / "s.yaml", path)
    assert "no column is named like a label" in message and "--label COLUMN" in message and "two values are ['answer']" in message
    message = refused(tmp_path / "s.yaml", path, label="anser")
    assert "--label anser: there is no such column" in message and "['answer', 'shop', 'user']" in message
    assert infer(tmp_path / "s.yaml", path, label="answer").label.column == "answer"


def test_two_columns_named_like_labels_are_ambiguous(tmp_path):
    path = label_log(tmp_path, click=[0, 1] * 30, label=[0, 0, 1] * 20)
    message = refused(tmp_path / "s.yaml", path)
    assert "several columns could be the label" in message and "--label click" in message and "'0' (66.7%)" in message
    schema = infer(tmp_path / "s.yaml", path, label="label")
    assert schema.label.column == "label" and "click" not in schema.columns


def test_a_label_with_more_texts_needs_to_be_told(tmp_path):
    path = label_log(tmp_path, rating=[1, 2, 3, 4, 5, 5] * 10)
    message = refused(tmp_path / "s.yaml", path, label="rating")
    path = label_log(tmp_path, label=[1, 2, 3, 4, 5, 5] * 10)
    assert refused(tmp_path / "s.yaml", path) == message.replace("rating", "label")
    path = label_log(tmp_path, rating=[1, 2, 3, 4, 5, 5] * 10)
    assert "has 5 texts: '5' (33.3%)" in message and "--positive TEXT" in message
    label = infer(tmp_path / "s.yaml", path, label="rating", positive=("4", "5")).label
    assert (label.positive, label.negative) == (("4", "5"), ("1", "2", "3"))
    message = refused(tmp_path / "t.yaml", path, label="rating", positive=("6",))
    assert "--positive 6" in message and "these among them" in message


def test_without_clicks_the_other_text_is_known(tmp_path):
    label = infer(tmp_path / "s.yaml", label_log(tmp_path, click=["false"] * 60, shop=["a", "b", "c"] * 20)).label
    assert (label.positive, label.negative) == (("true",), ("false",))


def test_labels_written_as_fractions_are_known(tmp_path):
    label = infer(tmp_path / "s.yaml", label_log(tmp_path, click=["1.0", "0.0", "1.0"] * 20)).label
    assert (label.positive, label.negative) == (("1.0",), ("0.0",)) and "CHECK" not in (tmp_path / "s.yaml").read_text()


def test_unknown_texts_of_a_label_are_doubted(tmp_path):
    label = infer(tmp_path / "s.yaml", label_log(tmp_path, target=["up", "down", "down"] * 20)).label
    assert (label.positive, label.negative) == (("up",), ("down",))
    assert "the rarer one is assumed; CHECK" in unwrapped((tmp_path / "s.yaml").read_text())


def test_rows_without_label_are_counted(tmp_path):
    infer(tmp_path / "s.yaml", label_log(tmp_path, click=["0", "1", ""] * 20))
    assert "50.00% clicks, 33.3% without label." in (tmp_path / "s.yaml").read_text()


# ---- Leaks ----


def profile(name: str, *texts: str | float) -> Profile:
    return Profile.of(name, pa.array([str(text) for text in texts]))


def test_what_a_column_decides_of_the_label():
    label = np.array([0, 1] * 50)
    same, other = [("a", "b")[one] for one in label], ["x", "x", "y", "y"] * 25
    # The correction takes (2 - 1) / (2 * 100) nats from an entropy of ln 2.
    assert leaks.decided_share(profile("same", *same), label) == pytest.approx(1 - 0.005 / np.log(2))
    assert leaks.decided_share(profile("other", *other), label) == 0
    only_after_clicks = [f"{row}" if one else "" for row, one in enumerate(label)]
    assert leaks.decided_share(profile("when", *only_after_clicks), label) > 0.95
    assert leaks.decided_share(profile("same", *same), np.where(label == 1, -1, 0)) == 0  # no clicks, nothing to decide


def test_a_column_that_explains_much_is_kept_with_a_doubt(tmp_path):
    clicked = [0, 1] * 100
    mostly = [f"x{one}" if row % 20 > 1 else f"x{1 - one}" for row, one in enumerate(clicked)]
    columns = {"click": clicked, "mostly": mostly, "user": [f"u{row // 3 % 9}" for row in range(200)]}
    schema = infer(tmp_path / "s.yaml", write_csv(tmp_path / "log.csv", columns))
    assert [field.name for field in schema.fields] == ["mostly", "user"]
    # 90 of 100 rows of each text agree: 1 - H(0.1) / H(0.5) = 0.531, less 0.004 of chance.
    assert "CHECK that it is known before the click: alone it explains 53% of the label's entropy" in unwrapped(
        (tmp_path / "s.yaml").read_text())


def test_a_column_of_its_own_for_each_row_decides_nothing():
    label = np.array([0, 1] * 50)
    assert leaks.decided_share(profile("id", *range(1000, 1100)), label) < 0.3


def test_auc_of_a_column():
    label = np.array([0, 0, 1, 1] * 10)
    assert leaks.auc(profile("score", *[0.1, 0.4, 0.35, 0.8] * 10), label) == pytest.approx(0.75)
    assert leaks.auc(profile("score", *[1, 1, 1, 1] * 10), label) == 0.5
    assert leaks.auc(profile("score", *[0.1, 0.2] * 2), label[:4]) == 0.5  # too few


@pytest.mark.parametrize(("name", "suspicious"), [
    ("conversion", True), ("is_purchase", True), ("propensity_score", True), ("pscore", True), ("click_time", True),
    ("clicks_last_7d", False), ("click_count", False), ("user_ctr", False), ("probability", True), ("item_id", False),
])
def test_names_that_speak_of_the_answer(name, suspicious):
    assert bool(names.suspicion(name)) == suspicious


# ---- Kinds in detail ----


@pytest.mark.parametrize(("name", "numbers", "kind"), [
    ("c1", [0.5, 1.25, *range(40)], "numeric"),
    ("c1", list(range(10)) * 5, "categorical"),  # few
    ("c1", list(range(5000, 5100)), "categorical"),  # dense, far from zero
    ("c1", [0, 1, 1, 2, 3] * 20 + [x * x for x in range(60)], "numeric"),  # long tail
    ("user_id", [0, 1, 1, 2, 3] * 20 + [x * x for x in range(60)], "categorical"),
    ("item_price", list(range(100, 150)), "numeric"),
    ("price_level", list(range(100, 150)), "categorical"),
    ("campaignid", list(range(100, 150)), "categorical"),
])
def test_numbers_are_amounts_or_codes(name, numbers, kind):
    assert guess_single(profile(name, *numbers)).entry["kind"] == kind


def test_a_number_column_with_a_few_stray_texts_stays_numeric():
    guess = guess_single(profile("price", *[f"{x / 7:.3f}" for x in range(3000)], "cheap", "dear"))
    assert guess.entry["kind"] == "numeric" and "0.07% of the cells are not numbers" in guess.notes[0]


def test_min_count_grows_with_the_number_of_values():
    often = [f"v{row % 1500}" for row in range(4500)]
    assert guess_single(profile("c", *often)).entry["min_count"] == 2
    assert "min_count" not in guess_single(profile("c", *often[:1500])).entry  # each once: nothing would be left
    assert "min_count" not in guess_single(profile("c", *["a", "b"] * 50)).entry


@pytest.mark.parametrize(("name", "cells", "key"), [
    ("row_id", range(100), True),
    ("c1", range(1000, 1100), True),  # a run
    ("c1", [x * 50 for x in range(100)], False),
    ("item_price", range(1000, 1100), False),
    ("impression_id", [x * 50 for x in range(100)], True),
    ("c1", [f"x{x}" for x in range(100)], True),
    ("c1", [f"x{x % 90}" for x in range(100)], False),
    ("user", [f"u{max(x, 1)}" for x in range(100)], False),  # one came twice
    ("price", [x / 7 for x in range(1, 100)], False),
])
def test_keys_differ_in_almost_every_row(name, cells, key):
    assert is_key(profile(name, *cells)) == key


@pytest.mark.parametrize(("cells", "separator"), [
    (["a|b", "b|c|a", "c", "a|c"], "|"),
    (["a;b", "b;c;a", "c", "a;c"], ";"),
    (["a,b", "b,c,a", "c", "a,c"], ","),
    (["12 7 9", "7", "9 12", "12 9"], " "),
    (["New York", "New Delhi", "Delhi", "York"], None),
    (["Smith, J", "Smith, K", "Jones, J", "Jones, K", "Jones, L"], None),
    (["2026-01-01 10:00", "2026-01-02 10:00"], None),
    (["1", "2", "12"], None),
])
def test_separators_in_cells(cells, separator):
    found = cells_of_several(profile("c", *cells))
    assert (found and found.separator) == separator


def test_lists_of_the_file_itself():
    lists = Profile.of("c", pa.array([["a", "b"], ["b"], None, ["a", "b", "a"]]))
    assert lists.missing_share == 0.25
    found = cells_of_several(lists)
    assert found.entry == {} and found.parts.longest == 3 and found.parts.repeats_within_cells
    assert cells_of_several(Profile.of("c", pa.array([["a"], ["b"], []]))) is None


def test_bracketed_lists_are_left_out(tmp_path):
    path = label_log(tmp_path, click=[0, 1] * 30, ids=[f'"[{row}, {row % 3}]"' for row in range(60)])
    assert "ids" not in infer(tmp_path / "s.yaml", path).columns
    assert "in brackets, which are not split" in unwrapped((tmp_path / "s.yaml").read_text())


@pytest.mark.parametrize(("name", "texts", "unit"), [
    ("ts", [1_767_225_600, 1_767_225_700, 1_767_225_650], "seconds"),
    ("ts", [1_767_225_600_000, 1_767_225_700_000], "milliseconds"),
    ("ts", [1_767_225_600_000_000, 1_767_225_700_000_000], "microseconds"),
    ("ts", [1_767_225_600_000_000_000, 1_767_225_700_000_000_001], "nanoseconds"),
    ("c1", [1_767_225_600, 1_767_225_700, 1_767_225_800], "seconds"),  # rises from row to row
    ("c1", [1_767_225_600, 1_767_225_800, 1_767_225_700], "none"),
    ("c1", ["2026-01-01T10:00:00Z", "2026-01-01T11:00:00+02:00"], "iso"),
    ("c1", ["2026-01-01", "2026-01-02"], "iso"),
    ("day", [20260131, 20260201], None),
    ("hour", [14102100, 14102123], None),
    ("hour", list(range(24)), "none"),
    ("time_spent", [1_767_225_600, 1_767_225_500], "none"),
    ("time", list(range(1000, 1200)), "seconds"),
])
def test_times_are_known_by_name_range_and_form(name, texts, unit):
    found = guess_time(profile(name, *texts))
    assert (found.unit if found else "none") == unit


def test_days_written_as_numbers_split_by_time(tmp_path):
    path = label_log(tmp_path, click=[0, 1] * 30, date=[20260101 + row // 6 for row in range(60)])
    schema = infer(tmp_path / "s.yaml", path)
    assert schema.timestamp is None
    assert schema.split == TimeSplit(column="date", valid_from=20260109, test_from=20260110) and not schema.split.dated
    assert "valid_from: 20260109, test_from: 20260110" in (tmp_path / "s.yaml").read_text()


def test_times_with_gaps_are_not_the_time_stamp(tmp_path):
    path = label_log(tmp_path, click=[0, 1] * 30, ts=["" if row % 5 == 0 else 1_767_225_600 + row for row in range(60)])
    schema = infer(tmp_path / "s.yaml", path)
    assert schema.timestamp is None and schema.split.key == ("user",)


# ---- Splits ----


def test_without_times_users_stay_together(tmp_path):
    schema = infer(tmp_path / "s.yaml", label_log(tmp_path, click=[0, 1] * 30))
    assert isinstance(schema.split, HashSplit) and schema.split.key == ("user",)
    text = (tmp_path / "s.yaml").read_text()
    assert "all rows of a user stay together" in text and "CHECK" not in text


def test_a_user_that_most_rows_share_is_no_group(tmp_path):
    devices = [f"d{row}" if row % 3 == 0 else "unknown" for row in range(60)]
    columns = {"click": [0, 1] * 30, "device_id": devices, "item": ["a", "a", "b", "b"] * 15}
    assert infer(tmp_path / "s.yaml", write_csv(tmp_path / "log.csv", columns)).group is None


def test_without_users_the_key_splits(tmp_path):
    columns = {"impression_id": [f"x{row}" for row in range(200)], "click": [0, 1] * 100, "item": ["a", "a", "b", "b"] * 50}
    schema = infer(tmp_path / "s.yaml", write_csv(tmp_path / "log.csv", columns))
    assert (schema.key, schema.split.key, schema.group) == ("impression_id", ("impression_id",), None)


def test_a_column_of_splits_is_used(tmp_path):
    path = label_log(tmp_path, click=[0, 1] * 30, split=["train", "train", "dev", "test"] * 15)
    split = infer(tmp_path / "s.yaml", path).split
    assert (split.by, split.train, split.valid, split.test) == ("column", ("train",), ("dev",), ("test",))


def test_a_split_that_leaves_no_rows_says_so(tmp_path):
    path = write_csv(tmp_path / "log.csv", {"click": [0, 1, 0], "item": ["a", "b", "b"]})
    infer(tmp_path / "s.yaml", path)
    text = unwrapped((tmp_path / "s.yaml").read_text())
    assert "A split without rows is an error: CHECK" in text and "3 rows are few" in text


# ---- Names, and what YAML makes of them ----


def test_names_are_made_legal_and_different(tmp_path):
    columns = ["label", "ids", "Group", "group", "my item", "my_item", "größe", "1st", "x" * 70]
    values = {name: [f"v{row % 3}" for row in range(60)] for name in columns} | {"label": [0, 1] * 30}
    schema = infer(tmp_path / "s.yaml", write_csv(tmp_path / "log.csv", values))
    assert {field.source: field.name for field in schema.fields} == {
        "ids": "column_ids", "Group": "Group", "group": "column_group", "my item": "my_item", "my_item": "my_item_2",
        "größe": "gr_e", "1st": "column_1st", "x" * 70: "x" * 64,
    }


def test_hostile_texts_do_not_break_the_file(tmp_path):
    hostile = ["#", ": a", "- b", "'\"", "\x07\x1b", "\u2028", "日本", "🎉", "{x}", "[y]", "%", "&a", "null", "yes", "1e3"]
    path = tmp_path / "log.csv"
    rows = "".join(f'{row % 2},"{text.replace(chr(34), chr(34) * 2)}",u{row % 9}\n' for row, text in enumerate(hostile * 8))
    path.write_text(f'click,"no: #1 {{""x""}}",user\n{rows}', encoding="utf-8")
    schema = infer(tmp_path / "s.yaml", path)
    assert [(field.name, field.source) for field in schema.fields] == [("no_1_x", 'no: #1 {"x"}'), ("user", "user")]
    assert schema.missing == ("null",)
    assert load_schema(tmp_path / "s.yaml") == schema


def test_a_nameless_index_column_is_left_out(tmp_path):
    columns = {"": list(range(60)), "click": [0, 1] * 30, "user": [f"u{row % 9}" for row in range(60)]}
    schema = infer(tmp_path / "s.yaml", write_csv(tmp_path / "log.csv", columns))
    assert schema.columns == ("click", "user") and schema.key is None


# ---- What is refused ----


def test_an_existing_file_is_left_alone(tmp_path):
    path = label_log(tmp_path, click=[0, 1] * 30)
    output = tmp_path / "schema.yaml"
    output.write_text("mine")
    with pytest.raises(UserError, match="the file exists, and is left alone"):
        infer(output, path)
    assert output.read_text() == "mine"
    assert infer(output, path, overwrite=True).name == tmp_path.name.replace("-", "_")[:64]


def test_no_files_no_rows_one_column(tmp_path):
    assert "no file matches" in refused(tmp_path / "s.yaml", tmp_path / "*.csv")
    path = tmp_path / "log.csv"
    path.write_text("")
    assert "is empty" in refused(tmp_path / "s.yaml", path)
    path.write_text("click,user,item\n")
    assert "but no rows" in refused(tmp_path / "s.yaml", path)
    path.write_text("click;user\n0;u1\n1;u2\n")
    assert "has a single column" in refused(tmp_path / "s.yaml", path)
    path.write_text("click;user;item\n0;u1;a\n1;u2;b\n")
    assert "separated by semicolons" in refused(tmp_path / "s.yaml", path)
    path.write_text("click\tuser\n0\tu1\n")
    assert "has a single column" in refused(tmp_path / "s.yaml", path, separator=",")
    path.write_text('"click,user\n1,2\n')
    assert "cannot be read as text in columns (line 1: opening quote is never closed)" in refused(tmp_path / "s.yaml", path)
    path.write_text("click,user\n1,2,3\n1,2,4\n")
    assert "no row of" in refused(tmp_path / "s.yaml", path)


def test_no_feature_left(tmp_path):
    path = write_csv(tmp_path / "log.csv", {"click": [0, 1] * 30, "row_id": list(range(60)), "shop": ["a"] * 60})
    message = refused(tmp_path / "s.yaml", path)
    assert "no column with one value a cell is left for a feature" in message and "shop: it is always 'a'" in message


def test_files_that_do_not_belong_together(tmp_path):
    write_csv(tmp_path / "a.tsv", {"c": [0, 1], "d": ["x", 5], "e": [2, 3]}, "\t", header=False)
    write_csv(tmp_path / "b.tsv", {"d": ["x", 5], "e": [2, 3]}, "\t", header=False)
    message = refused(tmp_path / "s.yaml", tmp_path / "*.tsv")
    assert "b.tsv has 2 columns and" in message and "has 3: files without a header line" in message
    write_csv(tmp_path / "a.csv", {"click": [0, 1], "user": ["x", "y"]})
    write_csv(tmp_path / "b.csv", {"shop": [0, 1], "item": ["x", "y"]})
    assert "no column in common" in refused(tmp_path / "s.yaml", tmp_path / "*.csv")


@pytest.mark.parametrize(("flags", "expected"), [
    (["--infer_schema", "s.yaml", "--output", "data"], "leave out --output"),
    (["--infer_schema", "s.yaml", "--sample_rows", "0"], "expected at least 1, received 0"),
    (["--infer_schema", "s.yaml", "--lable", "click"], "does not know --lable click"),
    (["--schema", "s.yaml", "--output", "data", "--label", "click"], "--label has a meaning with --infer_schema FILE only"),
])
def test_flags_that_do_not_go_together(flags, expected, capsys):
    assert task.main(["--input", "log.csv", *flags]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


# ---- Parquet ----


def typed_log() -> pa.Table:
    rng = np.random.default_rng(11)
    start = np.datetime64("2026-02-01T00:00", "us")
    users = rng.integers(0, 30, 300)
    return pa.table({
        "clicked": pa.array(rng.random(300) < 0.3),
        "when": pa.array(start + np.arange(300) * np.timedelta64(30, "m")),
        "user_id": pa.array(users.astype(float), mask=users == 3),  # as pandas stores whole numbers beside nulls
        "price": pa.array(rng.lognormal(1, 1, 300)),
        "image": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=900).astype(np.float32)), 3),
        "tags": pa.array([["a", "b"][: row % 3] for row in range(300)]),
        "parts": pa.array([{"a": row} for row in range(300)]),
    })


def test_parquet_columns_of_many_types(tmp_path):
    schema = infer(tmp_path / "s.yaml", write_parquet(tmp_path / "log.parquet"))
    assert "separator:" not in (tmp_path / "s.yaml").read_text()
    assert (schema.label.positive, schema.label.negative, schema.group) == (("1",), ("0",), "user_id")
    assert schema.timestamp.column == "when" and schema.split.by == "time"
    assert by_name(schema) == {
        "user_id": {"kind": "categorical"}, "price": {"kind": "numeric"}, "image": {"kind": "vector", "size": 3},
        "tags": {"kind": "multivalued", "max_length": 2},
    }


def test_files_may_store_a_column_in_different_types(tmp_path):
    table = pa.table({"click": [0, 1] * 30, "user": [row // 20 for row in range(60)]})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.set_column(1, "user", pa.array([f"{row // 20}" for row in range(60)])), tmp_path / "b.parquet")
    infer(tmp_path / "s.yaml", tmp_path / "*.parquet")
    assert "user: 3 different, none missing" in (tmp_path / "s.yaml").read_text()


# ---- Other formats ----


def test_libsvm_libfm_and_libffm(tmp_path):
    rng = np.random.default_rng(2)
    rows = [(label, *rng.integers(0, (40, 30, 9)).tolist()) for label in clicks(rng, 300)]
    lines = {
        "libsvm": [f"{y} 1:{a / 7:.3f} 2:{b}" + f" 9:{c}" * (c < 5) for y, a, b, c in rows],
        "libfm": [f"{y} {a}:1 {40 + b}:1 {70 + c}:1" for y, a, b, c in rows],
        "libffm": [f"{y} 0:{a}:1 1:{40 + b}:1 2:{70 + c}:1" + f" 2:{71 + c}:1" * (c < 5) for y, a, b, c in rows],
    }
    kinds = {}
    for form, content in lines.items():
        (tmp_path / f"log.{form}").write_text("\n".join(content) + "\n")
        schema = infer(tmp_path / f"{form}.yaml", tmp_path / f"log.{form}")
        kinds[form] = [(field.source, field.kind) for field in schema.fields]
        assert "indices: LEFT OUT: its values stand in the other columns too" in (tmp_path / f"{form}.yaml").read_text()
    assert kinds == {
        "libsvm": [("1", "numeric"), ("2", "categorical"), ("9", "categorical")],
        "libfm": [("1", "categorical"), ("2", "categorical"), ("3", "categorical")],
        "libffm": [("0", "categorical"), ("1", "categorical"), ("2", "multivalued")],
    }
    assert schema.split.key == ("0", "1")  # a list is nothing to split by


def test_tfrecord_of_examples(tmp_path):
    rng = np.random.default_rng(4)
    start = 1_767_225_600_000
    with tf.io.TFRecordWriter(str(tmp_path / "log.tfrecord")) as writer:
        for row, click in enumerate(clicks(rng, 200)):
            features = {
                "click": tf.train.Feature(int64_list=tf.train.Int64List(value=[click])),
                "ts": tf.train.Feature(int64_list=tf.train.Int64List(value=[start + row * 60_000])),
                "user": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"u%d" % (row * 7 % 20)])),
                "price": tf.train.Feature(float_list=tf.train.FloatList(value=[rng.random()] if row % 4 else [])),
                "tags": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b", b"c"][: row % 4])),
                "image": tf.train.Feature(float_list=tf.train.FloatList(value=rng.normal(size=2))),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    schema = infer(tmp_path / "s.yaml", tmp_path / "log.tfrecord")
    assert (schema.label.column, schema.group, schema.split.by) == ("click", "user", "time")
    assert schema.timestamp.unit == "milliseconds"
    assert by_name(schema) == {
        "image": {"kind": "vector", "size": 2}, "price": {"kind": "numeric"}, "user": {"kind": "categorical"},
        "tags": {"kind": "multivalued", "max_length": 3},
    }


def test_text_with_stray_quotes_is_read_without_quoting(tmp_path):
    path = tmp_path / "log.csv"
    rows = "".join(f'{row % 2},"size {row % 7},u{row * 5 % 11}\n' for row in range(199))  # an odd number of quotes
    path.write_text("click,query,user\n" + rows)
    schema = infer(tmp_path / "s.yaml", path)
    assert not schema.quoted
    assert [field.name for field in schema.fields] == ["query", "user"]
    path.write_text(path.read_text().replace('"size', "size"))
    assert infer(tmp_path / "s.yaml", path, overwrite=True).quoted


# ---- From end to end ----


def write_parquet(path: Path) -> Path:
    pq.write_table(typed_log(), path)
    return path


@pytest.mark.parametrize(("name", "write"), [
    ("log.csv", lambda path: write_csv(path, shop_log())),
    ("log.tsv", write_headerless),
    ("log.parquet", write_parquet),
])
def test_a_guessed_schema_preprocesses_as_it_stands(tmp_path, capsys, name, write):
    log, schema, output = write(tmp_path / name), tmp_path / "guessed.yaml", tmp_path / "data"
    assert task.main(["--input", str(log), "--infer_schema", str(schema)]) == 0
    shown = capsys.readouterr().out
    command = f"python -m preprocessing.task --input {log} --schema {schema} --output DIR"
    assert command in shown and command in schema.read_text()
    assert task.main([*shlex.split(command)[3:-1], str(output)]) == 0
    splits = json.loads((output / "manifest.json").read_text())["splits"]
    assert sum(split["rows"] for split in splits.values()) in (ROWS, 400, 300)
    assert all(split["rows"] for split in splits.values())
