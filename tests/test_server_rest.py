"""The REST port: rows, columns and examples as TensorFlow Serving takes and answers them, and its words for mistakes."""

import http.client
import json
import math
import re
import socket
import time

import pytest
import tiny_saved_models as tiny
from running_server import SECONDS, copy_in, running, served

from preprocessing.errors import UserError
from serving.server import rest
from serving.server.model_server import Listening, ModelServer
from serving.versions.labels import REGISTER_FILE

MAX_BYTES = 2**20
PREDICT = "/v1/models/tiny:predict"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base_path = tmp_path_factory.mktemp("rest")
    copy_in(tiny.save(base_path / "saved", bias=10.0), base_path, 3)
    (base_path / REGISTER_FILE).write_text('{"labels": {"stable": 3}}')
    with running(served(base_path), max_request_bytes=MAX_BYTES) as asked:
        yield asked


def predict(server, content, path=PREDICT):
    return server.post(path, {"signature_name": "predict", **content} if isinstance(content, dict) else content)


# Answers.


@pytest.mark.parametrize(
    "path", [PREDICT, "/v1/models/tiny/versions/3:predict", "/v1/models/tiny/labels/stable:predict", f"{PREDICT}?a=b"]
)
def test_rows_are_answered_by_rows(server, path):
    rows = [{"x": 0.1, "name": "a"}, {"name": "b\u00fc", "x": 2}]
    expected = {"predictions": [{"name": "a", "score": 10.1}, {"name": "b\u00fc", "score": 12.0}]}
    assert predict(server, {"instances": rows}, path) == (200, expected)


def test_columns_are_answered_by_columns(server):
    assert predict(server, {"inputs": {"x": [0.1, 2], "name": ["a", "b"]}}) == (
        200,
        {"outputs": {"name": ["a", "b"], "score": [10.1, 12.0]}},
    )


def test_a_signature_of_one_input_takes_plain_lists(server):
    content = {"signature_name": "count", "instances": [1, 2]}
    assert predict(server, content) == (200, {"predictions": [2, 4]})
    assert predict(server, {"signature_name": "count", "inputs": [1, 2]}) == (200, {"outputs": [2, 4]})
    assert (
        predict(server, {"signature_name": "join", "instances": [["a", "b"], ["c", "d"]]})[1]["predictions"][1]["joined"] == "c+d"
    )


def test_bytes_come_and_go_as_base64(server):
    content = {"signature_name": "join", "inputs": [[{"b64": "/w=="}, "b"]]}
    assert predict(server, content) == (200, {"outputs": {"joined": [{"b64": "/yti"}], "text_bytes": [{"b64": "/w=="}]}})


def test_numbers_that_are_none_are_bare_words(server):
    status, answer = predict(server, b'{"signature_name": "predict", "inputs": {"x": [NaN, -Infinity], "name": ["", ""]}}')
    assert status == 200 and math.isnan(answer["outputs"]["score"][0]) and answer["outputs"]["score"][1] == -math.inf


def test_a_scalar_output_needs_columns(server):
    assert predict(server, {"signature_name": "total", "inputs": [1.5, 2.0]}) == (200, {"outputs": 3.5})
    status, answer = predict(server, {"signature_name": "total", "instances": [1.5, 2.0]})
    assert status == 400 and "no common number of rows" in answer["error"]


def test_examples_are_classified_and_regressed(server):
    examples = {"examples": [{"x": 0.5}, {"x": [1.0]}]}
    assert server.post("/v1/models/tiny:classify", {"signature_name": "classify", **examples}) == (
        200, {"results": [[["no", -10.5], ["yes", 10.5]], [["no", -11.0], ["yes", 11.0]]]})  # fmt: skip
    assert server.post("/v1/models/tiny:regress", {"signature_name": "regress", **examples}) == (200, {"results": [10.5, 11.0]})
    content = {"signature_name": "regress", "context": {"x": 7.5}, "examples": [{}, {"x": 1.0}]}
    assert server.post("/v1/models/tiny:regress", content) == (200, {"results": [17.5, 11.0]})


