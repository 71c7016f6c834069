"""Serialized records, against protobuf and tf.io."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from preprocessing.encoded import Encoded
from preprocessing.records import serialize_features, serialize_records
from preprocessing.rows import Rows


def parsed(record):
    """A record as protobuf reads it: by feature name, the values."""
    features = tf.train.Example.FromString(record).features.feature
    return {name: list(getattr(feature, feature.WhichOneof("kind")).value) for name, feature in features.items()}


def test_everything_a_record_may_hold():
    encoded = Encoded(
        ids=np.array([[0, 127, 128], [300, 2**40, 1]]),
        values=np.array([[0.5, -1], [1e30, 0]], np.float32),
        lists={"history": (np.array([5, 6, 300]), np.array([0, 3])), "genres": (np.array([2]), np.array([1, 0]))},
        uncut_lengths={},
        vectors={"image": (np.array([[1, 2], [0, 0]], np.float32), np.array([0, 1]))},
        vector_rows={"text": np.array([0, 7])},
    )
    rows = Rows(features={}, label=np.array([1, -1]), split=np.zeros(2, np.int8), group=np.array([2**63 - 1, 0]),
                timestamp=np.array([-1, 1_700_000_000_123_456]), key=pa.array(["r\xf6w", ""]),
                weight=np.array([0.25, 3], np.float32), rejections=[], bytes_read=0)
    first, second = map(parsed, serialize_records(encoded, rows).to_pylist())
    assert first == {
        "ids": [0, 127, 128], "values": [0.5, -1], "label": [1], "group": [2**63 - 1], "timestamp": [-1], "weight": [0.25],
        "key": ["r\xf6w".encode()], "genres": [2], "image": [1, 2], "image_missing": [0], "text": [0],
    }
    assert second == {
        "ids": [300, 2**40, 1], "values": [np.float32(1e30), 0], "group": [0], "timestamp": [1_700_000_000_123_456],
        "weight": [3], "key": [b""], "history": [5, 6, 300], "image": [0, 0], "image_missing": [1], "text": [7],
    }


def test_absent_features_are_read_as_defaults():
    records = serialize_features({"label": (np.array([1]), np.array([0, 1])), "genres": (np.array([4, 5]), np.array([2, 0]))})
    found = tf.io.parse_example(records.to_pylist(), {
        "label": tf.io.FixedLenFeature([1], tf.int64, -1), "genres": tf.io.RaggedFeature(tf.int64)})
    assert found["label"].numpy().tolist() == [[-1], [1]]
    assert found["genres"].to_list() == [[4, 5], []]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**31, 2**32, 2**56, 2**63 - 1, -1, -2**63])
def test_integers_of_every_length(number):
    records = serialize_features({"n": np.array([[number, 3], [3, 3]])}).to_pylist()
    assert [parsed(record)["n"] for record in records] == [[number, 3], [3, 3]]


def test_equal_rows_are_equal_bytes_whatever_stands_beside_them():
    rng = np.random.default_rng(0)
    ids, values = rng.integers(0, 2**30, (50, 3)), rng.normal(size=(50, 2)).astype(np.float32)
    whole = serialize_features({"ids": ids, "values": values}).to_pylist()
    for row in (0, 7, 49):
        assert serialize_features({"ids": ids[row : row + 1], "values": values[row : row + 1]}).to_pylist() == [whole[row]]


def test_no_numbers_and_no_rows():
    (record,) = serialize_features({"ids": np.array([[7]]), "values": np.zeros([1, 0], np.float32)}).to_pylist()
    found = tf.io.parse_single_example(record, {"ids": tf.io.FixedLenFeature([1], tf.int64), "values": tf.io.FixedLenFeature([0], tf.float32)})
    assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {"ids": [7], "values": []}
    assert len(serialize_features({"ids": np.zeros([0, 1], int), "values": np.zeros([0, 0], np.float32)})) == 0


def test_features_stand_in_the_order_given():
    one, two = (serialize_features({name: np.array([[1]]) for name in names}).to_pylist() for names in (("a", "b"), ("b", "a")))
    assert one != two
    assert parsed(one[0]) == parsed(two[0])
