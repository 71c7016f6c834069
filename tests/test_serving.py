"""The embedded server and its client, over real sockets: answers, status codes, swaps, stops, and what users are told."""

import gzip
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import serving_stand_in as stand_in
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from preprocessing.errors import EXIT_USER_ERROR, UserError
from serving import client as client_module
from serving import server as server_module
from serving.models import ServedVersions
from serving.parity import RAW_SAMPLES
from serving.predict_client import PredictClient, PredictError
from serving.servable import Servable, StatusError
from serving.served_model import save_served_model
from serving.server import StopRequest, serve
from serving.signatures import raw_specs
from serving.versions import find_versions
from serving.warmup import WARMUP_FILE, write_warmup

MODEL = "tiny"
READY = re.compile(r"serving tiny version (\d+) on 127\.0\.0\.1:(\d+)\n")
SECONDS_TO_START = 90
Status = get_model_status_pb2.ModelVersionStatus


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return stand_in.write_data_folder(tmp_path_factory.mktemp("serving") / "data")


@pytest.fixture(scope="module")
def saved(data_dir, tmp_path_factory):
    """Two whole versions, to be copied into base paths: their logits differ by 10."""
    folder = tmp_path_factory.mktemp("saved")
    examples = list(tf.data.TFRecordDataset(str(data_dir / RAW_SAMPLES)).as_numpy_iterator())
    for name, bias in (("first", 0.0), ("second", 10.0)):
        model = stand_in.TableModel(bias)
        save_served_model(model, data_dir, folder / name)
        write_warmup(folder / name, examples, raw_specs(model.schema))
    return folder


def publish(saved_model, base_path, version):
    """Copies a version in as export does: whole, by rename."""
    staging = base_path / f".copy-{version}"
    shutil.copytree(saved_model, staging)
    staging.rename(base_path / str(version))


class RunningServer:
    """The server as a user starts it, on a free port."""

    def __init__(self, base_path):
        self.base_path = base_path
        self.process = stand_in.start(
            "serving.server", "--model_name", MODEL, "--model_base_path", base_path, "--port", 0, "--poll_seconds", 0.2
        )
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS_TO_START)
        line = self.process.stdout.readline() if ready else ""
        match = READY.fullmatch(line)
        if not match:
            self.process.kill()
            pytest.fail(f"no readiness line but {line!r}; standard error: {self.process.communicate()[1]}")
        self.version, self.address = int(match[1]), f"127.0.0.1:{match[2]}"
        self.channel = grpc.insecure_channel(self.address)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def states(self):
        return {entry.version: entry for entry in self.model.GetModelStatus(status_request(), timeout=10).model_version_status}

    def wait_for_state(self, version, state):
        for _ in range(200):
            entry = self.states().get(version)
            if entry and entry.state == state:
                return entry
            time.sleep(0.1)
        pytest.fail(f"version {version} is {entry} and not in state {state}")

    def stop(self, number):
        self.channel.close()
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    base_path = tmp_path_factory.mktemp("models")
    publish(saved / "first", base_path, 3)
    running = RunningServer(base_path)
    yield running
    running.stop(signal.SIGINT)


def status_request(name=MODEL, version=None, label=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return request


def named_request(rows=(("ann", 0.5), ("bob", 2.0)), **spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = spec.pop("name", MODEL)
    request.model_spec.signature_name = spec.pop("signature", "predict")
    if "version" in spec:
        request.model_spec.version.value = spec.pop("version")
    if "label" in spec:
        request.model_spec.version_label = spec.pop("label")
    users, prices = zip(*rows, strict=True)
    request.inputs["user"].CopyFrom(tf.make_tensor_proto(list(users), tf.string))
    request.inputs["price"].CopyFrom(tf.make_tensor_proto(list(prices), tf.float32))
    return request


def examples_request(examples, **spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(examples, tf.string, shape=[len(examples)]))
    return request


def refusal(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code(), caught.value.details()


# Answers.


def test_named_columns_are_scored(server):
    response = server.prediction.Predict(named_request(), timeout=30)
    logits = [stand_in.expected_logit("ann", 0.5), stand_in.expected_logit("bob", 2.0)]
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["logit"]), logits, rtol=1e-6)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["probability"]), stand_in.sigmoid(logits), rtol=1e-6)
    assert (response.model_spec.name, response.model_spec.version.value, response.model_spec.signature_name) == (MODEL, 3, "predict")


