"""Typed rows and serialized records."""

import numpy as np
import pytest
import tensorflow as tf

from preprocessing.records import serialize_records
from preprocessing.rows import read_rows
from preprocessing.schema import parse_schema
from preprocessing.sources import Descriptor


def read(tmp_path, text, **changes):
    schema = parse_schema({
        "name": "log",
        "label": {"column": "y", "positive": ["1", "yes"], "negative": ["0"]},
        "missing": ["NULL"],
        "split": {"by": "hash", "key": ["a"]},
        "fields": [{"name": "a", "kind": "categorical"}, {"name": "n", "kind": "numeric"}],
    } | changes, "schema.yaml")
    path = tmp_path / "log.csv"
    path.write_text(text)
    (rows,) = read_rows(Descriptor(0, 1, str(path)), schema)
    return rows


def test_numbers_missing_texts_and_infinities(tmp_path):
    texts = ["1.5", "-2e3", "", "NULL", "NaN", "inf", "1e308", "-Infinity", " 7 ", ".5", "5.", "+3"]
    rows = read(tmp_path, "y,a,n\n" + "\n".join(f"1,x,{text}" for text in texts) + "\n")
    expected = [1.5, -2000, np.nan, np.nan, np.nan, np.inf, np.inf, -np.inf, 7, 0.5, 5, 3]
    np.testing.assert_array_equal(rows.features["n"], np.array(expected, np.float32))
    assert rows.rejections == []


@pytest.mark.parametrize("text", ["ten", "1,5", "1_000", "0x10", "1e", "--1", "1 2", "N/A"])
def test_text_in_a_numeric_field_rejects_the_row(tmp_path, text):
    rows = read(tmp_path, f'y,a,n\n1,x,1\n0,x,"{text}"\nyes,z,2\n')
    assert rows.features["a"].to_pylist() == ["x", "z"]
    assert rows.features["n"].tolist() == [1, 2]
    assert rows.label.tolist() == [1, 1]
    assert rows.rejections == [(3, "field 'n' (column 'n') is not a number", f'0,x,"{text}"')]


def test_another_label_rejects_the_row(tmp_path):
    rows = read(tmp_path, "y,a,n\n1,x,1\n2,x,1\n,x,1\n0,x,oops\n0,x,1\n")
    assert rows.label.tolist() == [1, 0]
    label = "label (column 'y') is neither positive ['1', 'yes'] nor negative ['0']"
    assert [(line, reason) for line, reason, _ in rows.rejections] == [
        (3, label), (4, label), (5, "field 'n' (column 'n') is not a number"),
    ]


def test_the_first_reason_of_a_row_counts(tmp_path):
    rows = read(tmp_path, "y,a,n\n2,x,oops\n1,x,1\n")
    assert len(rows.rejections) == 1 and rows.rejections[0].reason.startswith("label")


def test_time_split_and_timestamp(tmp_path):
    split = {"by": "time", "column": "t", "valid_from": 10, "test_from": 20}
    text = "y,a,n,t\n1,x,1,5\n1,x,1,15\n1,x,1,25\n1,x,1,\n1,x,1,soon\n"
    rows = read(tmp_path, text, split=split, timestamp="t")
    assert rows.split.tolist() == [0, 1, 2]
    assert rows.timestamp.tolist() == [5, 15, 25]
    assert [(line, reason) for line, reason, _ in rows.rejections] == [
        (5, "timestamp (column 't') is missing or infinite"), (6, "timestamp (column 't') is not a number"),
    ]


def test_a_row_whose_split_column_names_none_is_rejected(tmp_path):
    rows = read(tmp_path, "y,a,n,s\n1,x,1,test\n1,x,1,tset\n", split={"by": "column", "column": "s"})
    assert rows.split.tolist() == [2]
    assert rows.rejections == [(3, "column 's' names none of the splits", "1,x,1,tset")]


def test_groups_are_positive_and_follow_their_text(tmp_path):
    rows = read(tmp_path, "y,a,n\n1,u,1\n1,v,1\n1,u,1\n", group="a")
    assert rows.group.dtype == np.int64 and (rows.group >= 0).all()
    assert rows.group[0] == rows.group[2] != rows.group[1]


def test_records_are_what_protobuf_reads():
    ids = np.array([[0, 127, 128], [300, 2**40, 1]])
    values = np.array([[0.5, -1], [np.float32(1e30), 0]], np.float32)
    records = serialize_records(ids, values, np.array([1, 0]), np.array([2**63 - 1, 0]), np.array([1.5, 2.5]))
    for row, record in enumerate(records.to_pylist()):
        features = tf.train.Example.FromString(record).features.feature
        assert features["ids"].int64_list.value == ids[row].tolist()
        assert features["values"].float_list.value == values[row].tolist()
        assert features["label"].int64_list.value == [1 - row]
        assert features["group"].int64_list.value == [(2**63 - 1) * (1 - row)]
        assert features["timestamp"].float_list.value == [1.5 + row]
        assert len(features) == 5


def test_records_without_numbers_group_or_time():
    (record,) = serialize_records(np.array([[7]]), np.zeros([1, 0], np.float32), np.array([0]), None, None).to_pylist()
    parsed = tf.io.parse_single_example(record, {
        "ids": tf.io.FixedLenFeature([1], tf.int64), "values": tf.io.FixedLenFeature([0], tf.float32),
        "label": tf.io.FixedLenFeature([1], tf.int64),
    })
    received = {name: tensor.numpy().tolist() for name, tensor in parsed.items()}
    assert received == {"ids": [7], "values": [], "label": [0]}
    none = serialize_records(np.zeros([0, 1], int), np.zeros([0, 0], np.float32), np.zeros(0, int), None, None)
    assert len(none) == 0
