"""TLS and mutual TLS on both ports, with real certificates."""

import functools
import http.client
import json
import logging
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import tiny_saved_models as tiny
from certificates import Authority
from cryptography import x509
from running_server import SECONDS, Status, copy_in, refusal, running, served
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving.server.tls import ServerTls


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
    with running(served(base_path), tls=ServerTls(*authority.sign("server")), channel=channel(authority)) as asked:
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
    tls = ServerTls(*authority.sign("server"), authority.certificate)
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


def shown(port, authority):
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.certificate)
    plain = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True)).serial_number


def serial(certificate):
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


def test_a_renewed_certificate_is_shown_to_new_connections(base_path, authority, tmp_path, caplog):
    caplog.set_level(logging.INFO, "serving.server.tls")
    certificate, key = authority.sign("server")
    files = [shutil.copy(path, tmp_path) for path in (certificate, key)]
    with running(served(base_path), tls=ServerTls(*map(Path, files)), channel=channel(authority)) as asked:
        ports = (asked.server.port, asked.server.rest_port)
        assert [shown(port, authority) for port in ports] == [serial(certificate)] * 2
        assert grpc_status(asked.model) == Status.AVAILABLE
        renewed = authority.sign("renewed")

        shutil.copy(renewed[0], files[0])  # the key is still the old one
        for _ in range(2):
            assert [shown(port, authority) for port in ports] == [serial(certificate)] * 2
        assert caplog.text.count("renewed files are not used, new connections get the certificate from before: ") == 1

        shutil.copy(renewed[1], files[1])
        assert [shown(port, authority) for port in ports] == [serial(renewed[0])] * 2
        assert caplog.text.count("new connections get the renewed certificate") == 1
        assert grpc_status(asked.model) == Status.AVAILABLE, "an open connection stays"

        Path(files[0]).unlink()
        assert [shown(port, authority) for port in ports] == [serial(renewed[0])] * 2
        assert "the TLS file" in caplog.text and "does not exist" in caplog.text


def test_renewed_authorities_of_clients_count_for_new_connections(base_path, authority, tmp_path):
    other = Authority(tmp_path, "other")
    trusted = Path(shutil.copy(authority.certificate, tmp_path / "trusted.pem"))
    clients = [one.sign("client") for one in (authority, other)]
    tls = ServerTls(*authority.sign("server"), trusted)
    with running(served(base_path), tls=tls, channel=channel(authority, clients[0])) as asked:
        assert rest_status(asked.server.rest_port, authority, clients[0]) == "AVAILABLE"
        shutil.copy(other.certificate, trusted)
        assert rest_status(asked.server.rest_port, authority, clients[1]) == "AVAILABLE"
        with pytest.raises(OSError, match="."):
            rest_status(asked.server.rest_port, authority, clients[0])
        for client, answered in zip(clients, (False, True), strict=True):
            with channel(authority, client)(f"127.0.0.1:{asked.server.port}") as opened:
                stub = model_service_pb2_grpc.ModelServiceStub(opened)
                if answered:
                    assert grpc_status(stub) == Status.AVAILABLE
                else:
                    assert refusal(stub.GetModelStatus, get_model_status_pb2.GetModelStatusRequest())[0] == grpc.StatusCode.UNAVAILABLE