def test_serialized_examples_are_scored_by_the_default_signature(server):
    request = examples_request([stand_in.raw_example(*row) for row in stand_in.ROWS])
    response = server.prediction.Predict(request, timeout=30)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["logit"]), [stand_in.expected_logit(*row) for row in stand_in.ROWS])
    assert response.model_spec.signature_name == "serving_default"


def test_a_request_of_no_rows_is_answered(server):
    response = server.prediction.Predict(examples_request([]), timeout=30)
    assert tf.make_ndarray(response.outputs["probability"]).shape == (0,)


def test_more_than_four_megabytes_are_answered(server):
    rows = 60_000
    request = examples_request([stand_in.raw_example("ann" + "x" * 60, 0.5)] * rows)
    assert request.ByteSize() > 4 * 2**20
    response = server.prediction.Predict(request, timeout=60)
    assert tf.make_ndarray(response.outputs["probability"]).shape == (rows,)


def test_an_output_filter_is_heeded(server):
    request = named_request()
    request.output_filter.append("logit")
    assert list(server.prediction.Predict(request, timeout=30).outputs) == ["logit"]


def test_metadata_describes_both_signatures(server):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = MODEL
    response = server.prediction.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    found = {key: (sorted(value.inputs), sorted(value.outputs)) for key, value in signatures.signature_def.items()}
    assert found == {
        "serving_default": (["examples"], ["logit", "probability"]),
        "predict": (["price", "user"], ["logit", "probability"]),
    }
    assert response.model_spec.version.value == 3


def test_status_is_available(server):
    [entry] = server.model.GetModelStatus(status_request(version=3), timeout=30).model_version_status
    assert (entry.version, entry.state, entry.status.error_code) == (3, Status.AVAILABLE, 0)


# Mistakes, with the status codes of TensorFlow Serving.


def _without(name):
    request = named_request()
    del request.inputs[name]
    return request


def _with(name, values, dtype):
    request = named_request()
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
    return request


def _filtered(*names):
    request = named_request()
    request.output_filter.extend(names)
    return request


def _half_a_tensor():
    request = named_request()
    request.inputs["price"].tensor_content = b"abc"
    return request


def _two_prices():
    feature = {"price": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0, 2.0]))}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _nameless():
    return predict_pb2.PredictRequest()


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        (_nameless, INVALID, "Missing ModelSpec"),
        (lambda: named_request(name=""), INVALID, "ModelSpec has no name specified."),
        (lambda: named_request(name="other"), MISSING, "Servable not found for request: Latest(other)"),
        (lambda: named_request(name="other", version=2), MISSING, "Servable not found for request: Specific(other, 2)"),
        (lambda: named_request(version=2), MISSING, "Servable not found for request: Specific(tiny, 2)"),
        (lambda: named_request(label="stable"), INVALID, "Unrecognized servable version label: stable"),
        (lambda: named_request(signature="rank"), grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "rank" not found.'),
        (lambda: _without("price"), INVALID, "expected {price,user}, received {user}. Sent extra: {}. Missing but required: {price}."),
        (lambda: _with("label", [1.0, 0.0], tf.float32), INVALID, "Sent extra: {label}. Missing but required: {}."),
        (lambda: _with("price", [1.0, 2.0], tf.float64), INVALID, "input price: expected dtype float32, received float64"),
        (lambda: _with("price", [1.0, 2.0, 3.0], tf.float32), INVALID, "must match"),
        (lambda: _with("price", [[1.0], [2.0]], tf.float32), INVALID, "Shapes of all inputs must match"),
        (_half_a_tensor, INVALID, "tensor parsing error: price"),
        (lambda: _filtered("score"), INVALID, "output tensor alias not found in signature: {score}"),
        (lambda: _filtered("logit", "logit"), INVALID, "duplicate output tensor alias"),
        (lambda: examples_request([b"not an example"]), INVALID, "Could not parse example input"),
        (lambda: examples_request([_two_prices()]), INVALID, "Key: price"),
    ],
)
def test_a_wrong_predict_request_gets_its_status(server, request_of, code, message):
    received_code, details = refusal(server.prediction.Predict, request_of())
    assert received_code == code
    assert message in details
    assert server.prediction.Predict(named_request(), timeout=30).outputs


