"""TLS and mutual TLS on both ports, with real certificates."""

import functools
import http.client
import json
import ssl
import urllib.error
import urllib.request

import grpc
import pytest
import tiny_saved_models as tiny
from certificates import Authority
from running_server import SECONDS, Status, copy_in, refusal, running, served
from tensorflow_serving.apis import get_model_status_pb2

from serving.server.tls import Tls


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder)


@pytest.fixture(scope="module")
def base_path(folder):
    (folder / "base").mkdir()
    copy_in(tiny.save(folder / "saved"), folder / "base", 1)
    return folder / "base"


def channel(authority, pair=None):
    """Opens channels that trust the authority, and show a certificate where there is one."""
    certificate, key = [path.read_bytes() for path in pair] if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)
    return functools.partial(grpc.secure_channel, credentials=credentials)


def rest_status(port, authority, pair=None):
    context = ssl.create_default_context(cafile=authority.certificate)
    if pair:
        context.load_cert_chain(*pair)
    with urllib.request.urlopen(f"https://127.0.0.1:{port}/v1/models/tiny", timeout=SECONDS, context=context) as response:
        return json.load(response)["model_version_status"][0]["state"]


def grpc_status(stub):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    return stub.GetModelStatus(request, timeout=SECONDS).model_version_status[0].state


def test_both_ports_speak_tls_only(base_path, authority):
    with running(served(base_path), tls=Tls(*authority.sign("server")), channel=channel(authority)) as asked:
        assert grpc_status(asked.model) == Status.AVAILABLE
        assert rest_status(asked.server.rest_port, authority) == "AVAILABLE"
        with grpc.insecure_channel(f"127.0.0.1:{asked.server.port}") as plain:
            assert (
                refusal(plain.unary_unary("/tensorflow.serving.ModelService/GetModelStatus"), b"")[0]
                == grpc.StatusCode.UNAVAILABLE
            )
        with pytest.raises((OSError, http.client.HTTPException)):
            urllib.request.urlopen(f"http://127.0.0.1:{asked.server.rest_port}/v1/models/tiny", timeout=SECONDS)
        assert rest_status(asked.server.rest_port, authority) == "AVAILABLE"


def test_mutual_tls_admits_only_clients_of_the_authority(base_path, authority, tmp_path):
    stranger = Authority(tmp_path, "stranger").sign("intruder")
    client = authority.sign("client")
    tls = Tls(*authority.sign("server"), authority.certificate)
    with running(served(base_path), tls=tls, channel=channel(authority, client)) as asked:
        assert grpc_status(asked.model) == Status.AVAILABLE
        assert rest_status(asked.server.rest_port, authority, client) == "AVAILABLE"
        for pair in (None, stranger):
            with channel(authority, pair)(f"127.0.0.1:{asked.server.port}") as refused:
                call = refused.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
                assert refusal(call, b"")[0] == grpc.StatusCode.UNAVAILABLE
            with pytest.raises(OSError, match="."):
                rest_status(asked.server.rest_port, authority, pair)
        assert grpc_status(asked.model) == Status.AVAILABLE
