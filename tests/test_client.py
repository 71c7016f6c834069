"""The clients and their command, against a server that fails as scripted: retries, deadlines, TLS, candidates, files."""

import asyncio
import csv
import gzip
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scripted_server
import tensorflow as tf
import yaml
from certificates import Authority
from scripted_server import MODEL, Status, expected_logits

from preprocessing.errors import EXIT_USER_ERROR, UserError
from serving.client import command, refusals
from serving.client.aio_client import AsyncPredictClient
from serving.client.predict_client import PredictClient, PredictError, Tls

REPOSITORY = Path(__file__).resolve().parents[1]
Code = grpc.StatusCode
ROWS = {
    "user": ["ann", "", None, "m\u00fcnchen", "bob"], "price": [1.5, float("nan"), None, 0.25, -2.0],
    "tags": [["x", "y"], [], None, ["y"], [""]], "image": [[1.0, 2.0], [np.nan, np.nan], [0, 0], [0.5, 0.5], [3, -1]],
}  # fmt: skip


@pytest.fixture(scope="module")
def shared_server():
    with scripted_server.running() as server:
        yield server


@pytest.fixture
def server(shared_server):
    """A server with an empty script."""
    shared_server.__dict__.update(
        script=[], statuses=[[(7, Status.AVAILABLE)]], lacks=frozenset(), asked=[], metadata_asked=[], most_at_once=0
    )
    return shared_server


@pytest.fixture
def client(server):
    with PredictClient(server.address, MODEL) as client:
        yield client


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(refusals, "_FIRST_WAIT_SECONDS", 0.001)


def rows_of(request):
    return [
        dict(zip(ROWS, values, strict=True))
        for values in zip(*(tf.make_ndarray(request.inputs[name]) for name in ROWS), strict=True)
    ]


# ---- Columns ----


def test_rows_are_scored_in_chunks_and_in_order(server):
    with PredictClient(server.address, MODEL, chunk_rows=2) as client:
        assert client.wait_until_ready(10) == 7
        answers = client.predict(ROWS)
    np.testing.assert_allclose(answers["logit"], expected_logits(ROWS))
    np.testing.assert_allclose(answers["probability"], 1 / (1 + np.exp(-expected_logits(ROWS))), rtol=1e-6)
    assert [len(rows_of(request)) for request in server.asked] == [2, 2, 1]
    assert len(server.metadata_asked) == 1


def test_lists_begin_with_an_empty_text(client, server):
    """A server that joins calls fills a shorter list up with its first text."""
    client.predict(ROWS)
    assert tf.make_ndarray(server.asked[0].inputs["tags"]).tolist() == [
        [b"", b"x", b"y"], [b"", b"", b""], [b"", b"", b""], [b"", b"", b"y"], [b"", b"", b""]]  # fmt: skip


def test_what_programs_call_nothing_is_missing(client):
    nothing = {"user": [None, float("nan"), pd.NA, "", b""], "price": [None, np.nan, float("nan"), 0, 0], "tags": [None, [], [""], [None], [""]],
               "image": [[np.nan, np.nan]] * 5}  # fmt: skip
    assert client.predict(nothing)["logit"].tolist() == [0.0] * 5


def test_no_rows_are_answered_without_a_call(client, server):
    nothing = client.predict({name: [] for name in ROWS})
    assert {name: (array.shape, array.dtype) for name, array in nothing.items()} == {
        "logit": ((0,), np.float32), "probability": ((0,), np.float32)}  # fmt: skip
    assert server.asked == []


@pytest.mark.parametrize(("changed", "message"), [
    ({"user": [1, None, 2.5, "a", float("nan")]}, "column user: expected string values: received float, int; convert them"),
    ({"user": [1] * 5}, "column user: expected string values: received int; convert them, as the log has them, with str"),
    ({"user": [["ann"]] * 5}, r"column user: expected one value a row, received an array of shape \(5, 1\)"),
    ({"price": ["cheap"] * 5}, "column price: expected float32 values: could not convert"),
    ({"price": [1.0]}, "must be of one length, received {'image': 5, 'price': 1, 'tags': 5, 'user': 5}"),
    ({"tags": ["x"] * 5}, "column tags: expected string values: a sequence of texts a row, received a text"),
    ({"image": [[1.0]] * 5}, r"column image: expected 2 values a row, received an array of shape \(5, 1\)"),
    ({"click": [1] * 5}, r"takes the columns \['image', 'price', 'tags', 'user'\]: missing \[\], not known \['click'\]"),
])  # fmt: skip
def test_wrong_columns_are_told_without_a_call(client, server, changed, message):
    with pytest.raises(PredictError, match=message) as caught:
        client.predict({**ROWS, **changed})
    assert caught.value.code == Code.INVALID_ARGUMENT and server.asked == []