@pytest.mark.parametrize(
    ("fields", "name", "code", "message"),
    [
        ([], MODEL, INVALID, "must specify at least one metadata_field"),
        (["signature"], MODEL, INVALID, "Metadata field signature is not supported"),
        (["signature_def"], "other", MISSING, "Servable not found for request: Latest(other)"),
    ],
)
def test_a_wrong_metadata_request_gets_its_status(server, fields, name, code, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    received_code, details = refusal(server.prediction.GetModelMetadata, request)
    assert received_code == code and message in details


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        (lambda: get_model_status_pb2.GetModelStatusRequest(), INVALID, "Missing ModelSpec"),
        (lambda: status_request("other"), MISSING, "Could not find any versions of model other"),
        (lambda: status_request(version=99), MISSING, "Could not find version 99 of model tiny"),
        (lambda: status_request(label="stable"), INVALID, "Unrecognized servable version label: stable"),
    ],
)
def test_a_wrong_status_request_gets_its_status(server, request_of, code, message):
    received_code, details = refusal(server.model.GetModelStatus, request_of())
    assert received_code == code and message in details


# The client.


def test_the_client_scores_in_chunks_and_keeps_the_order(server):
    users, prices = zip(*stand_in.ROWS, strict=True)
    with PredictClient(server.address, MODEL, chunk_rows=5) as client:
        assert client.wait_until_ready(10) == 3
        answers = client.predict({"user": users, "price": prices})
        nothing = client.predict({"user": [], "price": []})
    np.testing.assert_allclose(answers["logit"], [stand_in.expected_logit(*row) for row in stand_in.ROWS])
    assert {name: (array.shape, array.dtype) for name, array in nothing.items()} == {
        "logit": ((0,), np.float32), "probability": ((0,), np.float32)}  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["ann"]}, r"takes the columns \['price', 'user'\]: missing \['price'\], not known \[\]"),
        ({"user": ["ann"], "price": [1.0], "click": [1]}, r"missing \[\], not known \['click'\]"),
        ({"user": ["ann"], "price": [1.0, 2.0]}, "must be of one length, received {'price': 2, 'user': 1}"),
        ({"user": ["ann"], "price": ["cheap"]}, "column price: expected float32 values: could not convert"),
        ({"user": [["ann"]], "price": [1.0]}, r"column user: expected one value a row, received an array of shape \(1, 1\)"),
    ],
)
def test_the_client_refuses_wrong_columns(server, columns, message):
    with PredictClient(server.address, MODEL) as client, pytest.raises(PredictError, match=message) as caught:
        client.predict(columns)
    assert caught.value.code == INVALID


def test_the_client_names_the_signatures_there_are(server):
    there_are = r"has no signature 'rank': it has \['predict', 'serving_default'\]"
    with PredictClient(server.address, MODEL, signature="rank") as client, pytest.raises(PredictError, match=there_are):
        client.predict({})


def test_an_unknown_model_is_told_at_once(server):
    with PredictClient(server.address, "other") as client, pytest.raises(PredictError, match="correct the model's name") as caught:
        client.wait_until_ready(60)
    assert caught.value.code == MISSING


def test_a_server_that_is_down_is_told():
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        client = PredictClient(f"127.0.0.1:{taken.getsockname()[1]}", MODEL)
        with client, pytest.raises(PredictError, match="no server answers there: start one with") as caught:
            client.wait_until_ready(0.5)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_a_deadline_is_told():
    with socket.socket() as silent:  # takes connections and never answers: no server is too quick for the deadline
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = PredictClient(f"127.0.0.1:{silent.getsockname()[1]}", MODEL, deadline=0.2)
        with client, pytest.raises(PredictError, match="raise the deadline"):
            client.predict({"user": ["ann"], "price": [1.0]})


