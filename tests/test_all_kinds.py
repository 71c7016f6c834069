"""Every kind of field and every role, from a log with every oddity to records, statistics and the served model."""

import csv
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import yaml
from click_logs import failed, manifest, preprocess
from running_server import running

from preprocessing.errors import UserError
from preprocessing.rows import read_rows
from preprocessing.schema import SPLITS, load_data_folder_schema
from preprocessing.sources import find_files
from preprocessing.transform import raw_feature_spec
from preprocessing.values import single_precision
from serving.batch import command as batch
from serving.client.predict_client import PredictClient, PredictError
from serving.client.score_file import score_file
from serving.export.exporter import publish
from serving.export.served_model import save_served_model
from serving.reading import reading_of
from serving.server.config import ModelConfig
from serving.signatures import parse_raw_examples
from trainer.batch import feature_spec, features_of_records
from trainer.config import load_config
from trainer.models import build_model

ROWS = 1200
MISSING = ["NULL", "-1"]
COLUMNS = ["id", "click", "weight", "when", "user", "item", "seller", "price", "visits", "history", "genres", "image", "cover"]
SCHEMA = {
    "name": "kinds",
    "label": {"column": "click"},
    "missing": MISSING,
    "group": "user",
    "timestamp": {"column": "when", "unit": "iso"},
    "key": "id",
    "weight": "weight",
    "split": {"by": "hash", "key": ["id"], "valid": 0.2, "test": 0.2},
    "fields": [
        {"name": "user", "kind": "categorical", "hash_buckets": 40},
        {"name": "item", "kind": "categorical", "min_count": 2},
        {"name": "price", "kind": "numeric", "buckets": 5},
        {"name": "visits", "kind": "numeric", "bucketing": "log_square"},
        {"name": "seller", "kind": "categorical", "max_size": 3},
        {"name": "history", "kind": "sequence", "separator": " ", "vocabulary": "item", "max_length": 3},
        {"name": "genres", "kind": "multivalued", "max_length": 2},
        {"name": "image", "kind": "vector", "size": 2},
        {"name": "cover", "kind": "vector", "size": 3, "table": {"file": "tables/covers.npz", "key": "item", "values": "vector"}},
    ],
}
COVERS = {"c0": [0, 1, 2], "c1": [3, 4, 5], "c2": [6, 7, 8]}


def make_log():
    """Cells by column, as texts."""
    rng = np.random.default_rng(0)

    def one_of(*texts):
        return lambda: texts[rng.integers(len(texts))]

    def items(separator, most):
        return lambda: separator.join(f"i{item}" if item else ("NULL", "", "new")[rng.integers(3)]
                                      for item in rng.integers(0, 30, rng.integers(most)))

    oddly = {
        "click": one_of("0", "1", "1", "0", "", "NULL"),
        "weight": one_of("1", "0.5", "0"),
        "when": one_of("2026-01-31", "2026-01-31T12:00:00.5Z", "1969-12-31 23:59:59+01:00"),
        "user": one_of("", "NULL", "-1", "\xfcml", 'said "hi"', "two\nlines", "a,b", *(f"u{user}" for user in range(50))),
        "item": lambda: f"i{min(rng.zipf(1.5), 300)}",
        "seller": one_of("s1", "s2", "s3", "s4", "", "NULL"),
        "price": one_of("", "NaN", "inf", "-inf", "1e308", "-1", "-1.0", "NULL", "0", *(f"{price:.3f}" for price in rng.lognormal(2, 1, 50))),
        "visits": lambda: str(min(rng.zipf(1.3), 10**9) - 2),
        "history": items(" ", 6),
        "genres": items("|", 5),
        "image": one_of("", "NULL", "|", "nan|nan", "0.5|-2", "1e-3|3"),
        "cover": one_of("c0", "c1", "c2", "c9", "", "NULL"),
    }
    return [{"id": f"r{row}", **{name: make() for name, make in oddly.items()}} for row in range(ROWS)]


