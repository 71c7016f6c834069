"""Offline scoring with Beam: any input in, keys and scores out, rejected rows kept, and nothing half."""

import csv
import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from tensorflow.core.protobuf import saved_model_pb2

from preprocessing.errors import EXIT_USER_ERROR
from preprocessing.sources import blocks
from serving.batch import command as batch
from serving.batch import pipeline as batch_pipeline
from serving.batch.inference import SavedModelHandler
from serving.versions.folders import SCHEMA_ASSET
from serving.versions.labels import set_label, set_pin

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMA = {
    "name": "kinds", "label": {"column": "click", "unlabelled": "reject"}, "group": "uid", "timestamp": "time", "missing": ["NULL"],
    "split": {"by": "time", "column": "time", "valid_from": 1, "test_from": 2},
    "fields": [{"name": "user", "kind": "categorical", "column": "uid"}, {"name": "price", "kind": "numeric"},
               {"name": "tags", "kind": "multivalued"}, {"name": "image", "kind": "vector", "size": 2}],
}  # fmt: skip
HEADER = ["row", "uid", "price", "tags", "image"]


class Arithmetic(tf.Module):
    """logit = bias + price + bytes of the user + 100 * tags + the image's sum; what is missing counts nothing."""

    def __init__(self, bias):
        super().__init__()
        self.bias = tf.Variable(float(bias))

    def predict(self, user, price, tags, image):
        tags = tf.reduce_sum(tf.cast(tags != "", tf.float32), axis=1)
        numbers = _seen(price) + tf.reduce_sum(_seen(image), axis=1)
        logit = self.bias + numbers + tf.cast(tf.strings.length(user), tf.float32) + 100 * tags
        return {"logit": logit, "probability": tf.sigmoid(logit)}

    def parts(self, user, price, tags, image):
        return {"contribution": tf.stack([price, price], axis=1), "field": tf.stack([user, user], axis=1)}

    def save(self, folder, schema=SCHEMA):
        specs = [tf.TensorSpec([None], tf.string, "user"), tf.TensorSpec([None], tf.float32, "price"),
                 tf.TensorSpec([None, None], tf.string, "tags"), tf.TensorSpec([None, 2], tf.float32, "image")]  # fmt: skip
        signatures = {name: tf.function(getattr(self, name)).get_concrete_function(*specs) for name in ("predict", "parts")}
        tf.saved_model.save(self, str(folder), signatures=signatures)
        if schema:
            (folder / SCHEMA_ASSET).parent.mkdir(exist_ok=True)
            (folder / SCHEMA_ASSET).write_text(yaml.safe_dump(schema))


def _seen(numbers):
    return tf.where(tf.math.is_nan(numbers), 0.0, numbers)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """Versions 3, 5 and 8, whose logits differ by their numbers."""
    folder = tmp_path_factory.mktemp("models")
    for version in (3, 5, 8):
        Arithmetic(version).save(folder / str(version))
    return folder