@pytest.mark.parametrize("wrong", [{"chunk_rows": 0}, {"deadline": 0}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match="chunk_rows must be at least 1 and deadline above 0"):
        PredictClient("127.0.0.1:1", MODEL, **wrong)


@pytest.fixture
def score(server, tmp_path, capsys):
    """Runs the client's command on the text of a CSV file."""

    def run(text, *arguments, name="in.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        code = client_module.main(["--server", server.address, "--model", MODEL, "--input", str(tmp_path / name), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run


def test_the_command_writes_a_line_a_row(score, tmp_path):
    output = tmp_path / "scores.csv"
    code, _, said = score('note,price,user\nx,0.5,ann\n"y, z",?,bob\n,2,\n', "--output", str(output), "--missing", "?",
                          "--chunk_rows", "2")  # fmt: skip
    assert code == 0, said
    header, *lines = output.read_text().splitlines()
    assert header == "logit,probability"
    logits = [stand_in.expected_logit(*row) for row in (("ann", 0.5), ("bob", float("nan")), ("", 2.0))]
    np.testing.assert_allclose([[float(cell) for cell in line.split(",")] for line in lines],
                               np.transpose([logits, stand_in.sigmoid(logits)]), rtol=1e-5)  # fmt: skip
    assert "scored 3 rows in" in said
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_the_command_reads_gzipped_tabs_and_writes_to_standard_output(score, tmp_path):
    path = tmp_path / "in.tsv.gz"
    path.write_bytes(gzip.compress(b"user\tprice\nann\t0.5\n"))
    code, out, said = score(path.read_bytes(), "--separator", "tab", name="in.tsv.gz")
    assert code == 0, said
    assert out.splitlines() == ["logit,probability", "0,0.5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,cost\nann,1\n", "lacks the columns ['price'] that the model takes: its header has ['user', 'cost']"),
        ("user,price,user\nann,1,bob\n", "has the columns ['user'] more than once"),
        ("", "is empty: expected a header line and rows"),
        ("user,price\n", "has a header and no rows"),
        ("user,price\nann,1\nbob,cheap\n", ("1 of 2 rows (50.00%) are malformed, more than --max_rejected_share 0.01 allows, so "
          "nothing was written: line 3: column 'price' is not a number. Correct the file")),
        ("user,price\nann,1\nbob\n", "line 3: wrong number of columns: expected 2, received 1"),
    ],
)
def test_the_command_explains_a_bad_file(score, tmp_path, text, message):
    output = tmp_path / "scores.csv"
    code, _, said = score(text, "--output", str(output))
    assert code == EXIT_USER_ERROR
    assert message in said and "in.csv" in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_malformed_rows_keep_their_places_and_are_named(score, tmp_path):
    output = tmp_path / "scores.csv"
    rows = [b"ann,0.5", b"bob", b'"bob\n",2', b"ann,cheap", b"", b"a\xff,1", b"bob,2,x", b"bob, 2 ", b"eve,1,x,y", b"ann,nan", b"ann,-"]
    code, _, said = score(b"user,price\n" + b"\n".join(rows), "--output", str(output), "--max_rejected_share", "0.6")
    assert code == 0, said
    header, *lines = output.read_text().splitlines()
    assert header == "logit,probability"
    good = {0: ("ann", 0.5), 2: ("bob\n", 2.0), 6: ("bob", 2.0), 8: ("ann", float("nan"))}
    assert len(lines) == 10 and {place for place, line in enumerate(lines) if line != ","} == set(good)
    logits = [float(lines[place].split(",")[0]) for place in good]
    np.testing.assert_allclose(logits, [stand_in.expected_logit(*row) for row in good.values()], rtol=1e-5)
    assert "scored 10 rows in" in said
    assert (
        "6 of 10 rows are malformed and have no score: line 3: wrong number of columns: expected 2, received 1 "
        "line 6: column 'price' is not a number line 8: not valid UTF-8 line 9: wrong number of columns: expected 2, received 3 "
        "line 11: wrong number of columns: expected 2, received 4 and 1 more" in said
    )


def test_too_many_malformed_rows_write_nothing_to_standard_output(score):
    code, out, said = score("user,price\nann,1\nbob,cheap\n")
    assert (code, out) == (EXIT_USER_ERROR, "") and "so nothing was written" in said