@pytest.fixture(scope="module")
def log():
    return make_log()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def data_dir(work, log):
    (work / "tables").mkdir()
    np.savez(work / "tables" / "covers.npz", item=np.array(list(COVERS)), vector=np.array(list(COVERS.values()), np.float64))
    (work / "kinds.yaml").write_text(yaml.safe_dump(SCHEMA))
    with (work / "log.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(log)
        writer.writerow(log[0] | {"id": "bad1", "image": "1|2|3"})
        writer.writerow(log[0] | {"id": "bad2", "weight": "-1.5"})
        writer.writerow(log[0] | {"id": "bad3", "when": "yesterday"})
    output = work / "data"
    assert preprocess("--input", work / "log.csv", "--schema", work / "kinds.yaml", "--output", output) == 0
    return output


@pytest.fixture(scope="module")
def records(data_dir):
    """By split, by key: what protobuf reads."""
    return {split: {features["key"][0].decode(): features for features in map(parsed, read(data_dir, split))} for split in SPLITS}


def read(data_dir, split):
    for entry in manifest(data_dir)["splits"][split]["files"]:
        yield from tf.data.TFRecordDataset(str(data_dir / entry["path"])).as_numpy_iterator()


def parsed(record):
    features = tf.train.Example.FromString(record).features.feature
    return {name: list(getattr(feature, feature.WhichOneof("kind")).value) for name, feature in features.items()}


def all_records(records):
    return {key: features for split in SPLITS for key, features in records[split].items()}


def raw_example(row):
    """What a client that knows nothing of preprocessing sends for a row: cells as they are, numbers as floats."""
    features = {}
    for name in ("user", "item", "seller", "cover"):
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[row[name].encode()]))
    for name, separator in (("history", " "), ("genres", "|")):
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[cell.encode() for cell in row[name].split(separator)]))
    for name in ("price", "visits"):
        if row[name] not in ("", "NULL"):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[single_precision(np.float64(row[name]))]))
    if row["image"] not in ("", "NULL", "|"):
        features["image"] = tf.train.Feature(float_list=tf.train.FloatList(value=map(float, row["image"].split("|"))))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_the_served_graph_gives_the_ids_of_the_records(data_dir, log, records):
    raw = tf.io.parse_example([raw_example(row) for row in log], raw_feature_spec(load_data_folder_schema(data_dir)))
    layer = tft.TFTransformOutput(str(data_dir)).transform_features_layer()
    served = {name: tensor.numpy() for name, tensor in layer(raw).items()}
    written = all_records(records)
    assert len(written) == ROWS
    for place, row in enumerate(log):
        record = written[row["id"]]
        assert served["ids"][place].tolist() == record["ids"], row
        assert served["values"][place].tolist() == record["values"], row
        for name, length in (("history", 3), ("genres", 2)):
            ids = record.get(name, [])
            assert served[name][place].tolist() == ids + [0] * (length - len(ids)), row
        assert served["image"][place].tolist() == record["image"]
        assert [served["image_missing"][place]] == record["image_missing"]
        assert [served["cover"][place]] == record["cover"]


def test_records_hold_what_the_log_says(data_dir, log, records):
    """Recomputed by the rules of the documentation."""
    vocabulary = (data_dir / "vocabularies" / "item.txt").read_text().splitlines()
    instants = {"2026-01-31": 1_769_817_600_000_000, "2026-01-31T12:00:00.5Z": 1_769_860_800_500_000,
                "1969-12-31 23:59:59+01:00": -3_601_000_000}
    groups = {}
    written = all_records(records)
    for row in log:
        record = written[row["id"]]
        assert record.get("label") == ([int(row["click"])] if row["click"] in ("0", "1") else None)
        assert record["weight"] == [float(row["weight"])]
        assert record["timestamp"] == [instants[row["when"]]]
        history = [vocabulary.index(item) + 2 if item in vocabulary else 1 for item in row["history"].split(" ") if item not in ("", "NULL")]
        assert record.get("history", []) == history[-3:]
        assert record["image"] == ([0, 0] if row["image"] in ("", "NULL", "|", "nan|nan")
                                   else [np.float32(number) for number in row["image"].split("|")])
        assert record["cover"] == [list(COVERS).index(row["cover"]) + 1 if row["cover"] in COVERS else 0]
        user = "" if row["user"] in ("NULL", "-1") else row["user"]
        assert groups.setdefault(user, record["group"]) == record["group"]
    assert len({group for (group,) in groups.values()}) == len(groups) == 55


