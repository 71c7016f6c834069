"""Typed rows: what each column is to the schema, and which rows are malformed."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.errors import UserError
from preprocessing.rows import read_rows, typed
from preprocessing.schema import parse_schema
from preprocessing.sources import Batch, Descriptor


def read(tmp_path, text, **changes):
    """The rows of a log: the text of a CSV file, or columns of other types, as other formats give them."""
    schema = parse_schema({
        "name": "log",
        "label": {"column": "y", "positive": ["1", "yes"], "negative": ["0"]},
        "missing": ["NULL"],
        "split": {"by": "hash", "key": ["a"]},
        "fields": [{"name": "a", "kind": "categorical"}, {"name": "n", "kind": "numeric"}],
    } | changes, "schema.yaml")
    if isinstance(text, dict):
        columns = pa.RecordBatch.from_pydict(text)
        return typed(Batch(columns, [], 0, lambda places: [(place + 1, "") for place in places]), schema, None)
    path = tmp_path / "log.csv"
    path.write_text(text)
    (rows,) = read_rows(Descriptor(0, 1, str(path)), schema)
    return rows


def reasons(rows):
    return [(line, reason) for line, reason, _ in rows.rejections]


KINDS = [
    {"name": "a", "kind": "categorical"},
    {"name": "n", "kind": "numeric"},
    {"name": "history", "kind": "sequence", "column": "h", "separator": " ", "max_length": 2},
    {"name": "image", "kind": "vector", "column": "v", "size": 2},
    {"name": "text", "kind": "vector", "column": "t", "size": 9, "table": {"file": "t.npz", "key": "k", "values": "v"}},
]


def test_features_of_every_kind(tmp_path):
    rows = read(tmp_path, """y,a,n,h,v,t
