"""The transform graph on values that a reader can look up by hand; as it is served, and as preprocessing runs it."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from preprocessing import transform
from preprocessing.schema import VECTORS, VOCABULARIES, parse_schema
from preprocessing.transform import Transformer
from preprocessing.values import RowReasons, lists, texts

LARGEST = float(np.finfo(np.float32).max)
HASHED = tf.strings.to_hash_bucket_fast(["ann", "bob"], 5).numpy() + 2
TABLE = {"file": "t.npz", "key": "k", "values": "v"}
FIELDS = [
    {"name": "color", "kind": "categorical"},
    {"name": "price", "kind": "numeric"},
    {"name": "empty", "kind": "categorical"},
    {"name": "same", "kind": "numeric"},
    {"name": "shade", "kind": "categorical", "vocabulary": "color"},
    {"name": "user", "kind": "categorical", "hash_buckets": 5},
    {"name": "seen", "kind": "sequence", "vocabulary": "color", "max_length": 2},
    {"name": "tags", "kind": "multivalued", "max_length": 2},
    {"name": "friends", "kind": "multivalued", "vocabulary": "empty"},
    {"name": "image", "kind": "vector", "size": 2},
    {"name": "item", "kind": "vector", "size": 3, "table": TABLE},
    {"name": "nobody", "kind": "vector", "size": 3, "table": TABLE},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """color: red, green; empty: never a value; price: buckets (-inf, 1), [1, 10), [10, inf); same: one bucket; -7 is missing."""
    data_dir = tmp_path_factory.mktemp("transform")
    schema = parse_schema({
        "name": "shop",
        "label": {"column": "click"},
        "missing": ["NULL", "-7"],
        "split": {"by": "hash", "key": ["color"]},
        "fields": FIELDS,
    }, "shop.yaml").resolve({"color": 5, "price": 5, "empty": 2, "same": 3, "user": 7, "tags": 4, "item": 3, "nobody": 1})
    (data_dir / VOCABULARIES).mkdir()
    (data_dir / VECTORS).mkdir()
    for path, lines in (("color", "red\ngreen\n blue, or so\n"), ("empty", ""), ("tags", "x\ny\n")):
        (data_dir / VOCABULARIES / f"{path}.txt").write_text(lines)
    (data_dir / VECTORS / "item.txt").write_text("i1\ni2\n")
    (data_dir / VECTORS / "nobody.txt").write_text("")
    scales = {"price": transform.Scale((1.0, 10.0), 4.0, 2.0), "same": transform.Scale((), 7.0, 1.0)}
    transform.write_buckets(data_dir, scales)
    assert transform.read_buckets(data_dir) == scales
    transform.write_transform(schema, data_dir)
    return data_dir, schema, tft.TFTransformOutput(str(data_dir)).transform_features_layer()


class Graphs:
    """Rows through the saved graph as a server runs it, and through the transformer; both must give the same."""

    def __init__(self, folder):
        data_dir, self._schema, self._layer = folder
        self._transformer = Transformer(data_dir, self._schema)

    def __call__(self, **given):
        """Applies both to one row; fields not given are missing.

        Returns ids by field name, scaled values, lists without padding, vectors (None: missing), rows of side tables.
        """
        rows = self.batch(**{name: [value] for name, value in given.items()})
        return {name: column[0] for name, column in rows.items()}

    def batch(self, **given):
        rows = len(next(iter(given.values())))
        given = {field.name: given.get(field.name, [None] * rows) for field in self._schema.fields}
        encoded = self._transformer(self._arrow(given))
        raw = tf.constant([example(given, row) for row in range(rows)], tf.string)
        served = self._layer(tf.io.parse_example(raw, transform.raw_feature_spec(self._schema)))
        np.testing.assert_array_equal(served["ids"], encoded.ids)
        np.testing.assert_array_equal(served["values"], encoded.values)
        found = {field.name: encoded.ids[:, place].tolist() for place, field in enumerate(self._schema.id_fields)}
        found |= {f"scaled {field.name}": encoded.values[:, place].tolist() for place, field in enumerate(self._schema.numeric_fields)}
        for field in self._schema.list_fields:
            ids, lengths = encoded.lists[field.name]
            found[field.name] = [ids[end - length:end].tolist() for end, length in zip(np.cumsum(lengths), lengths, strict=True)]
            padded = [row + [0] * (field.max_length - len(row)) for row in found[field.name]]
            assert served[field.name].numpy().tolist() == padded
        vectors, missing = encoded.vectors["image"]
        np.testing.assert_array_equal(served["image"], vectors)
        np.testing.assert_array_equal(served["image_missing"], missing)
        assert not vectors[missing == 1].any()
        found["image"] = [None if absent else vector for vector, absent in zip(vectors.tolist(), missing, strict=True)]
        for name in ("item", "nobody"):
            np.testing.assert_array_equal(served[name], encoded.vector_rows[name])
            found[name] = encoded.vector_rows[name].tolist()
        return found

    def _arrow(self, given):
        missing = self._schema.missing
        columns = {}
        for field in self._schema.fields:
            column, reasons = given[field.name], RowReasons(len(given[field.name]))
            if field in self._schema.list_fields:
                columns[field.name] = lists(pa.array(column, pa.list_(pa.string())), "|", missing, field.name, reasons)
            elif field in self._schema.numeric_fields:
                columns[field.name] = np.array([np.nan if one is None else one for one in column], np.float32)
            elif field.name == "image":
                columns[field.name] = np.array([[np.nan, np.nan] if one is None else one for one in column], np.float32).reshape(-1, 2)
            else:
                columns[field.name] = texts(pa.array(column, pa.string()), missing, field.name, reasons)
        return columns


def example(given, row):
    features = {}
    for name, column in given.items():
        values = column[row] if isinstance(column[row], list) else [column[row]]
        if values != [None]:
            if isinstance(values[0] if values else "", str):
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[(one or "").encode() for one in values]))
            else:
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="module")
def graphs(folder):
    return Graphs(folder)


def test_rows_of_categorical_values(graphs):
    rows = {"red": 2, "green": 3, " blue, or so": 4, "blue, or so": 1, "Red": 1, "": 0, "NULL": 0, "-7": 0}
    found = graphs.batch(color=list(rows), shade=list(rows)[::-1])
    assert found["color"] == list(rows.values())
    assert found["shade"] == list(rows.values())[::-1]


def test_rows_and_values_of_numbers(graphs):
    cases = [
        (0.999, 2, -1.5005), (1.0, 3, -1.5), (9.999, 3, 2.9995), (10.0, 4, 3.0), (-6.5, 2, -5.0), (1e9, 4, 5.0),
        (np.nan, 0, 0.0), (np.inf, 4, 5.0), (-np.inf, 2, -5.0), (LARGEST, 4, 5.0), (-LARGEST, 2, -5.0), (-7.0, 0, 0.0),
    ]
    prices, rows, scaled = zip(*cases, strict=True)
    found = graphs.batch(price=list(prices))
    assert found["price"] == list(rows)
    assert found["scaled price"] == pytest.approx(scaled, rel=1e-6)


def test_an_empty_vocabulary_and_a_single_bucket(graphs):
    found = graphs.batch(empty=["anything", "", "NULL"], same=[7.0, 9.0, np.nan], friends=[["a", "NULL"], [], None])
    assert (found["empty"], found["same"], found["scaled same"]) == ([1, 0, 0], [2, 2, 0], [0.0, 2.0, 0.0])
    assert found["friends"] == [[1], [], []]


def test_hashed_values_have_their_buckets_and_missing_ones_have_none(graphs):
    assert graphs.batch(user=["ann", "", "NULL", "bob", "ann"])["user"] == [HASHED[0], 0, 0, HASHED[1], HASHED[0]]


def test_the_hash_is_the_same_on_every_machine():
    # Written down once: another hash would give every value of a trained model another row.
    assert tf.strings.to_hash_bucket_fast(["", "ann", "\xfc"], 1_000_000).numpy().tolist() == [397263, 958516, 733891]


def test_a_sequence_keeps_the_last_values_and_a_set_the_first(graphs):
    values = ["x", "", "green", "NULL", "red", "y"]
    found = graphs.batch(seen=[values, ["red"], [], ["", "NULL"]], tags=[values, ["y"], None, ["-7", "x"]])
    assert found["seen"] == [[2, 1], [2], [], []]  # the last two that are not missing: red, and y, which is unknown
    assert found["tags"] == [[2, 1], [3], [], [2]]  # the first two: x, and green, which is unknown


def test_vectors(graphs):
    assert graphs.batch(image=[[1.0, -2.0], None, [np.nan, np.nan]])["image"] == [[1, -2], None, None]


def test_a_served_vector_that_is_not_finite_throughout_is_missing(folder):
    vectors, missing = transform.FieldGraphs(folder[1], folder[0], None).vector(tf.constant([[1.0, np.nan], [np.inf, 1], [1, 2]]))
    assert vectors.numpy().tolist() == [[0, 0], [0, 0], [1, 2]]
    assert missing.numpy().tolist() == [1, 1, 0]


def test_rows_of_side_tables(graphs):
    found = graphs.batch(item=["i2", "i1", "i3", "", "NULL"], nobody=["i1"] * 5)
    assert (found["item"], found["nobody"]) == ([2, 1, 0, 0, 0], [0] * 5)


def test_everything_missing(graphs):
    found = graphs(color=None)
    assert {name: value for name, value in found.items() if value not in (0, [], None)} == {}


def test_a_column_may_repeat_its_values(graphs):
    found = graphs.batch(color=["red", "red", None, "green", "red"], item=["i1", None, "i1", "i2", "i1"])
    assert (found["color"], found["item"]) == ([2, 2, 0, 3, 2], [1, 0, 1, 2, 1])


def test_shapes_and_types_also_of_no_rows(folder, graphs):
    _, schema, layer = folder
    served = layer(tf.io.parse_example(tf.constant([], tf.string), transform.raw_feature_spec(schema)))
    assert {name: (tensor.dtype.name, tensor.shape.as_list()) for name, tensor in served.items()} == {
        "ids": ("int64", [0, 6]), "values": ("float32", [0, 2]), "seen": ("int64", [0, 2]), "tags": ("int64", [0, 2]),
        "friends": ("int64", [0, 16]), "image": ("float32", [0, 2]), "image_missing": ("int64", [0]), "item": ("int64", [0]),
        "nobody": ("int64", [0]),
    }
    assert graphs.batch(color=[])["color"] == []


def test_list_lengths_before_the_cut(folder, graphs):
    columns = graphs._arrow({field.name: [None] for field in folder[1].fields} | {"seen": [["red", "", "green", "red"]]})
    assert graphs._transformer(columns).uncut_lengths["seen"].tolist() == [3]


def test_the_graph_carries_its_vocabularies_and_knows_its_inputs(folder):
    data_dir, _, _ = folder
    output = tft.TFTransformOutput(str(data_dir))
    assert output.raw_feature_spec().keys() == {field["name"] for field in FIELDS}
    assets = {path.name: path.read_text() for path in (data_dir / "transform_fn" / "assets").iterdir()}
    assert assets == {"color.txt": "red\ngreen\n blue, or so\n", "tags.txt": "x\ny\n", "item.txt": "i1\ni2\n"}
    assert json.loads((data_dir / "buckets.json").read_text())["price"]["boundaries"] == [1.0, 10.0]


def test_without_texts_for_missing_only_the_empty_text_and_nan_are(tmp_path):
    schema = parse_schema({
        "name": "shop",
        "label": {"column": "click"},
        "split": {"by": "hash", "key": ["color"]},
        "fields": [{"name": "color", "kind": "categorical"}, {"name": "price", "kind": "numeric"}],
    }, "shop.yaml").resolve({"color": 4, "price": 5})
    (tmp_path / VOCABULARIES).mkdir()
    (tmp_path / VOCABULARIES / "color.txt").write_text("red\nNULL\n")
    transform.write_buckets(tmp_path, {"price": transform.Scale((-7.0, 10.0), 4.0, 2.0)})
    transform.write_transform(schema, tmp_path)
    layer = tft.TFTransformOutput(str(tmp_path)).transform_features_layer()
    found = layer({"color": tf.constant(["", "NULL", "red", "blue"]), "price": tf.constant([np.nan, -7.0, 10.0, -8.0])})
    assert found["ids"].numpy().tolist() == [[0, 0], [3, 3], [2, 4], [1, 2]]