def test_fields_that_share_a_vocabulary_share_rows_and_counts(data_dir, records):
    schema = load_data_folder_schema(data_dir)
    item, history = (next(field for field in schema.fields if field.name == name) for name in ("item", "history"))
    assert (item.offset, item.rows) == (history.offset, history.rows)
    counts = np.zeros(item.rows, np.int64)
    for record in records["train"].values():
        np.add.at(counts, [record["ids"][1], *record.get("history", [])], 1)
    frequencies = np.load(data_dir / "frequencies.npy")
    np.testing.assert_array_equal(frequencies[item.offset:item.offset + item.rows], counts)
    assert len(frequencies) == schema.table_rows
    assert not (data_dir / "vocabularies" / "history.txt").exists()
    assert not (data_dir / "vocabularies" / "user.txt").exists()


def test_vocabularies_count_the_training_cells_of_all_that_share_them(data_dir, log, records):
    counts = {}
    for row in log:
        if row["id"] in records["train"]:
            for item in [row["item"], *row["history"].split(" ")]:
                counts[item] = counts.get(item, 0) + 1
    kept = sorted((-count, item) for item, count in counts.items() if count >= 2 and item not in ("", "NULL"))
    assert (data_dir / "vocabularies" / "item.txt").read_text().split() == [item for _, item in kept]
    assert len((data_dir / "vocabularies" / "seller.txt").read_text().split()) == 3


def test_side_tables_are_copied_with_a_row_for_no_vector(data_dir):
    matrix = np.load(data_dir / "vectors" / "cover.npy")
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[0, 0, 0], *COVERS.values()]
    assert (data_dir / "vectors" / "cover.txt").read_text() == "c0\nc1\nc2\n"
    assert load_data_folder_schema(data_dir).vector_fields[1].rows == 4


def test_another_side_table_is_another_job(data_dir, work, capsys):
    arguments = ("--input", work / "log.csv", "--schema", work / "kinds.yaml", "--output", data_dir)
    assert preprocess(*arguments) == 0
    assert "nothing to do" in " ".join(capsys.readouterr().out.split())
    table = work / "tables" / "covers.npz"
    content = table.read_bytes()
    table.write_bytes(content + b" ")
    try:
        assert "is a finished data folder, made from other files" in failed(capsys, *arguments)
    finally:
        table.write_bytes(content)


def test_statistics(data_dir, log, records):
    fields = json.loads((data_dir / "statistics.json").read_text())["fields"]
    train = [row for row in log if row["id"] in records["train"]]

    def share(holds):
        return pytest.approx(sum(map(holds, train)) / len(train))

    lengths = [len([one for one in row["genres"].split("|") if one not in ("", "NULL")]) for row in train]
    assert fields["genres"]["mean_length"] == pytest.approx(np.mean(lengths))
    assert fields["genres"]["longest"] == max(lengths)
    assert fields["genres"]["cut_share"] == pytest.approx(np.mean(np.array(lengths) > 2))
    assert fields["genres"]["missing_share"] == pytest.approx(np.mean(np.array(lengths) == 0))
    assert fields["image"]["missing_share"] == share(lambda row: row["image"] in ("", "NULL", "|", "nan|nan"))
    assert fields["cover"]["missing_share"] == share(lambda row: row["cover"] not in COVERS)
    assert fields["seller"]["missing_share"] == share(lambda row: row["seller"] in ("", "NULL"))
    assert fields["user"]["hash_buckets"] == 40
    assert 0 < fields["user"]["collision_rate"] < 1


def test_rows_without_label_are_counted(data_dir, log, records):
    splits = json.loads((data_dir / "statistics.json").read_text())["splits"]
    for split in SPLITS:
        labels = [row["click"] for row in log if row["id"] in records[split]]
        unlabelled = sum(label not in ("0", "1") for label in labels)
        assert manifest(data_dir)["splits"][split]["unlabelled"] == splits[split]["unlabelled"] == unlabelled
        assert splits[split]["label_rate"] == pytest.approx(labels.count("1") / (len(labels) - unlabelled))


