"""The transform graph on values that a reader can look up by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from preprocessing import transform
from preprocessing.schema import parse_schema

LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """color: red, then green; empty: never a value; price: buckets (-inf, 1), [1, 10), [10, inf); same: one bucket."""
    data_dir = tmp_path_factory.mktemp("transform")
    schema = parse_schema({
        "name": "shop",
        "label": {"column": "click"},
        "missing": ["NULL"],
        "split": {"by": "hash", "key": ["color"]},
        "fields": [
            {"name": "color", "kind": "categorical"},
            {"name": "price", "kind": "numeric"},
            {"name": "empty", "kind": "categorical"},
            {"name": "same", "kind": "numeric"},
        ],
    }, "shop.yaml").resolve({"color": 5, "price": 5, "empty": 2, "same": 3})
    (data_dir / transform.VOCABULARIES).mkdir()
    (data_dir / transform.VOCABULARIES / "color.txt").write_text("red\ngreen\n blue, or so\n")
    (data_dir / transform.VOCABULARIES / "empty.txt").write_text("")
    scales = {"price": transform.Scale((1.0, 10.0), 4.0, 2.0), "same": transform.Scale((), 7.0, 1.0)}
    transform.write_buckets(data_dir, scales)
    assert transform.read_buckets(data_dir) == scales
    transform.write_transform(schema, data_dir)
    return data_dir, schema, tft.TFTransformOutput(str(data_dir)).transform_features_layer()


def apply(folder, color, price):
    layer = folder[2]
    rows = len(color)
    outputs = layer({
        "color": tf.constant(color, tf.string), "price": tf.constant(price, tf.float32),
        "empty": tf.constant(["anything", "", "NULL"][:rows], tf.string),
        "same": tf.constant([7.0, 9.0, np.nan][:rows], tf.float32),
    })
    return outputs["ids"].numpy(), outputs["values"].numpy()


def test_rows_of_categorical_values(folder):
    rows = {"red": 2, "green": 3, " blue, or so": 4, "blue, or so": 1, "Red": 1, "": 0, "NULL": 0}
    for color, row in rows.items():
        ids, _ = apply(folder, [color], [1.0])
        assert ids[0, 0] == row, color


def test_rows_and_values_of_numbers(folder):
    cases = [
        (0.999, 2, -1.5005), (1.0, 3, -1.5), (9.999, 3, 2.9995), (10.0, 4, 3.0), (-6.5, 2, -5.0), (1e9, 4, 5.0),
        (np.nan, 0, 0.0), (np.inf, 4, 5.0), (-np.inf, 2, -5.0), (LARGEST, 4, 5.0), (-LARGEST, 2, -5.0),
    ]
    for price, row, value in cases:
        ids, values = apply(folder, ["red"], [price])
        assert ids[0, 1] == row, price
        assert values[0, 0] == pytest.approx(value, rel=1e-6), price


def test_an_empty_vocabulary_and_a_single_bucket(folder):
    ids, values = apply(folder, ["red"] * 3, [1.0] * 3)
    assert ids[:, 2:].tolist() == [[1, 2], [0, 2], [0, 0]]
    assert values[:, 1].tolist() == [0.0, 2.0, 0.0]


def test_shapes_and_types_also_of_no_rows(folder):
    ids, values = apply(folder, [], [])
    assert (ids.shape, ids.dtype, values.shape, values.dtype) == ((0, 4), np.int64, (0, 2), np.float32)


def test_an_absent_feature_is_missing(folder):
    _, schema, layer = folder
    parsed = tf.io.parse_example([tf.train.Example().SerializeToString()], transform.raw_feature_spec(schema))
    outputs = layer(parsed)
    assert outputs["ids"].numpy().tolist() == [[0, 0, 0, 0]]
    assert outputs["values"].numpy().tolist() == [[0.0, 0.0]]


def test_the_graph_carries_its_vocabularies_and_knows_its_inputs(folder):
    data_dir, _, _ = folder
    output = tft.TFTransformOutput(str(data_dir))
    assert output.raw_feature_spec().keys() == {"color", "price", "empty", "same"}
    assert (data_dir / "transform_fn" / "assets" / "color.txt").read_text() == "red\ngreen\n blue, or so\n"
    assert json.loads((data_dir / "buckets.json").read_text())["price"]["boundaries"] == [1.0, 10.0]