def test_status_and_metadata_are_shown(server):
    entry = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("", "/versions/3", "/labels/stable"):
        assert server.get(f"/v1/models/tiny{path}") == (200, {"model_version_status": [entry]})
    status, answer = server.get("/v1/models/tiny/metadata")
    assert status == 200 and answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["predict"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_one_connection_serves_many_requests(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server.rest_port, timeout=SECONDS)
    for _ in range(3):
        connection.request("POST", PREDICT, json.dumps({"signature_name": "count", "instances": [1]}))
        assert json.load(connection.getresponse()) == {"predictions": [2]}
    connection.close()


def test_metrics_are_in_prometheus_text(server):
    status, text = server.get("/monitoring/prometheus/metrics")
    assert status == 200 and "# TYPE :tensorflow:serving:request_count counter\n" in text
    assert "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes " in text


# Mistakes.


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "JSON Parse error: The document is empty"),
        (b"{", 400, "JSON Parse error: Expecting property name"),
        (b"\xff", 400, "JSON Parse error"),
        (b"[" * 100_000, 400, "JSON Parse error"),
        (b"[1]", 400, "JSON Value: [1] Is not object"),
        ({}, 400, "Missing 'inputs' or 'instances' key"),
        ({"inputs": [1], "instances": [1]}, 400, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"signature_name": 1}, 400, "'signature_name' key must be a string value."),
        ({"signature_name": "rank", "inputs": [1]}, 400, 'Serving signature name: "rank" not found in signature def'),
        ({"instances": []}, 400, "with at least one value"),
        ({"instances": {"x": 1}}, 400, "with at least one value"),
        ({"instances": [1]}, 400, "instances is a plain list, but expecting list of objects"),
        ({"instances": [{"x": 1, "name": "a"}, 1]}, 400, "Expecting object but got list at item 1 of input list"),
        ({"instances": [{"x": 1}]}, 400, "Failed to process element: 0 of 'instances' list."),
        ({"instances": [{"x": 1, "name": "a", "y": 1}]}, 400, "keys must be equal to: name,x"),
        ({"signature_name": "count", "instances": [1, {"n": 1}]}, 400, "Expecting value/list but got object at item 1"),
        ({"inputs": [1]}, 400, "inputs is a plain value/list, but expecting an object"),
        ({"inputs": {"x": [1]}}, 400, "Missing named input: name in 'inputs' object."),
        ({"inputs": {"x": [1], "name": ["a"], "y": [1]}}, 400, "Unknown named input: y in 'inputs' object"),
        ({"inputs": {"x": ["1"], "name": ["a"]}}, 400, "x: JSON Value: '1' Type: String is not of expected type: float32"),
        ({"inputs": {"x": [None], "name": ["a"]}}, 400, "x: JSON Value: None Type: Null is not of expected type: float32"),
        ({"inputs": {"x": [True], "name": ["a"]}}, 400, "Type: Bool is not of expected type: float32"),
        ({"inputs": {"x": [1], "name": [1]}}, 400, "name: JSON Value: 1 Type: Number is not of expected type: string"),
        ({"inputs": {"x": [1], "name": [{"b64": "?"}]}}, 400, "name: Unable to base64 decode"),
        ({"inputs": {"x": [16777217], "name": ["a"]}}, 400, "Cannot convert JSON value: 16777217 to float32 without loss"),
        ({"inputs": {"x": [1e39], "name": ["a"]}}, 400, "without loss of precision"),
        ({"signature_name": "count", "inputs": [1.5]}, 400, "JSON Value: 1.5 Type: Number is not of expected type: int64"),
        ({"signature_name": "count", "inputs": [2**63]}, 400, "is not of expected type: int64"),
        ({"inputs": {"x": [[1], [1, 2]], "name": ["a"]}}, 400, "x: Encountered list at unexpected size: 2 at level: 1 "),
        ({"inputs": {"x": [1, [1]], "name": ["a"]}}, 400, "x: Encountered list at unexpected level: 1 expected < 1"),
        ({"inputs": {"x": [[1], 1], "name": ["a"]}}, 400, "x: JSON Value: 1 found at incorrect level: 2"),
        ({"inputs": {"x": [[[[[[[[[1]]]]]]]]], "name": ["a"]}}, 400, "x: expected at most 8 dimensions, received more"),
    ],
)  # fmt: skip
def test_a_wrong_predict_request_gets_its_status(server, content, status, message):
    received, answer = predict(server, content)
    assert received == status and message in answer["error"]
    assert predict(server, {"signature_name": "count", "instances": [1]}) == (200, {"predictions": [2]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "Expecting 'examples' value to be a list with at least one example"),
        ({"examples": []}, "with at least one example"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": [1.0, "a"]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": [2**63]}]}, "is not of expected type: int64"),
        ({"examples": [{"x": 1}]}, "Data types don't match. Data type: int64 but expected type: float"),
    ],
)
def test_wrong_examples_are_told(server, content, message):
    status, answer = server.post("/v1/models/tiny:regress", {"signature_name": "regress", **content})
    assert status == 400 and message in answer["error"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/other", 404, "Could not find any versions of model other"),
        ("/v1/models/tiny/versions/9", 404, "Could not find version 9 of model tiny"),
        ("/v1/models/tiny/versions/99999999999999999999", 400, "Failed to convert version"),
        ("/v1/models/tiny/labels/none", 400, "Unrecognized servable version label: none"),
        ("/v1/models/other/metadata", 404, "Servable not found for request: Latest(other)"),
        ("/v1/models", 400, "Malformed request: GET /v1/models"),
        ("/v1/models/a/b/c", 400, "Malformed request"),
        ("/etc/passwd", 404, "Malformed request: GET /etc/passwd"),
    ],
)
def test_wrong_paths_are_told(server, path, status, message):
    received, answer = server.get(path)
    assert received == status and message in answer["error"]