@pytest.fixture
def score(base_path, tmp_path, capsys):
    """Runs the command; returns its exit code and what it said."""

    def run(*arguments, model=base_path, output="scores"):
        code = batch.main(["--model", str(model), "--output", str(tmp_path / output), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    return run


def write_csv(path, rows):
    text = "\n".join(",".join(map(str, cells)) for cells in [HEADER, *rows]).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def well_formed(first, count):
    """Rows and their logits by version 8."""
    rows = [[row, "u" * (row % 4), row / 4, "|".join("t" * (row % 3)), f"{row}|1"] for row in range(first, first + count)]
    return rows, [8 + row % 4 + row / 4 + 100 * (row % 3) + row + 1 for row in range(first, first + count)]


def read_scores(folder, form="csv"):
    """The rows of each shard, by its name."""
    shards = {}
    for path in sorted(folder.glob(f"part-*.{form}")):
        with path.open() as stream:
            shards[path.name] = list(csv.DictReader(stream))
    return shards


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_scores_keep_keys_and_order(score, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)  # some twenty blocks of the larger file
    first, first_logits = well_formed(0, 1000)
    second, second_logits = well_formed(1000, 3)
    write_csv(tmp_path / "a.csv", [*first[:500], ["bad", "u", "cheap", "", ""], *first[500:]])
    write_csv(tmp_path / "b.csv.gz", [["short"], *second, ["wrong", "u", "1", "", "1|2|3"]])
    code, said = score("--input", tmp_path / "*.csv*", "--key", "row", "--key", "uid", "--call_rows", 7)
    assert code == 0, said
    assert "scored 1,003 rows with version 8 in" in said and "3 rejected, listed in" in said
    shards = read_scores(tmp_path / "scores")
    assert list(shards) == ["part-00000-of-00002.csv", "part-00001-of-00002.csv"]
    for shard, rows, logits in zip(shards.values(), (first, second), (first_logits, second_logits), strict=True):
        assert list(shard[0]) == ["row", "uid", "logit", "probability"]
        assert [(line["row"], line["uid"]) for line in shard] == [(str(row), user) for row, user, *_ in rows]
        np.testing.assert_allclose([float(line["logit"]) for line in shard], logits, rtol=1e-6)
    assert float(shards["part-00000-of-00002.csv"][0]["probability"]) == pytest.approx(1 / (1 + np.exp(-9.0)))


def test_a_portable_runner_gives_the_same(score, tmp_path):
    """Beam's own job service, whose workers get everything pickled."""
    rows, logits = well_formed(0, 20)
    path = write_csv(tmp_path / "a.csv", rows)
    code, said = score("--input", path, "--key", "row", "--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    assert code == 0, said
    [shard] = read_scores(tmp_path / "scores").values()
    assert [(line["row"], float(line["logit"])) for line in shard] == [(str(row), logit) for (row, *_), logit in zip(rows, logits, strict=True)]


def test_rejected_rows_are_kept_with_file_line_and_reason(score, tmp_path):
    path = write_csv(tmp_path / "a.csv", [["a", "u", "cheap", "", ""], ["b", "u", "1", "", ""], ["c"]])
    code, said = score("--input", path, "--key", "row", "--max_rejected_share", 0.7)
    assert code == 0, said
    [rejected] = (tmp_path / "scores" / "rejected").iterdir()
    assert [json.loads(line) for line in rejected.read_text().splitlines()] == [
        {"file": str(path), "line": 2, "reason": "field 'price' (column 'price') is not a number", "text": "a,u,cheap,,"},
        {"file": str(path), "line": 4, "reason": "wrong number of columns: expected 5, received 1", "text": "c"},
    ]
    written = manifest(tmp_path / "scores")
    assert (written["rows"], written["rejected"], written["version"], written["keys"]) == (1, 2, 8, ["row"])
    assert written["files"] == [{"path": "part-00000-of-00001.csv", "input": str(path), "rows": 1}]
    code, said = score("--input", path, "--key", "row", output="none")
    assert (
        code == EXIT_USER_ERROR and "2 of 3 rows (66.67%) are malformed, more than --max_rejected_share 0.01 allows: 1 x" in said
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.csv", "scores"], "nothing is left of the run that failed"


def test_a_file_that_breaks_off_is_told(score, tmp_path):
    path = write_csv(tmp_path / "a.csv.gz", well_formed(0, 5000)[0])
    path.write_bytes(path.read_bytes()[:-100])
    code, said = score("--input", path, "--key", "row")
    assert code == EXIT_USER_ERROR and "a.csv.gz cannot be decompressed to its end" in said and "Traceback" not in said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.csv.gz"]


def test_a_file_of_malformed_rows_only_has_an_empty_shard(score, tmp_path):
    path = write_csv(tmp_path / "a.csv", [["a", "u", "cheap", "", ""]])
    assert score("--input", path, "--key", "row", "--max_rejected_share", 1)[0] == 0
    assert (tmp_path / "scores" / "part-00000-of-00001.csv").read_text() == '"row","logit","probability"\n'


def test_parquet_keeps_the_types_of_keys(score, tmp_path):
    table = pa.table({"row": pa.array([1, 2, None], pa.int64()), "when": pa.array([10, 20, 30], pa.timestamp("ms")), "uid": ["ann", None, "bob"],
                      "price": [1.5, None, None], "tags": [["x", "y"], [], [None, "z"]], "image": [[1.0, 2.0], None, [0.5, 0.5]],
                      "price_key": pa.array([[1], [2], [3]])})  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    keys = ("--key", "row", "--key", "when", "--key", "price", "--key", "price_key")
    code, said = score("--input", tmp_path / "a.parquet", *keys, "--format", "parquet")
    assert code == 0, said
    scored = pq.read_table(tmp_path / "scores" / "part-00000-of-00001.parquet")
    assert scored.column_names == ["row", "when", "price", "price_key", "logit", "probability"]
    for name in ("row", "when", "price"):
        assert scored[name].combine_chunks() == table[name].combine_chunks()
    assert scored["price_key"].to_pylist() == ["1", "2", "3"]
    assert scored["logit"].to_pylist() == [8 + 1.5 + 3 + 200 + 3, 8, 8 + 3 + 100 + 1]


def test_tfrecord_is_read(score, tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for user, price in (("ann", 1.5), (None, None)):
            features = {"row": tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(user).encode()]))}
            if user:
                features["uid"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()]))
                features["price"] = tf.train.Feature(float_list=tf.train.FloatList(value=[price]))
                features["tags"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x", b"y"]))
                features["image"] = tf.train.Feature(float_list=tf.train.FloatList(value=[1, 2]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    code, said = score("--input", tmp_path / "a.tfrecord", "--key", "row")
    assert code == 0, said
    [shard] = read_scores(tmp_path / "scores").values()
    assert [(line["row"], float(line["logit"])) for line in shard] == [("ann", 8 + 1.5 + 3 + 200 + 3), ("None", 8.0)]
    code, said = score("--input", tmp_path / "a.tfrecord", "--key", "rwo", output="none")
    assert code == EXIT_USER_ERROR and "has no column 'rwo', which --key names: its columns are" in said


def test_the_version_is_the_one_that_servers_answer_from(score, base_path, tmp_path):
    path = write_csv(tmp_path / "a.csv", [["a", "", "", "", ""]])
    set_label(base_path, "stable", 3)
    set_pin(base_path, 5)
    try:
        for number, (chosen, model, version) in enumerate([((), base_path, 5), (("--label", "stable"), base_path, 3),
                                                           (("--version", 8), base_path, 8), ((), base_path / "3", 3)]):  # fmt: skip
            code, said = score("--input", path, "--key", "row", *chosen, model=model, output=f"scores{number}")
            assert code == 0, said
            [[line]] = read_scores(tmp_path / f"scores{number}").values()
            assert (float(line["logit"]), manifest(tmp_path / f"scores{number}")["version"]) == (version, version)
    finally:
        (base_path / "versions.json").unlink()


def test_finished_scores_are_replaced_only_when_told(score, tmp_path):
    path = write_csv(tmp_path / "a.csv", [["a", "", "", "", ""]])
    assert score("--input", path, "--key", "row")[0] == 0
    code, said = score("--input", path, "--key", "row", "--version", 3)
    assert code == EXIT_USER_ERROR and "holds finished scores: choose another path, or add --overwrite" in said
    assert score("--input", path, "--key", "row", "--version", 3, "--overwrite")[0] == 0
    assert manifest(tmp_path / "scores")["version"] == 3
    for content in ('{"splits": {}}', "no JSON", "[]"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "manifest.json").write_text(content)
        code, said = score("--input", path, "--key", "row", "--overwrite", output="other")
        assert code == EXIT_USER_ERROR and "exists and holds no scores of this command, so it is left alone" in said


def test_a_run_that_breaks_leaves_nothing(score, tmp_path, monkeypatch):
    path = write_csv(tmp_path / "a.csv", [["a", "", "", "", ""]])
    killed = tmp_path / ".scores.partial-killed"
    killed.mkdir()

    def broken(*_):
        assert any(tmp_path.glob(".scores.partial-*/.work/pieces/*/*.arrow")) and not killed.exists()
        raise OSError("broken")

    monkeypatch.setattr(batch_pipeline, "write_shard", broken)
    with pytest.raises(Exception, match="broken"):
        score("--input", path, "--key", "row")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.csv"]


KILLED_WITH_HALF_A_SHARD = """
import os, signal, sys
from preprocessing.environment import start_tensorflow
start_tensorflow()
from serving.batch import command as batch
from serving.batch import output as batch_output
class Writer:
    def __init__(self, path, schema):
        self.path = path
    def write_table(self, table):
        with open(self.path, "w") as half:
            half.write("half")
        os.kill(os.getpid(), signal.SIGKILL)
batch_output.pacsv.CSVWriter = Writer
batch.main(sys.argv[1:])
"""


def test_a_killed_run_leaves_nothing_that_looks_whole(score, base_path, tmp_path):
    path = write_csv(tmp_path / "a.csv", [["a", "", "", "", ""]])
    arguments = ["--model", base_path, "--input", path, "--key", "row", "--output", tmp_path / "scores"]
    command = [sys.executable, "-c", KILLED_WITH_HALF_A_SHARD, *map(str, arguments)]
    killed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = {one.name for one in tmp_path.iterdir()}
    assert len(names) == 2 and all(name == "a.csv" or name.startswith(".scores.partial-") for name in names)
    assert not list(tmp_path.glob(".scores.partial-*/part-*")), "half a shard has not got its name"
    assert score("--input", path, "--key", "row")[0] == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.csv", "scores"]


def test_an_explanation_fits_into_parquet_only(score, tmp_path):
    path = write_csv(tmp_path / "a.csv", [["a", "\u00fc", "2", "", ""]])
    arguments = ("--input", path, "--key", "row", "--signature", "parts")
    code, said = score(*arguments)
    assert code == EXIT_USER_ERROR
    assert "answers several values a row in ['contribution', 'field'], which CSV cannot hold: add --format parquet" in said
    assert score(*arguments, "--format", "parquet")[0] == 0
    assert pq.read_table(tmp_path / "scores" / "part-00000-of-00001.parquet").to_pylist() == [
        {"row": "a", "contribution": [2.0, 2.0], "field": ["\u00fc", "\u00fc"]}]  # fmt: skip


def _damaged(base_path, folder):
    (folder / "saved_model.pb").write_bytes(b"no proto")
    return ["--model", folder, "--key", "row", "--schema", base_path / "3" / SCHEMA_ASSET]


def _for_other_servers(base_path, folder):
    model = saved_model_pb2.SavedModel()
    model.meta_graphs.add().meta_info_def.tags.extend(["serve", "gpu"])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return ["--model", folder, "--key", "row", "--schema", base_path / "3" / SCHEMA_ASSET]


def _without_schema(base_path, folder):
    Arithmetic(0).save(folder / "plain", schema=None)
    return ["--model", folder / "plain", "--key", "row"]


@pytest.mark.parametrize(("arguments", "message"), [
    (lambda base, here: [], "--key COLUMN is needed, since the schema names no key"),
    (lambda base, here: ["--key", "id"], "has no column 'id', which --key names: its columns are ['row', 'uid', 'price', 'tags', 'image']"),
    (lambda base, here: ["--key", "row", "--version", 4], "has no version 4 with a SavedModel: the versions are 3, 5, 8"),
    (lambda base, here: ["--key", "row", "--label", "canary"], "has no label canary: the labels are none"),
    (lambda base, here: ["--key", "row", "--signature", "rank"], "has no signature 'rank': it has ['parts', 'predict']; choose another"),
    (lambda base, here: ["--key", "row", "--no_such_flag"], "expected an option of serving.batch (see --help) or of Apache Beam"),
    (lambda base, here: ["--key", "row", "--model", base / "3", "--version", 3], "is one version's folder: leave out --version and --label"),
    (lambda base, here: ["--key", "row", "--model", here], "holds no version to score with: export one"),
    (lambda base, here: ["--key", "row", "--model", base.parent], "holds no version itself, but a folder in it does: did you mean "),
    (lambda base, here: ["--key", "row", "--input", here / "none"], "no file matches"),
    (_damaged, "is not a SavedModel (Error parsing message"),
    (_for_other_servers, "is not a SavedModel (no graph with the tag `serve`): export the model again"),
    (_without_schema, f"does not say what the columns of its log are (it has no {SCHEMA_ASSET}): give --schema FILE or --data_dir DIR"),
])  # fmt: skip
def test_mistakes_are_told(score, base_path, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    path = write_csv(tmp_path / "a.csv", [["a", "", "", "", ""]])
    code, said = score("--input", path, *arguments(base_path, tmp_path / "empty"))
    assert code == EXIT_USER_ERROR and message in said
    assert not (tmp_path / "scores").exists()


def test_a_key_may_not_be_called_like_an_output(score, tmp_path):
    (tmp_path / "a.csv").write_text("logit,uid,price,tags,image\n1,,,,\n")
    code, said = score("--input", tmp_path / "a.csv", "--key", "logit")
    assert (
        code == EXIT_USER_ERROR and "--key logit is called like an output of the model, ['logit', 'probability']: rename" in said
    )


def test_a_schema_of_another_model_is_refused(score, tmp_path):
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**SCHEMA, "fields": SCHEMA["fields"][:2]}))
    path = write_csv(tmp_path / "a.csv", [["a", "", "", "", ""]])
    code, said = score("--input", path, "--key", "row", "--schema", tmp_path / "other.yaml")
    assert code == EXIT_USER_ERROR and "schema 'kinds' is not that of the model: it has the fields ['price', 'user']" in said


def test_the_handler_answers_batches_of_any_size(base_path):
    texts = pa.array(["ann", None, "bob", "ann"]).dictionary_encode()
    tags = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3, 3], pa.int32()), pa.array(["x", "y", "x"]).dictionary_encode())
    numbers = pa.array([1.0, np.nan, 2.0, 3.0], pa.float32())
    images = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, np.nan, np.nan, 0, 0, 5, 5], pa.float32()), 2)
    example = pa.RecordBatch.from_pydict(
        {"user": texts, "price": numbers, "tags": tags, "image": images, "key row": pa.array(range(4))}
    )
    expected = [3 + 1 + 3 + 200 + 3, 3, 3 + 2 + 3 + 100, 3 + 3 + 3 + 10]
    for call_rows in (1, 3, 100):
        handler = SavedModelHandler(str(base_path / "3"), call_rows=call_rows)
        answered, none = handler.run_inference([example, example.slice(4)], handler.load_model())
        assert answered.inference.to_pydict()["logit"] == expected and answered.example is example
        assert none.inference.schema == answered.inference.schema and none.inference.num_rows == 0
        assert handler.get_num_bytes([example]) == example.nbytes


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        batch.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--runner=FlinkRunner" in said and "more than this share of the rows is malformed (default: 0.01)" in said


@pytest.mark.parametrize("wrong", [("--call_rows", "0"), ("--max_rejected_share", "2")])
def test_impossible_limits_are_refused(score, capsys, wrong):
    with pytest.raises(SystemExit):
        score("--input", "none", *wrong)
    assert "--call_rows must be at least 1 and --max_rejected_share a share from 0 to 1" in capsys.readouterr().err