def test_malformed_rows_are_named(data_dir):
    lines = [json.loads(line) for path in (data_dir / "rejected").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert [(line["text"].split(",")[0], line["reason"]) for line in lines] == [
        ("bad1", "field 'image' (column 'image') has another number of numbers than 2"),
        ("bad2", "weight (column 'weight') is missing, negative or infinite"),
        ("bad3", "timestamp (column 'when') is not an ISO 8601 time"),
    ]


# ---- Other formats ----


def number(text):
    return None if text in ("", "NULL") else float(text)


def write_parquet(path, log):
    """Each column in the type that a careful writer of Parquet gives it."""
    when = {"2026-01-31": 1_769_817_600_000_000, "2026-01-31T12:00:00.5Z": 1_769_860_800_500_000, "1969-12-31 23:59:59+01:00": -3_601_000_000}
    pq.write_table(pa.table({
        "id": [row["id"] for row in log],
        "click": pa.array([number(row["click"]) for row in log], pa.float64()),
        "weight": pa.array([number(row["weight"]) for row in log], pa.float32()),
        "when": pa.array([when[row["when"]] for row in log], pa.timestamp("us", "UTC")),
        **{name: pa.array([row[name] or None for row in log]).dictionary_encode() for name in ("user", "item", "seller", "cover")},
        "price": pa.array([number(row["price"]) for row in log], pa.float64()),
        "visits": pa.array([int(row["visits"]) for row in log], pa.int32()),
        "history": pa.array([row["history"].split(" ") for row in log], pa.large_list(pa.string())),
        "genres": pa.array([None if row["genres"] == "" else row["genres"].split("|") for row in log]),
        "image": pa.array([[float(one) for one in row["image"].split("|") if one] if "|" in row["image"] else None for row in log]),
    }), path, row_group_size=500)


def write_examples(path, log):
    """Texts as bytes, numbers as floats, and what is missing absent."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in log:
            example = tf.train.Example.FromString(raw_example(row))
            for name in ("id", "click", "weight", "when"):
                example.features.feature[name].bytes_list.value.append(row[name].encode())
            writer.write(example.SerializeToString())


@pytest.mark.parametrize(("name", "write"), [("log.parquet", write_parquet), ("log.tfrecord", write_examples)])
def test_the_same_log_in_another_format_is_the_same_rows(data_dir, work, log, tmp_path, name, write):
    write(tmp_path / name, log)
    schema = load_data_folder_schema(data_dir)
    ours, theirs = rows_of(work / "log.csv", schema), rows_of(tmp_path / name, schema)
    assert len(ours["label"]) == ROWS
    for column, expected in ours.items():
        if isinstance(expected, list):
            assert theirs[column] == expected, column
        else:
            np.testing.assert_array_equal(theirs[column], expected, column)


def rows_of(path, schema):
    """All rows of a file, column by column: arrays of numbers, lists of everything else."""
    batches = [rows for one in find_files([str(path)], schema) for rows in read_rows(one, schema)]
    columns = {}
    for rows in batches:
        for name, column in {**rows.features, **{name: getattr(rows, name) for name in ROLES}}.items():
            columns.setdefault(name, []).append(column)
    return {name: np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [one for part in parts for one in part.to_pylist()]
            for name, parts in columns.items()}


ROLES = ("label", "split", "group", "timestamp", "key", "weight")


# ---- Serving ----


class SumOfIds:
    """logit = sum of all ids, those of lists included, / 100."""

    def __init__(self, schema):
        self.schema = schema
        self.scale = tf.Variable(0.01)

    def click_logits(self, features):
        return tf.add_n([tf.reduce_sum(tf.maximum(tf.cast(ids, tf.float32), 0), axis=1) for ids in features.values()]) * self.scale


@pytest.fixture(scope="module")
def expected(log, records):
    """The probability of each row of the log."""
    return probabilities(records, log, "ids", "history", "genres")


def probabilities(records, rows, *features):
    written = all_records(records)
    sums = [sum(sum(written[row["id"]].get(name, [])) for name in features) for row in rows]
    return 1 / (1 + np.exp(-np.array(sums) / 100))


@pytest.fixture(scope="module")
def client(data_dir, work):
    """A client of a server with the published model; `publish` has compared both signatures with the records."""
    publish(SumOfIds(load_data_folder_schema(data_dir)), data_dir, work / "models")
    with (
        running(ModelConfig("kinds", work / "models")) as asked,
        PredictClient(f"127.0.0.1:{asked.server.port}", "kinds") as client,
    ):
        yield client


def test_the_signatures_take_every_raw_feature(client):
    assert {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in client.input_specs().items()} == {
        **dict.fromkeys(("user", "item", "seller", "cover"), ("string", [None])),
        **dict.fromkeys(("price", "visits"), ("float32", [None])),
        **dict.fromkeys(("history", "genres"), ("string", [None, None])),
        "image": ("float32", [None, 2]),
    }


def columns_of(rows):
    columns = {name: [row[name] for row in rows] for name in ("user", "item", "seller", "cover")}
    columns |= {name: [np.nan if row[name] in ("", "NULL") else single_precision(np.float64(row[name])) for row in rows]
                for name in ("price", "visits")}
    columns |= {name: [row[name].split(separator) for row in rows] for name, separator in (("history", " "), ("genres", "|"))}
    images = [row["image"] if "|" in row["image"] and row["image"] != "|" else "nan|nan" for row in rows]
    return {**columns, "image": np.array([image.split("|") for image in images], np.float32)}


def test_named_columns_are_answered_as_the_records_say(client, log, expected):
    np.testing.assert_allclose(client.predict(columns_of(log))["probability"], expected, rtol=1e-5)


def test_rows_with_nothing_in_their_lists(client, log, records):
    columns = columns_of(log[:2]) | {"history": [[], []], "genres": np.empty([2, 0], object)}
    np.testing.assert_allclose(client.predict(columns)["probability"], probabilities(records, log[:2], "ids"), rtol=1e-5)
    assert client.predict({name: [] for name in columns})["probability"].shape == (0,)


@pytest.mark.parametrize("ignored", [[], ["item", "genres"]])
def test_an_exported_model_reads_lists_as_training_does(data_dir, tmp_path, ignored):
    tf.keras.utils.set_random_seed(1)
    config = load_config(None, ["model.dcn.hidden_units=[8]", "model.embedding_init=1", f"model.ignored_fields={ignored}"])
    model = build_model(load_data_folder_schema(data_dir), config)
    save_served_model(model, data_dir, tmp_path / "saved")
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures
    raw, records = (list(tf.data.TFRecordDataset(str(data_dir / "samples" / f"{name}.tfrecord")).as_numpy_iterator())
                    for name in ("raw", "records"))
    features = features_of_records(model.schema, tf.io.parse_example(records, feature_spec(model.schema)))
    logits = model.click_logits(features).numpy()
    assert logits.std() > 0.1
    np.testing.assert_allclose(served["serving_default"](examples=tf.constant(raw))["logit"], logits, rtol=1e-5, atol=1e-5)
    specs = served["predict"].structured_input_signature[1]
    named = parse_raw_examples(tf.constant(raw), specs)
    longer = {name: tf.pad(x, [[0, 0], [0, 7]]) if name in ("history", "genres") else x for name, x in named.items()}
    np.testing.assert_allclose(served["predict"](**longer)["logit"], logits, rtol=1e-5, atol=1e-5)
    without = {name: x[:, :0] if name in ("history", "genres") else x for name, x in named.items()}
    empty = model.click_logits(features | {field.name: -tf.ones_like(features[field.name]) for field in model.schema.list_fields})
    np.testing.assert_allclose(served["predict"](**without)["logit"], empty, rtol=1e-5, atol=1e-5)
    assert np.abs(empty - logits).max() > 1e-2


@pytest.mark.parametrize(("changed", "message"), [
    ({"history": ["i1 i2"]}, "column history: expected string values: a sequence of texts a row, received a text"),
    ({"image": [[1.0, 2.0, 3.0]]}, r"column image: expected 2 values a row, received an array of shape \(1, 3\)"),
    ({"image": [1.0]}, r"column image: expected 2 values a row, received an array of shape \(1,\)"),
    ({"user": [["u1"]]}, r"column user: expected one value a row, received an array of shape \(1, 1\)"),
])
def test_columns_of_another_shape_are_refused(client, log, changed, message):
    with pytest.raises(PredictError, match=message):
        client.predict(columns_of(log[:1]) | changed)


def test_a_file_is_scored_with_its_lists_and_vectors(client, work, tmp_path, expected):
    reading = reading_of(client.input_specs(), name="log", missing=["NULL"], separators={"history": " "})
    score_file(client, work / "log.csv", tmp_path / "scores.csv", reading)
    with (tmp_path / "scores.csv").open() as stream:
        scores = [row["probability"] for row in csv.DictReader(stream)]
    np.testing.assert_allclose(np.array(scores[:ROWS], float), expected, rtol=1e-5)
    assert scores[ROWS] == ""  # its image has three numbers
    assert len(scores) == ROWS + 3


def test_a_log_is_scored_offline_as_online(client, work, log, expected, tmp_path):
    """By the schema that the export holds. Rows with a wrong weight or time can be scored."""
    arguments = ["--model", work / "models", "--input", work / "log.csv", "--output", tmp_path / "scores"]
    assert batch.main(list(map(str, arguments))) == 0
    with (tmp_path / "scores" / "part-00000-of-00001.csv").open() as stream:
        scores = {row["id"]: float(row["probability"]) for row in csv.DictReader(stream)}
    assert list(scores) == [row["id"] for row in log] + ["bad2", "bad3"]
    np.testing.assert_allclose([scores[row["id"]] for row in log], expected, rtol=1e-5)


def test_candidates_are_ranked_as_rows_are_scored(client, log):
    columns = columns_of([{**log[0], **{name: row[name] for name in ("item", "price", "genres", "image")}} for row in log[:50]])
    shared = {name: values[0] for name, values in columns.items() if name not in ("item", "price", "genres", "image")}
    candidates = {name: columns[name] for name in ("item", "price", "genres", "image")}
    np.testing.assert_allclose(client.rank(shared, candidates)["logit"], client.predict(columns)["logit"], rtol=1e-5, atol=1e-5)


def test_a_separator_for_a_column_without_lists_is_refused(client):
    with pytest.raises(UserError, match=r"--list_separator names \['user'\]: expected columns of lists or vectors, which are "
                                        r"\['genres', 'history', 'image'\]"):
        reading_of(client.input_specs(), name="log", separators={"user": " "})


# ---- Side tables that are wrong ----


@pytest.mark.parametrize(("name", "arrays", "message"), [
    ("absent.npz", None, "does not exist: expected a .npz or .parquet file"),
    ("covers.txt", {}, "has a name that ends in '.txt', expected .npz or .parquet"),
    ("a.npz", {"item": ["c0"]}, r"has no 'vector', it has \['item'\]: correct `table.key` or `table.values`"),
    ("b.npz", {"item": ["c0"], "vector": [[1, 2, 3], [4, 5, 6]]}, "has 1 keys and 2 vectors, expected as many"),
    ("c.npz", {"item": ["c0"], "vector": [[1, 2]]}, r"has vectors of shape \(1, 2\) and type int64, expected numbers of shape \[keys, 3\]"),
    ("d.npz", {"item": ["c0", "c1"], "vector": [[1, 2, 3], [4, np.inf, 6]]}, "entry 2: the vector has numbers that are not finite"),
    ("e.npz", {"item": ["c0", "c1", "c0"], "vector": np.ones([3, 3])}, r"entry 3: the key stood before \(1 such entries in all\)"),
    ("f.npz", {"item": ["c0", "NULL"], "vector": np.ones([2, 3])}, "entry 2: the key is missing"),
    ("g.npz", {"item": ["c0\n"], "vector": np.ones([1, 3])}, "entry 1: the key has a line end in it"),
    ("h.npz", {"item": np.array(["c0", 1], object), "vector": np.ones([2, 3])}, "cannot be read .*: write it again"),
    ("i.npz", b"not a zip file", "cannot be read .*: write it again"),
    ("j.parquet", b"not Parquet", "cannot be read .*: write it again"),
])
def test_a_wrong_side_table_is_refused(data_dir, work, capsys, tmp_path, name, arrays, message):
    path = tmp_path / name
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    elif arrays is not None:
        with path.open("wb") as stream:
            np.savez(stream, **{key: np.asarray(value) for key, value in arrays.items()})
    cover = SCHEMA["fields"][-1] | {"table": {"file": name, "key": "item", "values": "vector"}}
    (tmp_path / "kinds.yaml").write_text(yaml.safe_dump(SCHEMA | {"fields": [*SCHEMA["fields"][:-1], cover]}))
    arguments = ("--input", work / "log.csv", "--schema", tmp_path / "kinds.yaml", "--output", tmp_path / "data")
    assert re.search(f"field 'cover': side table .*{name}.*{message}", failed(capsys, *arguments))
