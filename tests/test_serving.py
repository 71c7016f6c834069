"""The server and the client as users start them: processes, an exported model, real sockets, swaps under load, stops."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
import serving_stand_in as stand_in
import tensorflow as tf
from running_server import copy_in
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from preprocessing.errors import EXIT_USER_ERROR
from serving.client.predict_client import PredictClient
from serving.export.parity import RAW_SAMPLES
from serving.export.served_model import save_served_model
from serving.server import command as server_module
from serving.signatures import raw_specs
from serving.versions.folders import find_versions
from serving.warmup import write_warmup

MODEL = "tiny"
READY = re.compile(r"serving tiny version (\d+) on 127\.0\.0\.1:(\d+)\n")
REST = re.compile(r"REST and metrics on (http://127\.0\.0\.1:\d+)\n")
SECONDS_TO_START = 90
Status = get_model_status_pb2.ModelVersionStatus


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two whole versions, to be copied into base paths: their logits differ by 10."""
    data_dir = stand_in.write_data_folder(tmp_path_factory.mktemp("serving") / "data")
    folder = tmp_path_factory.mktemp("saved")
    examples = list(tf.data.TFRecordDataset(str(data_dir / RAW_SAMPLES)).as_numpy_iterator())
    for name, bias in (("first", 0.0), ("second", 10.0)):
        model = stand_in.TableModel(bias)
        save_served_model(model, data_dir, folder / name)
        write_warmup(folder / name, examples, raw_specs(model.schema))
    return folder


class RunningServer:
    """The server as a user starts it, on free ports."""

    def __init__(self, base_path):
        self.base_path = base_path
        self.process = stand_in.start(
            "serving.server", "--model_name", MODEL, "--model_base_path", base_path, "--port", 0, "--rest_api_port", 0,
            "--poll_seconds", 0.2,
        )  # fmt: skip
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS_TO_START)
        line = self.process.stdout.readline() if ready else ""
        match, rest = READY.fullmatch(line), REST.fullmatch(self.process.stdout.readline() if ready else "")
        if not match or not rest:
            self.process.kill()
            pytest.fail(f"no readiness line but {line!r}; standard error: {self.process.communicate()[1]}")
        self.version, self.address, self.rest = int(match[1]), f"127.0.0.1:{match[2]}", rest[1]
        self.channel = grpc.insecure_channel(self.address)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def states(self):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = MODEL
        return {entry.version: entry for entry in self.model.GetModelStatus(request, timeout=30).model_version_status}

    def wait_for_state(self, version, state):
        for _ in range(300):
            entry = self.states().get(version)
            if entry and entry.state == state:
                return entry
            time.sleep(0.1)
        pytest.fail(f"version {version} is {entry} and not in state {state}")

    def stop(self, number):
        self.channel.close()
        self.process.send_signal(number)
        said = self.process.communicate(timeout=60)[1]
        assert self.process.returncode == 0
        return said


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    base_path = tmp_path_factory.mktemp("models")
    copy_in(saved / "first", base_path, 3)
    running = RunningServer(base_path)
    yield running
    said = running.stop(signal.SIGINT)
    assert "stopping: new calls are refused, those in progress have" in said and "INFO stopped" in said
    assert not re.search(r"deprecated|cuda|Traceback", said), said


def named_request(rows=(("ann", 0.5), ("bob", 2.0))):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = "predict"
    users, prices = zip(*rows, strict=True)
    request.inputs["user"].CopyFrom(tf.make_tensor_proto(list(users), tf.string))
    request.inputs["price"].CopyFrom(tf.make_tensor_proto(list(prices), tf.float32))
    return request


# An exported model, by every way of asking.


def test_the_client_scores_in_chunks_and_keeps_the_order(server):
    users, prices = zip(*stand_in.ROWS, strict=True)
    with PredictClient(server.address, MODEL, chunk_rows=5) as client:
        assert client.wait_until_ready(10) == 3
        answers = client.predict({"user": users, "price": prices})
        nothing = client.predict({"user": [], "price": []})
    np.testing.assert_allclose(answers["logit"], [stand_in.expected_logit(*row) for row in stand_in.ROWS])
    assert {name: (array.shape, array.dtype) for name, array in nothing.items()} == {
        "logit": ((0,), np.float32), "probability": ((0,), np.float32)}  # fmt: skip


def test_serialized_examples_are_scored_by_the_default_signature(server):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto([stand_in.raw_example(*row) for row in stand_in.ROWS], tf.string))
    response = server.prediction.Predict(request, timeout=30)
    np.testing.assert_allclose(
        tf.make_ndarray(response.outputs["logit"]), [stand_in.expected_logit(*row) for row in stand_in.ROWS]
    )
    assert response.model_spec.signature_name == "serving_default"


def test_more_than_four_megabytes_are_answered(server):
    rows = 60_000
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto([stand_in.raw_example("ann" + "x" * 60, 0.5)] * rows, tf.string))
    assert request.ByteSize() > 4 * 2**20
    response = server.prediction.Predict(request, timeout=60)
    assert tf.make_ndarray(response.outputs["probability"]).shape == (rows,)