def test_more_than_four_megabytes_come_and_go(server):
    rows = 600_000
    columns = {"user": ["ann"] * rows, "price": np.ones(rows), "tags": np.full([rows, 1], ""), "image": np.zeros([rows, 2])}
    with PredictClient(server.address, MODEL, chunk_rows=rows, deadline=60) as client:
        assert client.predict(columns)["logit"].tolist() == [4.0] * rows
    assert server.asked[0].ByteSize() > 4 * 2**20


def test_a_version_and_a_label_are_asked(server):
    for chosen, expected in (({"version": 7}, (7, "")), ({"label": "stable"}, (0, "stable")), ({}, (0, ""))):
        with PredictClient(server.address, MODEL, **chosen) as client:
            assert client.wait_until_ready(10) == 7
            client.predict(ROWS)
        spec = server.asked[-1].model_spec
        assert (spec.version.value, spec.version_label) == expected
    with pytest.raises(ValueError, match="give a version or a label, not both, received 7 and 'stable'"):
        PredictClient(server.address, MODEL, version=7, label="stable")


@pytest.mark.parametrize("wrong", [{"chunk_rows": 0}, {"deadline": 0}, {"concurrency": 0}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match="chunk_rows and concurrency must be at least 1 and deadline above 0"):
        PredictClient("127.0.0.1:1", MODEL, **wrong)


# ---- Retries, deadlines, and what failures mean ----


@pytest.mark.parametrize("passing", [(Code.UNAVAILABLE, "queue is full"), (Code.RESOURCE_EXHAUSTED, "too many threads")])
def test_a_call_that_was_not_taken_is_sent_again(client, server, passing):
    server.script = [passing, passing]
    np.testing.assert_allclose(client.predict(ROWS)["logit"], expected_logits(ROWS))
    assert len(server.asked) == 3


@pytest.mark.parametrize(("code", "details", "message"), [
    (Code.INVALID_ARGUMENT, "input size", "the server refused the inputs: compare them"),
    (Code.INVALID_ARGUMENT, "Unrecognized servable version label: x", "no version there carries that label: set it on the server"),
    (Code.FAILED_PRECONDITION, "Serving signature key", "has no such signature, or cannot answer it"),
    (Code.FAILED_PRECONDITION, "different shapes and padding is turned off", "set its pad_variable_length_inputs, which the lists of this client allow"),
    (Code.NOT_FOUND, "Servable not found", "correct the model's name or the version"),
    (Code.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", "larger than the server takes: send fewer rows a call"),
    (Code.RESOURCE_EXHAUSTED, "received metadata size exceeds soft limit (15120 vs. 8192); :status:20B",
     "refused the call in more words than gRPC takes: compare the inputs with the signature"),
    (Code.RESOURCE_EXHAUSTED, "received metadata size exceeds hard limit (20000 vs. 16384)", "in more words than gRPC takes"),
    (Code.UNIMPLEMENTED, "Method not found!", "not TensorFlow Serving's gRPC protocol: correct HOST:PORT"),
    (Code.INTERNAL, "an op failed", "the server refused the call"),
])  # fmt: skip
def test_a_call_that_was_refused_is_not_sent_again(client, server, code, details, message):
    server.script = [(code, details)] * 2
    with pytest.raises(PredictError, match=message) as caught:
        client.predict(ROWS)
    assert caught.value.code == code and f"({code.name}: {details})" in str(caught.value)
    assert len(server.asked) == 1


def test_retries_end_with_the_deadline(server, monkeypatch):
    monkeypatch.setattr(refusals, "_LONGEST_WAIT_SECONDS", 0.02)
    server.script = [(Code.UNAVAILABLE, "queue is full")] * 10_000
    with PredictClient(server.address, MODEL, deadline=2) as client:
        client.input_specs()
        with pytest.raises(PredictError, match=r"UNAVAILABLE in \d+ attempts: queue is full") as caught:
            client.predict(ROWS)
    assert caught.value.code == Code.UNAVAILABLE and len(server.asked) > 1


def test_waits_grow_and_are_random():
    state = type("State", (), {})()
    wait = refusals.retry_policy(60)["wait"]
    for attempt, most in ((1, 0.001), (4, 0.008), (40, 2.0)):
        state.attempt_number = attempt
        drawn = [wait(state) for _ in range(200)]
        assert 0 <= min(drawn) < most / 2 < max(drawn) <= most


def test_a_deadline_is_told():
    with socket.socket() as silent:  # takes connections and never answers: no server is too quick for the deadline
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = PredictClient(f"127.0.0.1:{silent.getsockname()[1]}", MODEL, deadline=0.2)
        with client, pytest.raises(PredictError, match=r"no answer within 0.2 s: raise the deadline or send fewer rows a call"):
            client.predict(ROWS)


def test_a_server_that_is_down_is_told():
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        client = PredictClient(f"127.0.0.1:{taken.getsockname()[1]}", MODEL)
        with (
            client,
            pytest.raises(PredictError, match="no server answers there: start one with .* wants TLS needs --tls") as caught,
        ):
            client.wait_until_ready(0.5)
    assert caught.value.code == Code.UNAVAILABLE


def test_a_port_without_grpc_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as rest:

        def answer():
            connection, _ = rest.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(100)

        threading.Thread(target=answer, daemon=True).start()
        client = PredictClient(f"127.0.0.1:{rest.getsockname()[1]}", MODEL)
        with (
            client,
            pytest.raises(PredictError, match=r"does not speak gRPC like this: give the server's gRPC port .* needs --tls"),
        ):
            client.wait_until_ready(600)


def test_a_newer_version_with_other_inputs_is_asked_for_them(client, server):
    client.predict(ROWS)
    server.script = [(Code.INVALID_ARGUMENT, "input size does not match signature")]
    with pytest.raises(PredictError):
        client.predict(ROWS)
    client.predict(ROWS)
    assert len(server.metadata_asked) == 2


def test_a_caller_that_is_earlier_than_the_version_it_writes_for_is_answered_after_the_swap(client, server):
    server.lacks = frozenset(["image"])
    for asked in (1, 2):  # anew with each refusal, but not what has just been asked
        with pytest.raises(PredictError, match=r"missing \[\], not known \['image'\]"):
            client.predict(ROWS)
        assert len(server.metadata_asked) == asked
    server.lacks = frozenset()
    np.testing.assert_allclose(client.predict(ROWS)["logit"], expected_logits(ROWS))
    client.predict(ROWS)
    assert len(server.metadata_asked) == 3


def test_a_caller_that_ranks_is_answered_after_the_swap_too(client, server):
    server.lacks = frozenset(["image"])
    with pytest.raises(PredictError, match=r"missing \[\], not known \['image'\]"):
        client.rank(SHARED, CANDIDATES)
    server.lacks = frozenset()
    np.testing.assert_allclose(client.rank(SHARED, CANDIDATES)["logit"], RANKED)


def test_chunks_are_sent_at_once_and_joined_in_order(server):
    server.script = [scripted_server.all_in_progress(3)] * 3
    with PredictClient(server.address, MODEL, chunk_rows=2, concurrency=3) as client:
        np.testing.assert_allclose(client.predict(ROWS)["logit"], expected_logits(ROWS))
    assert server.most_at_once == 3


# ---- Readiness ----


def test_a_client_waits_for_the_first_version(client, server):
    server.statuses = [
        [(6, Status.START)],
        [(6, Status.END), (7, Status.LOADING)],
        [(6, Status.AVAILABLE), (7, Status.AVAILABLE)],
    ]
    assert client.wait_until_ready(30) == 7


def test_waiting_ends_with_what_the_server_said(client, server):
    server.statuses = [[(6, Status.END), (7, Status.LOADING)]]
    with pytest.raises(
        PredictError, match=r"no available version after 0.1 s \(versions: 6 END; 7 LOADING\): see the server's log"
    ):
        client.wait_until_ready(0.1)


@pytest.mark.parametrize(("model", "chosen", "message"), [
    ("other", {}, "correct the model's name or the version"), (MODEL, {"version": 3}, "model kinds version 3 on"),
    (MODEL, {"label": "canary"}, "no version there carries that label"),
])  # fmt: skip
def test_what_the_server_does_not_have_is_told_at_once(server, model, chosen, message):
    with PredictClient(server.address, model, **chosen) as client, pytest.raises(PredictError, match=message):
        client.wait_until_ready(600)


def test_signatures_that_there_are_are_named(server):
    there_are = r"has no signature 'rank': it has \['candidates', 'explain', 'matrix', 'predict'\]"
    with PredictClient(server.address, MODEL, signature="rank") as client, pytest.raises(PredictError, match=there_are):
        client.predict({})


# ---- One user's features for many candidates ----

SHARED = {"user": "ann", "tags": ["x", "y"]}
CANDIDATES = {"price": [1.0, 2.0, 3.0, 4.0, 5.0], "image": np.arange(10).reshape(5, 2)}
RANKED = np.array([1 + 3 + 200 + 1, 2 + 203 + 5, 3 + 203 + 9, 4 + 203 + 13, 5 + 203 + 17], np.float32)


def test_shared_features_are_sent_once_a_call(server):
    with PredictClient(server.address, MODEL, chunk_rows=3) as client:
        answers = client.rank(SHARED, CANDIDATES)
        np.testing.assert_allclose(answers["logit"], RANKED)
        assert client.rank(SHARED, {"price": [], "image": []})["logit"].shape == (0,)
    shapes = [{name: list(tf.make_ndarray(proto).shape) for name, proto in request.inputs.items()} for request in server.asked]
    shared = {"user": [1, 1], "tags": [1, 1, 3], "candidate_count": [1], "shared_fields": [1]}
    assert shapes == [{**shared, "price": [1, 3], "image": [1, 3, 2]}, {**shared, "price": [1, 2], "image": [1, 2, 2]}]
    inputs = server.asked[1].inputs
    assert tf.make_ndarray(inputs["shared_fields"]).tolist() == [b"user,tags"] and tf.make_ndarray(
        inputs["candidate_count"]
    ).tolist() == [2]
    assert server.asked[1].model_spec.signature_name == "candidates"


def test_nothing_need_be_shared(client):
    every = {"user": ["ann"] * 5, "tags": [["x", "y"]] * 5, **CANDIDATES}
    np.testing.assert_allclose(client.rank({}, every)["logit"], RANKED)


@pytest.mark.parametrize(("shared", "candidates", "message"), [
    ({**SHARED, "price": 1.0}, CANDIDATES, r"the fields \['price'\] are given as shared and by candidate"),
    ({**SHARED, **{name: values[0] for name, values in CANDIDATES.items()}}, {}, "no field differs between the candidates"),
    ({"user": "ann"}, CANDIDATES, r"missing \['tags'\], not known \[\]"),
    ({**SHARED, "click": 1}, CANDIDATES, r"missing \[\], not known \['click'\]"),
    ({**SHARED, "user": ["ann"]}, CANDIDATES, "column user: expected one value a row"),
    (SHARED, {**CANDIDATES, "price": [1.0]}, "columns must be of one length, received {'price': 1, 'image': 5}"),
])  # fmt: skip
def test_wrong_candidates_are_told(client, shared, candidates, message):
    with pytest.raises(PredictError, match=message):
        client.rank(shared, candidates)


# ---- Async ----


def asynchronously(server, use, **settings):
    async def run():
        async with AsyncPredictClient(server.address, MODEL, **settings) as client:
            return await use(client)

    return asyncio.run(run())


def test_async_calls_share_a_connection_and_a_limit(server):
    server.script = [scripted_server.all_in_progress(4)] * 4 + [scripted_server.slow] * 26

    async def use(client):
        assert await client.wait_until_ready(10) == 7
        return await asyncio.gather(*(client.predict(ROWS) for _ in range(10)))

    for answers in asynchronously(server, use, chunk_rows=2, concurrency=4):
        np.testing.assert_allclose(answers["logit"], expected_logits(ROWS))
    assert (len(server.asked), server.most_at_once) == (30, 4)
    assert len(server.metadata_asked) == 1


def test_async_calls_are_sent_again_where_that_is_safe(server):
    server.script = [(Code.UNAVAILABLE, "queue is full"), (Code.RESOURCE_EXHAUSTED, "busy")]
    answers = asynchronously(server, lambda client: client.predict(ROWS))
    np.testing.assert_allclose(answers["logit"], expected_logits(ROWS))
    assert len(server.asked) == 3


def test_async_failures_are_told(server):
    server.script = [(Code.INVALID_ARGUMENT, "an input")] * 5
    with pytest.raises(PredictError, match=r"the server refused the inputs.*\(INVALID_ARGUMENT: an input\)") as caught:
        asynchronously(server, lambda client: client.predict(ROWS), chunk_rows=1, concurrency=1)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert len(server.asked) == 1, "the other chunks are given up"


def test_async_candidates_are_ranked(server):
    np.testing.assert_allclose(
        asynchronously(server, lambda client: client.rank(SHARED, CANDIDATES), chunk_rows=2)["logit"], RANKED
    )
    nothing = asynchronously(server, lambda client: client.predict({name: [] for name in ROWS}))
    assert nothing["logit"].shape == (0,)


def test_async_callers_are_answered_after_a_swap(server):
    async def use(client):
        server.lacks = frozenset(["image"])
        assert "image" not in await client.input_specs()
        server.lacks = frozenset()
        return await asyncio.gather(*(client.predict(ROWS) for _ in range(10)))

    for answers in asynchronously(server, use):
        np.testing.assert_allclose(answers["logit"], expected_logits(ROWS))
    assert len(server.metadata_asked) == 2, "once anew, however many tasks it does not fit"


def test_async_ranking_is_answered_after_a_swap(server):
    async def use(client):
        server.lacks = frozenset(["image"])
        with pytest.raises(PredictError, match=r"not known \['image'\]"):
            await client.rank(SHARED, CANDIDATES)
        server.lacks = frozenset()
        return await client.rank(SHARED, CANDIDATES)

    np.testing.assert_allclose(asynchronously(server, use)["logit"], RANKED)


def test_async_readiness(server):
    server.statuses = [[(7, Status.LOADING)], [(7, Status.AVAILABLE)]]
    assert asynchronously(server, lambda client: client.wait_until_ready(30), label="stable") == 7
    server.statuses = [[(7, Status.LOADING)]]
    with pytest.raises(PredictError, match=r"versions: 7 LOADING"):
        asynchronously(server, lambda client: client.wait_until_ready(0.1))


# ---- TLS ----


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(authority):
    """A server that asks clients for a certificate of the authority."""
    certificate, key = authority.sign("server")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.certificate.read_bytes(), require_client_auth=True
    )
    with scripted_server.running(credentials) as server:
        yield server


def test_both_sides_show_certificates(tls_server, authority):
    tls = Tls(authority.certificate, *authority.sign("client"))
    with PredictClient(tls_server.address, MODEL, tls=tls) as client:
        assert client.wait_until_ready(30) == 7
        np.testing.assert_allclose(client.predict(ROWS)["logit"], expected_logits(ROWS))
    answers = asynchronously(tls_server, lambda client: client.predict(ROWS), tls=tls)
    np.testing.assert_allclose(answers["logit"], expected_logits(ROWS))


def test_a_server_of_another_authority_is_refused_at_once(tls_server, tmp_path):
    tls = Tls(Authority(tmp_path, "other").certificate)
    with (
        PredictClient(tls_server.address, MODEL, tls=tls) as client,
        pytest.raises(PredictError, match="the TLS handshake failed: give"),
    ):
        client.wait_until_ready(600)


def test_a_client_without_a_certificate_of_its_own_is_told(tls_server, authority):
    with (
        PredictClient(tls_server.address, MODEL, tls=Tls(authority.certificate)) as client,
        pytest.raises(PredictError, match="--tls_cert(,| and) --tls_key"),
    ):
        client.wait_until_ready(0.1)


def test_a_client_without_tls_is_told(tls_server):
    with (
        PredictClient(tls_server.address, MODEL) as client,
        pytest.raises(PredictError, match="a server that wants TLS needs --tls or --tls_ca"),
    ):
        client.wait_until_ready(0.1)


def test_wrong_files_of_certificates_are_told(authority, tmp_path):
    certificate, key = authority.sign("client")
    (tmp_path / "der").write_bytes(b"\x30\x82")
    with pytest.raises(UserError, match="--tls_cert was given without --tls_key: a client's certificate needs its private key"):
        Tls(authority.certificate, certificate)
    with pytest.raises(UserError, match="--tls_key was given without --tls_cert"):
        Tls(authority.certificate, key=key)
    with pytest.raises(
        UserError, match=r"--tls_ca .*none cannot be read \(No such file or directory\): give the path of a PEM file"
    ):
        Tls(tmp_path / "none").credentials()
    with pytest.raises(UserError, match="--tls_ca .*der is not a PEM file: expected text with a line"):
        Tls(tmp_path / "der").credentials()


# ---- The command ----

LOG = [
    {"uid": "ann", "price": "1.5", "tags": "x|y", "image": "1|2"}, {"uid": "", "price": "", "tags": "", "image": ""},
    {"uid": "bob", "price": "NULL", "tags": "|z", "image": "0.5|0.5"},
]  # fmt: skip
LOGITS = [1.5 + 3 + 200 + 3, 0.0, 3 + 100 + 1]
SCHEMA = {
    "name": "kinds", "label": {"column": "click"}, "split": {"by": "hash", "key": ["uid"]}, "missing": ["NULL"], "separator": "\t",
    "fields": [{"name": "user", "kind": "categorical", "column": "uid"}, {"name": "price", "kind": "numeric"},
               {"name": "tags", "kind": "multivalued", "separator": " "}, {"name": "image", "kind": "vector", "size": 2, "separator": ";"}],
}  # fmt: skip


@pytest.fixture
def score(server, tmp_path, capsys):
    """Runs the command; returns its exit code, the logits (None where a line has none) and what it said."""

    def run(path, *arguments):
        output = tmp_path / "out" / "scores.csv"
        output.parent.mkdir(exist_ok=True)
        code = command.main(
            ["--server", server.address, "--model", MODEL, "--input", str(path), "--output", str(output), *map(str, arguments)]
        )
        logits = None
        if output.exists():
            with output.open() as stream:
                logits = [float(row["logit"]) if row["logit"] else None for row in csv.DictReader(stream)]
        return code, logits, " ".join(capsys.readouterr().err.split())

    return run


def write_csv(path, rows, separator=","):
    text = "\n".join(separator.join(cells) for cells in [list(rows[0]), *(row.values() for row in rows)])
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_columns_may_have_other_names(score, tmp_path, server):
    path = write_csv(tmp_path / "in.csv", LOG)
    code, logits, said = score(path, "--column", "user=uid", "--missing", "NULL", "--version", 7, "--chunk_rows", 1)
    assert (code, logits) == (0, LOGITS), said
    assert "model kinds version 7 on" in said and "scored 3 rows in" in said
    assert {request.model_spec.version.value for request in server.asked} == {7}
    code, _, said = score(path)
    assert code == EXIT_USER_ERROR
    assert ("lacks the columns ['user'] that the model takes: its header has ['uid', 'price', 'tags', 'image']; add or rename them (a column "
            "may be empty), say which columns they are (--schema, or --column INPUT=COLUMN)") in said  # fmt: skip


def test_a_schema_says_how_the_file_is_written(score, tmp_path):
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    rows = [{**row, "tags": row["tags"].replace("|", " "), "image": row["image"].replace("|", ";")} for row in LOG]
    path = write_csv(tmp_path / "in.tsv.gz", rows, "\t")
    assert score(path, "--schema", tmp_path / "schema.yaml")[:2] == (0, LOGITS)
    other = {**SCHEMA, "fields": SCHEMA["fields"][:2]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    code, _, said = score(path, "--schema", tmp_path / "other.yaml")
    assert code == EXIT_USER_ERROR
    assert (
        "it has the fields ['price', 'user'], and the signature takes ['image', 'price', 'tags', 'user']: give the schema.yaml"
        in said
    )


def test_parquet_and_tfrecord_are_read(score, tmp_path):
    table = pa.table({"user": ["ann", None, "bob"], "price": [1.5, None, None], "tags": [["x", "y"], [], [None, "z"]],
                      "image": [[1.0, 2.0], None, [0.5, 0.5]], "other": [1, 2, 3]})  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet")[:2] == (0, LOGITS)
    with tf.io.TFRecordWriter(str(tmp_path / "in.tfrecord")) as writer:
        for row in table.to_pylist():
            texts = {"user": [row["user"]] if row["user"] else [], "tags": [tag for tag in row["tags"] if tag]}
            numbers = {"price": [row["price"]] if row["price"] else [], "image": row["image"] or []}
            features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in values]))
                        for name, values in texts.items()}  # fmt: skip
            features |= {name: tf.train.Feature(float_list=tf.train.FloatList(value=values)) for name, values in numbers.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    assert score(tmp_path / "in.tfrecord")[:2] == (0, LOGITS)


def test_malformed_rows_keep_their_places(score, tmp_path):
    rows = [LOG[0], {**LOG[0], "price": "cheap"}, LOG[1], {**LOG[0], "image": "1|2|3"}]
    path = write_csv(tmp_path / "in.csv", rows)
    code, logits, said = score(path, "--column", "user=uid", "--max_rejected_share", 0.5)
    assert (code, logits) == (0, [LOGITS[0], None, 0.0, None])
    assert ("2 of 4 rows are malformed and have no score: line 3: field 'price' (column 'price') is not a number line 5: field 'image' "
            "(column 'image') has another number of numbers than 2") in said  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), [
    (["--column", "usr=uid"], "--column names ['usr']: expected inputs of the signature, which are ['image', 'price', 'tags', 'user']"),
    (["--list_separator", "user=;"], "--list_separator names ['user']: expected columns of lists or vectors, which are ['image', 'tags']"),
    (["--signature", "matrix"], "the signature takes {'x': 'int64 (None, 2)'}, and a file can give"),
    (["--column", "user=uid", "--missing", "NULL", "--signature", "explain"],
     "several values a row in ['contribution'], which CSV cannot hold: choose another --signature, or score with `python -m serving.batch"),
    (["--label", "canary"], "no version there carries that label"),
    (["--tls_ca", "none.pem"], "--tls_ca none.pem cannot be read"),
    (["--schema", "none.yaml"], "schema file none.yaml does not exist"),
])  # fmt: skip
def test_wrong_flags_are_told(score, tmp_path, arguments, message):
    code, logits, said = score(write_csv(tmp_path / "in.csv", LOG), *arguments)
    assert (code, logits) == (EXIT_USER_ERROR, None)
    assert message in said and "Traceback" not in said