def test_a_file_of_malformed_rows_only_may_be_allowed(score):
    code, out, _ = score("user,price\nbob\n", "--max_rejected_share", "1")
    assert (code, out) == (0, "logit,probability\n,\n")


def test_an_impossible_share_is_refused(score, capsys):
    with pytest.raises(SystemExit):
        score("user,price\nbob\n", "--max_rejected_share", "2")
    assert "--max_rejected_share must be a share from 0 to 1, received 2.0" in " ".join(capsys.readouterr().err.split())


def test_the_command_explains_absent_files(score, server, tmp_path, capsys):
    common = ["--server", server.address, "--model", MODEL]
    assert client_module.main([*common, "--input", str(tmp_path / "none.csv")]) == EXIT_USER_ERROR
    assert "none.csv does not exist: give a CSV file with a header" in " ".join(capsys.readouterr().err.split())
    code, _, said = score("user,price\nann,1\n", "--output", str(tmp_path / "none" / "scores.csv"))
    assert code == EXIT_USER_ERROR and "does not exist: create it first" in said


SCORE_WITHOUT_SERVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from preprocessing.errors import run
from serving.score_csv import score_csv
class Client:
    def input_specs(self):
        return {"price": SimpleNamespace(dtype=np.dtype("float32"), shape=SimpleNamespace(rank=1))}
sys.exit(run(lambda paths: score_csv(Client(), Path(paths[0]), None)))
"""


def test_no_thread_still_reads_when_the_command_ends_with_an_error(tmp_path):
    """A thread that is inside C++ and wants the interpreter's lock while it ends aborts the process."""
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(b"user,cost\n" + b"ann,1.5\n" * 8_000_000, 1))
    for _ in range(4):  # which thread is first is chance
        done = subprocess.run([sys.executable, "-c", SCORE_WITHOUT_SERVER, path], cwd=stand_in.REPOSITORY, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == EXIT_USER_ERROR and "lacks the columns ['price']" in " ".join(done.stderr.split())
        assert "terminate" not in done.stderr


def test_the_command_refuses_a_signature_that_a_csv_cannot_fill(score):
    code, _, said = score("x\n1\n", "--signature", "rank")
    assert code == EXIT_USER_ERROR and "has no signature 'rank'" in said


# Versions: what goes live, and when.


def test_versions_are_the_numeric_folders(tmp_path):
    for name in ("0007", "12", "8x", ".export-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").write_text("a file")
    assert find_versions(tmp_path) == {7: tmp_path / "0007", 12: tmp_path / "12"}
    assert find_versions(tmp_path / "absent") == {}


def test_a_model_rolls_back_and_unloads(saved, tmp_path):
    model = ServedVersions(MODEL, tmp_path)
    for version in (1, 2):
        publish(saved / "first", tmp_path, version)
    model.poll()
    assert model.live_version == 2
    shutil.rmtree(tmp_path / "2")
    model.poll()
    assert model.live_version == 1
    shutil.rmtree(tmp_path / "1")
    model.poll()
    assert model.live_version is None
    assert {version: status.state for version, status in model.statuses().items()} == {2: Status.END, 1: Status.END}
    with pytest.raises(StatusError, match=r"Latest\(tiny\)"):
        model.servable(status_request().model_spec)


def _remove_graph(folder):
    (folder / "saved_model.pb").unlink()


def _spoil_graph(folder):
    (folder / "saved_model.pb").write_bytes(b"\xff" * 100)


def _remove_variables(folder):
    shutil.rmtree(folder / "variables")


def _remove_vocabulary(folder):
    shutil.rmtree(folder / "assets")


def _spoil_warm_up(folder):
    (folder / WARMUP_FILE).write_bytes(b"garbage" * 10)


def _warm_up_unknown_signature(folder):
    path = folder / WARMUP_FILE
    request = named_request(signature="rank")
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove_graph, "has no saved_model.pb"),
        (_spoil_graph, "saved_model.pb cannot be read"),
        (_remove_variables, "does not load"),
        (_remove_vocabulary, "does not load"),
        (_spoil_warm_up, "warm-up: .* is not an uncompressed TFRecord of PredictionLog"),
        (_warm_up_unknown_signature, 'warm-up request 0: Serving signature key "rank" not found'),
    ],
)
def test_a_broken_version_does_not_load(saved, tmp_path, spoil, message):
    shutil.copytree(saved / "first", tmp_path / "1")
    spoil(tmp_path / "1")
    with pytest.raises(StatusError, match=message):
        Servable(MODEL, 1, tmp_path / "1")