def test_classify_answers_the_probability_of_a_click(server):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL, "classify"
    request.input.example_list.examples.add().ParseFromString(stand_in.raw_example("bob", 2.0))
    [row] = server.prediction.Classify(request, timeout=30).result.classifications
    click = float(stand_in.sigmoid(stand_in.expected_logit("bob", 2.0)))
    assert {one.label: one.score for one in row.classes} == {"0": pytest.approx(1 - click, abs=1e-6), "1": pytest.approx(click)}


def test_curl_gets_an_answer(server):
    body = b'{"signature_name": "predict", "instances": [{"user": "ann", "price": 0.5}, {"user": "bob", "price": NaN}]}'
    with urllib.request.urlopen(f"{server.rest}/v1/models/{MODEL}:predict", data=body, timeout=30) as response:
        answers = json.load(response)["predictions"]
    logits = [stand_in.expected_logit("ann", 0.5), stand_in.expected_logit("bob", float("nan"))]
    assert [row["logit"] for row in answers] == pytest.approx(logits)


def test_the_command_scores_a_file_and_says_nothing_of_tensorflow(server, tmp_path):
    (tmp_path / "in.csv").write_text("user,price\nann,1\n")
    client = stand_in.start("serving.client", "--server", server.address, "--model", MODEL, "--input", tmp_path / "in.csv")
    out, err = client.communicate(timeout=SECONDS_TO_START)
    assert (client.returncode, out.splitlines()[0]) == (0, "logit,probability"), err
    assert re.search(r"model tiny version \d+ on \S+", err) and not re.search(r"oneDNN|cuda|WARNING", err)


def test_versions_are_the_numeric_folders(tmp_path):
    for name in ("0007", "12", "8x", ".export-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").write_text("a file")
    assert find_versions(tmp_path) == {7: tmp_path / "0007", 12: tmp_path / "12"}
    assert find_versions(tmp_path / "absent") == {}


# Swaps.


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
        copy_in(saved / "second", server.base_path, 4)
        server.wait_for_state(4, Status.AVAILABLE)
        server.wait_for_state(3, Status.END)

        (server.base_path / "5").mkdir()  # as by a copy that is not atomic
        entry = server.wait_for_state(5, Status.END)
        assert entry.status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert "has no saved_model.pb" in entry.status.error_message
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


def test_the_server_waits_for_a_version_and_leaves_no_process_behind(saved, tmp_path):
    base_path = tmp_path / "not_yet"
    process = stand_in.start(
        "serving.server", "--model_name", MODEL, "--model_base_path", base_path, "--port", 0, "--poll_seconds", 0.1
    )
    try:
        assert "not_yet does not exist yet; waiting for a version to be published there" in process.stderr.readline()
        base_path.mkdir()
        copy_in(saved / "first", base_path, 1)
        assert READY.fullmatch(process.stdout.readline())
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_base_path_that_is_none_is_refused(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path / "file", "is a file: give the folder"), (saved / "first", "is a version itself")):
        assert server_module.main(["--model_name", MODEL, "--model_base_path", str(path)]) == EXIT_USER_ERROR
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --model_name and --model_base_path, or --model_config_file instead"),
        (["--model_name", "m"], "give --model_name and --model_base_path, or --model_config_file instead"),
        (
            ["--model_config_file", "f", "--model_name", "m"],
            "give --model_name and --model_base_path, or --model_config_file instead",
        ),
        (["--model_config_file", "f", "--port", "70000"], "--port must be 0 to 65535, received 70000"),
        (["--model_config_file", "f", "--rest_api_port", "-1"], "--rest_api_port must be 0 to 65535, received -1"),
        (["--model_config_file", "f", "--poll_seconds", "0"], "--poll_seconds must be above 0, received 0.0"),
        (["--model_config_file", "f", "--drain_seconds", "-1"], "--drain_seconds must be at least 0, received -1.0"),
        (["--model_config_file", "f", "--max_concurrent_calls", "0"], "--max_concurrent_calls must be 1 to 10000, received 0"),
        (["--model_config_file", "f", "--max_request_bytes", "0"], "--max_request_bytes must be 1 to 2147483647, received 0"),
        (["--model_config_file", "f", "--tls_key", "k"], "--tls_cert and --tls_key belong together"),
        (["--model_config_file", "f", "--tls_client_ca", "c"], "--tls_client_ca needs both"),
    ],
)
def test_impossible_flags_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        server_module.main(arguments)
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("module", ["client", "server"])
def test_help_and_wrong_paths_need_no_tensorflow(module, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = {"client": ["--model", MODEL, "--input", f"{tmp_path}/none"],
                 "server": ["--model_name", MODEL, "--model_base_path", f"{tmp_path}/file"]}  # fmt: skip
    code = f"import sys\nfrom serving.{module}.command import main\ncode = main({arguments[module]})\n"
    code += "print(code, 'tensorflow' in sys.modules)\nmain(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=stand_in.REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{EXIT_USER_ERROR} False\nusage: python -m serving.{module}")
    assert done.returncode == 0 and {"client": "does not exist", "server": "is a file"}[module] in " ".join(done.stderr.split())