def test_wrong_paths_of_posts_are_told(server):
    assert server.post("/v1/models/tiny:rank", {}) == (400, {"error": "Malformed request: POST /v1/models/tiny:rank"})
    assert server.post("/v1/models/other:predict", {"instances": [1]})[0] == 404


def raw(server, request, read=True):
    """What the server answers to bytes: HTTP status, and whether it closed the connection."""
    with socket.create_connection(("127.0.0.1", server.server.rest_port), timeout=SECONDS) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, json.loads(response.read())["error"], response.headers["Connection"]


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        (f"Content-Length: {MAX_BYTES + 1}", 413, f"more than the {MAX_BYTES} that --max_request_bytes allows"),
        ("Content-Length: -1", 411, "expected a Content-Length header"),
        ("Transfer-Encoding: chunked", 411, "expected a Content-Length header"),
        ("Content-Length: 2\r\nContent-Encoding: gzip", 415, "expected a plain body"),
    ],
)
def test_a_body_that_is_not_read_is_refused(server, headers, status, message):
    received, error, connection = raw(server, f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n".encode())
    assert received == status and message in error and connection == "close"
    assert predict(server, {"signature_name": "count", "instances": [1]})[0] == 200


def counts(server):
    text = server.get("/monitoring/prometheus/metrics")[1]
    found = re.findall(r'^:tensorflow:serving:request_count{model_name="(\w*)",status="(\w+)"} (\d+)$', text, flags=re.MULTILINE)
    return {(name, status): int(number) for name, status, number in found}


def newly_counted(server, ask):
    before = counts(server)
    ask()
    return {key: number - before.get(key, 0) for key, number in counts(server).items() if number != before.get(key, 0)}


@pytest.mark.parametrize(
    ("path", "content", "counted"),
    [
        (PREDICT, b"{", ("tiny", "INVALID_ARGUMENT")),
        (PREDICT, {"inputs": {"x": [1]}}, ("tiny", "INVALID_ARGUMENT")),
        (PREDICT, {"signature_name": "rank", "inputs": [1]}, ("tiny", "INVALID_ARGUMENT")),
        ("/v1/models/tiny/versions/9:predict", {"instances": [1]}, ("tiny", "NOT_FOUND")),
        ("/v1/models/tiny:classify", {"examples": [1]}, ("tiny", "INVALID_ARGUMENT")),
        ("/v1/models/tiny:classify", {"signature_name": "rank", "examples": [{}]}, ("tiny", "INVALID_ARGUMENT")),
        ("/v1/models/other:predict", {"instances": [1]}, ("", "NOT_FOUND")),
        ("/v1/models/tiny:rank", {}, ("", "INVALID_ARGUMENT")),
        ("/score", {}, ("", "NOT_FOUND")),
        (PREDICT, {"signature_name": "count", "instances": [1]}, ("tiny", "OK")),
    ],
)
def test_each_post_is_counted_once_whether_a_model_is_asked_or_not(server, path, content, counted):
    assert newly_counted(server, lambda: server.post(path, content)) == {counted: 1}


def test_bodies_that_are_not_read_and_defects_are_counted(server, monkeypatch):
    too_large = f"POST {PREDICT} HTTP/1.1\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n".encode()
    assert newly_counted(server, lambda: raw(server, too_large)) == {("tiny", "INVALID_ARGUMENT"): 1}
    monkeypatch.setattr(rest.rest_json, "parse", lambda _: 1 / 0)
    assert newly_counted(server, lambda: server.post(PREDICT, {})) == {("tiny", "INTERNAL"): 1}


def test_a_caller_that_falls_silent_is_told(server, monkeypatch):
    monkeypatch.setattr(rest, "IDLE_SECONDS", 0.2)
    status, error, connection = raw(server, f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc".encode())
    assert status == 400 and "the request ended before its 100 bytes had come" in error and connection == "close"


def test_what_is_no_http_is_refused(server):
    assert raw(server, b"PUT /v1/models/tiny HTTP/1.1\r\nHost: a\r\n\r\n")[0] == 501
    assert raw(server, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")[0] == 414
    with socket.create_connection(("127.0.0.1", server.server.rest_port), timeout=SECONDS) as connection:
        connection.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
        assert b"error" in connection.makefile("rb").read()


def test_a_caller_that_leaves_harms_nobody(server):
    for part in (b"", b"POST ", f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc".encode()):
        with socket.create_connection(("127.0.0.1", server.server.rest_port), timeout=SECONDS) as connection:
            connection.sendall(part)
    assert predict(server, {"signature_name": "count", "instances": [1]})[0] == 200


def test_a_defect_is_told_and_logged(server, monkeypatch, caplog):
    monkeypatch.setattr(rest.rest_json, "parse", lambda _: 1 / 0)
    status, answer = predict(server, {})
    assert (status, answer) == (500, {"error": "the server failed (ZeroDivisionError); see its log"})
    assert "failed in the server itself" in caplog.text


def test_connections_beyond_the_limit_are_closed(server):
    address = ("127.0.0.1", server.server.rest_port)
    held = [socket.create_connection(address, timeout=SECONDS) for _ in range(rest.MAX_CONNECTIONS)]
    with socket.create_connection(address, timeout=SECONDS) as one_too_many:
        assert one_too_many.recv(1) == b""
    for connection in held:
        connection.close()
    for _ in range(200):  # the threads of the closed ones end
        try:
            assert predict(server, {"signature_name": "count", "instances": [1]})[0] == 200
            break
        except OSError:
            time.sleep(0.05)
    else:
        pytest.fail("no connection is taken any more")


@pytest.mark.parametrize(("port", "rest_port", "flag"), [("port", None, "--port"), (None, "rest_port", "--rest_api_port")])
def test_a_second_server_cannot_take_a_port(server, port, rest_port, flag):
    taken = {"port": server.server.port if port else 0, "rest_port": server.server.rest_port if rest_port else 0}
    with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:\d+: the port is in use .* choose another {flag}"):
        ModelServer(server.models, server.metrics, Listening(**taken))