def test_versions_swap_under_load_and_a_broken_one_changes_nothing(server, saved):
    failures, logits, stop = [], set(), threading.Event()

    def ask():
        while not stop.is_set():
            try:
                response = server.prediction.Predict(named_request([("ann", 0.5)]), timeout=30)
                logits.add(float(tf.make_ndarray(response.outputs["logit"])[0]))
            except grpc.RpcError as error:
                failures.append(error)

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for thread in clients:
        thread.start()
    try:
        publish(saved / "second", server.base_path, 4)
        server.wait_for_state(4, Status.AVAILABLE)
        server.wait_for_state(3, Status.END)

        (server.base_path / "5").mkdir()  # as by a copy that is not atomic
        entry = server.wait_for_state(5, Status.END)
        assert entry.status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert "has no saved_model.pb" in entry.status.error_message
        shutil.copytree(saved / "first", server.base_path / "5", dirs_exist_ok=True)
        time.sleep(1)
        assert server.states()[5].state == Status.END, "completing a failed version in place does not revive it"
        assert server.states()[4].state == Status.AVAILABLE
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    shutil.rmtree(server.base_path / "5")
    assert failures == []
    assert logits == {0.0, 10.0}
    assert server.prediction.Predict(named_request(), timeout=30).model_spec.version.value == 4


# Start and stop.


def test_a_second_server_cannot_take_the_port(server, saved, tmp_path):
    publish(saved / "first", tmp_path, 1)
    host, port = server.address.split(":")
    with pytest.raises(UserError, match=f"cannot listen on {host}:{port}: the port is in use"):
        serve(ServedVersions(MODEL, tmp_path), host, int(port), 0.1, StopRequest())


def test_the_server_waits_for_a_version_and_leaves_no_process_behind(saved, tmp_path):
    base_path = tmp_path / "not_yet"
    process = stand_in.start(
        "serving.server", "--model_name", MODEL, "--model_base_path", base_path, "--port", 0, "--poll_seconds", 0.1
    )
    try:
        said = iter(process.stderr.readline, "")
        assert any("not_yet does not exist yet; waiting for a version to be published there" in line for line in said)
        base_path.mkdir()
        publish(saved / "first", base_path, 1)
        assert READY.fullmatch(process.stdout.readline())
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_an_empty_base_path_is_said_to_hold_no_version(tmp_path, caplog):
    stop = StopRequest()
    stop.make()
    serve(ServedVersions(MODEL, tmp_path), "127.0.0.1", 0, 0.1, stop)
    assert f"{tmp_path} holds no version folder; waiting for a version to be published there" in caplog.text


def test_calls_in_progress_are_answered_after_a_stop_and_new_ones_refused(saved, tmp_path, monkeypatch, capsys):
    publish(saved / "first", tmp_path, 1)
    stop, entered, release = StopRequest(), threading.Event(), threading.Event()
    arguments = (ServedVersions(MODEL, tmp_path), "127.0.0.1", 0, 0.1, stop)
    thread = threading.Thread(target=serve, args=arguments)
    thread.start()
    try:
        said = ""
        while not (match := READY.search(said)) and thread.is_alive():
            time.sleep(0.05)
            said += capsys.readouterr().out
        answer = Servable.predict

        def slow(self, request):
            entered.set()
            assert release.wait(30)
            return answer(self, request)

        monkeypatch.setattr(Servable, "predict", slow)
        with grpc.insecure_channel(f"127.0.0.1:{match[2]}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            in_progress = stub.Predict.future(named_request(), timeout=30)
            assert entered.wait(30)
            stop.make()
            time.sleep(0.5)
            assert refusal(stub.Predict, named_request())[0] == grpc.StatusCode.UNAVAILABLE
            release.set()
            assert in_progress.result().model_spec.version.value == 1
    finally:
        stop.make()
        release.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_base_path_that_is_none_is_refused(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path / "file", "is a file: give the folder"), (saved / "first", "is a version itself")):
        assert server_module.main(["--model_name", MODEL, "--model_base_path", str(path)]) == EXIT_USER_ERROR
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("module", ["client", "server"])
def test_help_and_wrong_paths_need_no_tensorflow(module, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = {"client": ["--model", MODEL, "--input", f"{tmp_path}/none"],
                 "server": ["--model_name", MODEL, "--model_base_path", f"{tmp_path}/file"]}  # fmt: skip
    code = f"import sys\nfrom serving.{module} import main\ncode = main({arguments[module]})\n"
    code += "print(code, 'tensorflow' in sys.modules)\nmain(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=stand_in.REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{EXIT_USER_ERROR} False\nusage: python -m serving.{module}")
    assert done.returncode == 0 and {"client": "does not exist", "server": "is a file"}[module] in " ".join(done.stderr.split())