@pytest.mark.parametrize(("arguments", "message"), [
    (["--column", "user"], "--column must be INPUT=COLUMN, such as user=user_id"),
    (["--list_separator", "tags=, "], "--list_separator must be INPUT=TEXT with one character of text"),
    (["--concurrency", "0"], "--chunk_rows and --concurrency must be at least 1 and --deadline above 0, received 512, 0 and 10.0"),
    (["--version", "7", "--label", "stable"], "not allowed with argument"),
    (["--max_rejected_share", "2"], "--max_rejected_share must be a share from 0 to 1, received 2.0"),
])  # fmt: skip
def test_impossible_flags_are_refused(score, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        score(tmp_path / "in.csv", *arguments)
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_command_that_waits_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "QUIET_SECONDS", 0.0)
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = write_csv(tmp_path / "in.csv", [{"user": "u1"}])
        code = command.main(["--server", address, "--model", MODEL, "--input", str(path), "--wait", "1"])
    said = " ".join(capsys.readouterr().err.split())
    assert code == EXIT_USER_ERROR and f"waiting for model {MODEL} on {address}, at most 1 s in all error: " in said


def test_a_line_a_row_goes_to_standard_output(server, tmp_path, capsys):
    path = tmp_path / "in.tsv.gz"
    path.write_bytes(gzip.compress(b'image\tnote\tuser\tprice\ttags\n1|2\t"a\nb"\tann\t0.5\tx|y\n\n\t\t\t\t\n'))
    assert command.main(["--server", server.address, "--model", MODEL, "--input", str(path), "--separator", "tab"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["logit,probability", "206.5,1", "0,0.5"]
    assert "scored 2 rows in" in captured.err


@pytest.mark.parametrize(("text", "message"), [
    ("user,cost,tags,image\nann,1,,\n", "lacks the columns ['price'] that the model takes"),
    ("user,price,user,tags,image\nann,1,bob,,\n", "has the columns ['user'] more than once: rename all but one of each"),
    ("", "is empty: expected a header line and rows"),
    ("user,price,tags,image\n", "has a header and no rows: nothing to score"),
    ("user,price,tags,image\nann,1,,\nbob,cheap,,\n", ("1 of 2 rows (50.00%) are malformed, more than --max_rejected_share 0.01 allows, so "
      "nothing was written: line 3: field 'price' (column 'price') is not a number. Correct the file")),
])  # fmt: skip
def test_a_bad_file_is_explained(score, tmp_path, text, message):
    (tmp_path / "in.csv").write_text(text)
    code, _, said = score(tmp_path / "in.csv")
    assert code == EXIT_USER_ERROR and message in said and "in.csv" in said and "Traceback" not in said
    assert list((tmp_path / "out").iterdir()) == []


def test_every_kind_of_malformed_row_is_named(score, tmp_path):
    rows = [
        b"ann,0.5,,",
        b"bob",
        b'"bob\n",2,,',
        b"ann,cheap,,",
        b"",
        b"a\xff,1,,",
        b"bob,2,x",
        b"bob, 2 ,,",
        b"eve,1,x,y,z",
        b"ann,nan,,",
        b"-",
    ]
    (tmp_path / "in.csv").write_bytes(b"user,price,tags,image\n" + b"\n".join(rows))
    code, logits, said = score(tmp_path / "in.csv", "--max_rejected_share", 0.6)
    assert (code, logits) == (0, [3.5, None, 6.0, None, None, None, 5.0, None, 3.0, None])
    assert (
        "6 of 10 rows are malformed and have no score: line 3: wrong number of columns: expected 4, received 1 line 6: field 'price' "
        "(column 'price') is not a number line 8: not valid UTF-8 line 9: wrong number of columns: expected 4, received 3 line 11: wrong "
        "number of columns: expected 4, received 5 and 1 more" in said
    )


def test_a_file_of_malformed_rows_only_may_be_allowed(score, tmp_path):
    (tmp_path / "in.csv").write_text("user,price,tags,image\nbob\n")
    assert score(tmp_path / "in.csv", "--max_rejected_share", 1)[:2] == (0, [None])


def test_absent_files_are_told(score, tmp_path, capsys):
    code, _, said = score(tmp_path / "none.csv")
    assert code == EXIT_USER_ERROR and "none.csv does not exist: give a CSV file with a header" in said
    path = write_csv(tmp_path / "in.csv", LOG)
    assert (
        command.main(["--model", MODEL, "--input", str(path), "--output", str(tmp_path / "none" / "scores.csv")])
        == EXIT_USER_ERROR
    )
    assert "none does not exist: create it first" in " ".join(capsys.readouterr().err.split())


def test_an_output_that_is_a_folder_is_told_before_a_server_is_asked(tmp_path, capsys):
    path = write_csv(tmp_path / "in.csv", LOG)
    flags = ["--server", "127.0.0.1:1", "--wait", "0.1", "--model", MODEL, "--input", str(path)]
    assert command.main([*flags, "--output", str(tmp_path)]) == EXIT_USER_ERROR
    assert f"output {tmp_path} is a folder: give the CSV file to write" in " ".join(capsys.readouterr().err.split())


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--label canary" in said and "seconds to wait for the server (default: 60.0)" in said


END_WITH_AN_ERROR = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from preprocessing.errors import run
from serving.reading import reading_of
from serving.client.score_file import score_file
specs = {"price": SimpleNamespace(dtype=np.dtype("float32"), shape=SimpleNamespace(rank=1))}
sys.exit(run(lambda paths: score_file(None, Path(paths[0]), None, reading_of(specs, name="log"))))
"""


def test_no_thread_still_reads_when_the_command_ends_with_an_error(tmp_path):
    """A thread that is inside C++ and wants the interpreter's lock while it ends aborts the process."""
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(b"user,cost\n" + b"ann,1.5\n" * 8_000_000, 1))
    for _ in range(4):  # which thread is first is chance
        done = subprocess.run(
            [sys.executable, "-c", END_WITH_AN_ERROR, path], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == EXIT_USER_ERROR and "lacks the columns ['price']" in " ".join(done.stderr.split())
        assert "terminate" not in done.stderr