1,x,1.5,p q  NULL r,1|2,k1
0,NULL,,,,NULL
1,1|2,x,p,1|2,k1
1,x,1,p,1|2|3,k1
1,x,1,p,1|nan,k1
""", fields=KINDS)
    assert rows.features["a"].to_pylist() == ["x", None]
    np.testing.assert_array_equal(rows.features["n"], np.array([1.5, np.nan], np.float32))
    assert rows.features["history"].to_pylist() == [["p", "q", "r"], []]
    np.testing.assert_array_equal(rows.features["image"], np.array([[1, 2], [np.nan, np.nan]], np.float32))
    assert rows.features["text"].to_pylist() == ["k1", None]
    assert reasons(rows) == [
        (4, "field 'n' (column 'n') is not a number"),
        (5, "field 'image' (column 'v') has another number of numbers than 2"),
        (6, "field 'image' (column 'v') has numbers that are missing or infinite beside others"),
    ]


def test_the_same_log_as_text_and_in_other_types(tmp_path):
    text = "y,a,n,h,v,t,when\n1,7,3,p q,1|2,k1,1970-01-02\n0,,,,,,1970-01-01T00:00:01\n1,8,-1,r,3|4,k2,1970-01-03\n"
    columns = {
        "y": [1.0, 0.0, 1.0], "a": [7.0, None, 8.0], "n": [3, None, -1], "h": [["p", "q"], None, ["r"]],
        "v": [[1.0, 2.0], None, [3.0, 4.0]], "t": pa.array(["k1", None, "k2"]).dictionary_encode(),
        "when": pa.array([86400, 1, 2 * 86400], pa.timestamp("s")),
    }
    settings = {"fields": KINDS, "timestamp": {"column": "when", "unit": "iso"}, "key": "a", "group": "t", "missing": ["NULL", "-1"]}
    one, two = read(tmp_path, text, **settings), read(tmp_path, columns, **settings)
    assert one.rejections == two.rejections == []
    for name, column in one.features.items():
        if isinstance(column, pa.Array):
            assert column.to_pylist() == two.features[name].to_pylist(), name
        else:
            np.testing.assert_array_equal(column, two.features[name], name)
    for name in ("label", "split", "group", "timestamp"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    assert one.timestamp.tolist() == [86_400_000_000, 1_000_000, 172_800_000_000]
    assert one.key.to_pylist() == two.key.to_pylist() == ["7", "", "8"]
    assert np.isnan(one.features["n"][1:]).all()


@pytest.mark.parametrize("text", ["ten", "1,5"])
def test_text_in_a_numeric_field_rejects_the_row(tmp_path, text):
    rows = read(tmp_path, f'y,a,n\n1,x,1\n0,x,"{text}"\nyes,z,2\n')
    assert rows.features["a"].to_pylist() == ["x", "z"]
    assert rows.features["n"].tolist() == [1, 2]
    assert rows.label.tolist() == [1, 1]
    assert rows.rejections == [(3, "field 'n' (column 'n') is not a number", f'0,x,"{text}"')]


def test_a_list_in_a_single_value_rejects_the_row(tmp_path):
    rows = read(tmp_path, {"y": ["1", "0"], "a": [["u"], ["u", "v"]], "n": [[1.5], []]})
    assert (rows.features["a"].to_pylist(), rows.features["n"].tolist()) == (["u"], [1.5])
    assert reasons(rows) == [(2, "field 'a' (column 'a') holds several values, expected one")]


def test_a_column_of_a_type_that_cannot_be_read_is_a_user_error(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"y": [1], "a": ["x"], "n": pa.array([3600], pa.time32("s"))}), path)
    schema = parse_schema({"name": "log", "label": {"column": "y"}, "split": {"by": "hash", "key": ["a"]},
                           "fields": [{"name": "n", "kind": "numeric"}]}, "schema.yaml")
    with pytest.raises(UserError, match=r"file .*log\.parquet: field 'n' \(column 'n'\) has the type time32\[ms\], expected texts"):
        list(read_rows(Descriptor(0, 1, str(path)), schema))


def test_another_label_rejects_the_row(tmp_path):
    rows = read(tmp_path, "y,a,n\n1,x,1\n2,x,1\n0,x,oops\n0,x,1\n")
    assert rows.label.tolist() == [1, 0]
    assert reasons(rows) == [
        (3, "label (column 'y') is neither positive ['1', 'yes'] nor negative ['0']"),
        (4, "field 'n' (column 'n') is not a number"),
    ]


def test_rows_without_label_are_marked_or_rejected(tmp_path):
    text = "y,a,n\n1,x,1\n,x,2\nNULL,x,3\n0,x,4\n"
    rows = read(tmp_path, text)
    assert (rows.label.tolist(), rows.rejections) == ([1, -1, -1, 0], [])
    rows = read(tmp_path, text, label={"column": "y", "unlabelled": "reject"})
    assert rows.label.tolist() == [1, 0]
    assert reasons(rows) == [(3, "label (column 'y') is missing"), (4, "label (column 'y') is missing")]


def test_the_first_reason_of_a_row_counts(tmp_path):
    rows = read(tmp_path, "y,a,n\n2,x,oops\n1,x,1\n")
    assert len(rows.rejections) == 1 and rows.rejections[0].reason.startswith("label")


def test_time_split_and_timestamp(tmp_path):
    split = {"by": "time", "column": "t", "valid_from": 10, "test_from": 20}
    text = "y,a,n,t\n1,x,1,5\n1,x,1,15\n1,x,1,25\n1,x,1,\n1,x,1,soon\n"
    rows = read(tmp_path, text, split=split, timestamp="t")
    assert rows.split.tolist() == [0, 1, 2]
    assert rows.timestamp.tolist() == [5_000_000, 15_000_000, 25_000_000]
    assert reasons(rows) == [
        (5, "timestamp (column 't') is missing or out of range"), (6, "timestamp (column 't') is not a number"),
    ]


@pytest.mark.parametrize(("texts", "timestamp"), [
    (("1970-01-01T23:59:59.999999", "1970-01-02", "1970-01-03T00:00:00+00:00"), None),
    (("86399.9", "86400", "172800"), "t"),
])
def test_time_split_by_dates(tmp_path, texts, timestamp):
    split = {"by": "time", "column": "t", "valid_from": "1970-01-02", "test_from": "1970-01-03T00:00:00Z"}
    text = "y,a,n,t\n" + "".join(f"1,x,1,{when}\n" for when in (*texts, "soon"))
    rows = read(tmp_path, text, split=split, **({"timestamp": timestamp} if timestamp else {}))
    assert rows.split.tolist() == [0, 1, 2]
    assert [line for line, _ in reasons(rows)] == [5]


def test_time_split_by_a_number_that_is_missing(tmp_path):
    split = {"by": "time", "column": "t", "valid_from": 10, "test_from": 20}
    rows = read(tmp_path, "y,a,n,t\n1,x,1,15.5\n1,x,1,\n1,x,1,inf\n", split=split)
    assert rows.split.tolist() == [1]
    assert reasons(rows) == [(line, "split (column 't') is missing or infinite") for line in (3, 4)]


def test_weights(tmp_path):
    rows = read(tmp_path, "y,a,n,w\n1,x,1,0.5\n1,x,1,0\n1,x,1,-1\n1,x,1,\n1,x,1,1e39\n1,x,1,heavy\n", weight="w")
    assert (rows.weight.dtype, rows.weight.tolist()) == (np.float32, [0.5, 0])
    bad = "weight (column 'w') is missing, negative or infinite"
    assert reasons(rows) == [(4, bad), (5, bad), (6, bad), (7, "weight (column 'w') is not a number")]


def test_a_row_whose_split_column_names_none_is_rejected(tmp_path):
    rows = read(tmp_path, "y,a,n,s\n1,x,1,test\n1,x,1,tset\n", split={"by": "column", "column": "s"})
    assert rows.split.tolist() == [2]
    assert rows.rejections == [(3, "column 's' names none of the splits", "1,x,1,tset")]


def test_groups_are_positive_and_follow_their_text(tmp_path):
    rows = read(tmp_path, "y,a,n\n1,u,1\n1,v,1\n1,u,1\n", group="a")
    assert rows.group.dtype == np.int64 and (rows.group >= 0).all()
    assert rows.group[0] == rows.group[2] != rows.group[1]


def test_missing_groups_and_keys_are_one_group(tmp_path):
    rows = read(tmp_path, "y,a,n\n1,,1\n1,NULL,1\n1,u,1\n", group="a", key="a", split={"by": "hash", "key": ["a", "n"]})
    assert rows.group[0] == rows.group[1] != rows.group[2]
    assert rows.split[0] == rows.split[1]
    assert rows.key.to_pylist() == ["", "", "u"]


def test_rows_taken_by_a_mask(tmp_path):
    settings = {"fields": KINDS, "key": "a", "weight": "w", "group": "a", "timestamp": "n"}
    rows = read(tmp_path, "y,a,n,h,v,t,w\n1,x,1,p,1|2,k,3\n0,z,2,q r,3|4,,4\n", **settings)
    taken = rows.take(np.array([False, True]))
    assert [taken.features[name].to_pylist() for name in ("a", "history", "text")] == [["z"], [["q", "r"]], [None]]
    assert [taken.features[name].tolist() for name in ("n", "image")] == [[2], [[3, 4]]]
    assert (len(taken), taken.label.tolist(), taken.key.to_pylist(), taken.weight.tolist()) == (1, [0], ["z"], [4])
    assert (taken.timestamp.tolist(), taken.group.tolist()) == ([2_000_000], [rows.group[1]])
    assert rows.take(np.array([True, True])) is rows