def test_the_commands_say_nothing_of_tensorflow(server, tmp_path):
    (tmp_path / "in.csv").write_text("user,price\nann,1\n")
    client = stand_in.start("serving.client", "--server", server.address, "--model", MODEL, "--input", tmp_path / "in.csv")
    out, err = client.communicate(timeout=SECONDS_TO_START)
    assert (client.returncode, out.splitlines()[0]) == (0, "logit,probability")
    assert re.fullmatch(r"model tiny version \d+ on \S+\nscored 1 rows in .* rows/s\n", err)

    absent = stand_in.start("serving.server", "--model_name", MODEL, "--model_base_path", tmp_path, "--port", 0)
    try:
        assert "holds no version folder; waiting" in absent.stderr.readline()
    finally:
        absent.terminate()
        absent.communicate(timeout=60)
    assert absent.returncode == 0


def test_a_first_version_that_does_not_load_ends_the_server(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(UserError, match=r"model tiny version 1 failed to load \(NOT_FOUND\): .* has no saved_model.pb; export"):
        serve(ServedVersions(MODEL, tmp_path), "127.0.0.1", 0, 0.1, StopRequest())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--port", "70000"], "--port must be 0 to 65535, received 70000"), (["--poll_seconds", "0"], "--poll_seconds must be above 0")],
)
def test_impossible_flags_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        server_module.main(["--model_name", MODEL, "--model_base_path", "x", *arguments])
    assert message in capsys.readouterr().err


def test_help_gives_examples(capsys):
    for module in (server_module, client_module):
        with pytest.raises(SystemExit) as stopped:
            module.main(["--help"])
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        assert "examples:" in said
        assert module is server_module or "seconds to wait for the server (default: 60.0)" in " ".join(said.split())


# Files for TensorFlow Serving.


def test_the_configuration_names_the_mounted_base_path():
    folder = stand_in.REPOSITORY / "serving" / "config"
    config = text_format.Parse((folder / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    [model] = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("clicks", "/models/clicks", "tensorflow")
    dockerfile = (stand_in.REPOSITORY / "Dockerfile").read_text()
    for name in ("models.config", "monitoring.config", "batching.config"):
        assert (folder / name).is_file() and f"/etc/dgenctr/{name}" in dockerfile


def test_the_images_have_exact_tags_and_a_normal_user():
    dockerfile = (stand_in.REPOSITORY / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+) AS (\w+)$", dockerfile, re.MULTILINE) == [
        ("python:3.11.13-slim-bookworm", "trainer"), ("tensorflow/serving:2.19.1", "serving")]  # fmt: skip
    stages = dockerfile.split("\nFROM ")[1:]
    for stage in stages:
        assert stage.rindex("\nUSER 10001") < stage.rindex("\nENTRYPOINT")


def test_the_trainer_image_copies_what_there_is():
    dockerfile = (stand_in.REPOSITORY / "Dockerfile").read_text()
    kept = re.findall(r"^!(\S+)$", (stand_in.REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    for source in re.findall(r"^COPY ((?:\S+ )+)\S+$", dockerfile, re.MULTILINE):
        for name in source.split():
            assert (stand_in.REPOSITORY / name).exists(), name
            assert name.split("/")[0] in kept, name
