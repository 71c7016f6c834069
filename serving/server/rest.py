"""The REST port: predict, classify, regress, metadata and status with curl, by TensorFlow Serving's paths; and metrics.

    POST /v1/models/NAME[/versions/V|/labels/L]:predict     :classify     :regress
    GET  /v1/models/NAME[/versions/V|/labels/L]             /metadata
    GET  /monitoring/prometheus/metrics

It is for people, probes and Prometheus: programs are better served by gRPC, which needs no JSON.
"""

import json
import logging
import re
import socket
import socketserver
import ssl
import sys
import threading
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import rest_json
from serving.server.handlers import METADATA_FIELD, REST, Handlers
from serving.server.metrics import CONTENT_TYPE, ServerMetrics
from serving.server.status import StatusError, invalid, not_found

JSON = "application/json"
METRICS_PATH = "/monitoring/prometheus/metrics"
MAX_CONNECTIONS = 64
IDLE_SECONDS = 30  # a connection that sends nothing is closed

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST_PATH = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE)
_GET_PATH = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
_LENGTH = re.compile("[0-9]{1,18}")

_Code = grpc.StatusCode
HTTP_STATUS = {
    _Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    _Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    _Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    _Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    _Code.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    _Code.ABORTED: HTTPStatus.CONFLICT,
    _Code.FAILED_PRECONDITION: HTTPStatus.PRECONDITION_FAILED,
    _Code.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    _Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    _Code.RESOURCE_EXHAUSTED: HTTPStatus.SERVICE_UNAVAILABLE,
    _Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    _Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}  # any other: 500

log = logging.getLogger(__name__)


class RestServer(ThreadingHTTPServer):
    """Listens on a port of its own.

    Args:
      address: host and port, 0 for a free one.
      handlers: what answers.
      metrics: what GET on the metrics' path shows.
      max_request_bytes: larger bodies are refused unread.
      tls: asked for each connection; None for plain HTTP.

    Raises:
      OSError: the port cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handlers: Handlers, metrics: ServerMetrics, max_request_bytes: int,
                 tls: Callable[[], ssl.SSLContext] | None = None):  # fmt: skip
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Request)
        self.handlers = handlers
        self.metrics = metrics
        self.max_request_bytes = max_request_bytes
        self._tls = tls
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.stopping = False
        self._in_progress = 0
        self._idle = threading.Condition()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.1,), name="rest", daemon=True).start()

    def stop(self, seconds: float) -> None:
        """Takes no more connections, and gives the requests in progress some time to be answered."""
        self.stopping = True
        self.shutdown()
        self.server_close()
        with self._idle:
            self._idle.wait_for(lambda: self._in_progress == 0, seconds)

    def request_begins(self) -> None:
        with self._idle:
            self._in_progress += 1

    def request_ends(self) -> None:
        with self._idle:
            self._in_progress -= 1
            self._idle.notify_all()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the name service for the host's name, and may wait for it

    def process_request(self, request, client_address):
        if not self._places.acquire(blocking=False):
            log.warning("REST: more than %d connections; one from %s is closed", MAX_CONNECTIONS, client_address[0])
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request, client_address):
        """Shakes hands in the connection's own thread, so that a silent caller holds up nobody else."""
        request.settimeout(IDLE_SECONDS)
        if not self._tls:
            return super().finish_request(request, client_address)
        with self._tls().wrap_socket(request, server_side=True) as secured:
            return super().finish_request(secured, client_address)

    def handle_error(self, request, client_address):
        log.info("REST: connection from %s ended: %s", client_address[0], sys.exc_info()[1])


class _Request(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "dgenctr"
    sys_version = ""

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _answer(self, method) -> None:
        self.server.request_begins()
        try:
            self._send(*self._outcome(method))
        finally:
            self.server.request_ends()

    def _outcome(self, method) -> tuple[HTTPStatus, str, bytes]:
        try:
            return HTTPStatus.OK, *method(urllib.parse.urlsplit(self.path).path)
        except _Refused as refused:
            self.close_connection = True  # its body is still unread
            status, message = refused.status, str(refused)
        except StatusError as error:
            status, message = HTTP_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR), str(error)
        except Exception as error:
            log.exception("REST: %s failed in the server itself", self.path)
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, f"the server failed ({type(error).__name__}); see its log"
        return status, JSON, _json({"error": message})

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.close_connection |= self.server.stopping
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _get(self, path: str) -> tuple[str, bytes]:
        if path == METRICS_PATH:
            return CONTENT_TYPE, self.server.metrics.text().encode()
        match = _GET_PATH.fullmatch(path)
        if not match:
            raise _malformed("GET", path)
        spec, handlers = _spec(match), self.server.handlers
        if match["metadata"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[METADATA_FIELD])
            return JSON, _metadata_json(handlers.metadata(request))
        response = handlers.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
        return JSON, _json(_fields(response))

    def _post(self, path: str) -> tuple[str, bytes]:
        match = _POST_PATH.fullmatch(path)
        with self.server.handlers.counting_refusals(urllib.parse.unquote(match["name"]) if match else ""):
            answer = self._understood(match, path)
        return JSON, _json(answer())

    def _understood(self, match: re.Match | None, path: str) -> Callable[[], dict]:
        """What a model is to be asked; calling it asks."""
        body = self._body()
        if not match:
            raise _malformed("POST", path)
        spec, document = _spec(match), rest_json.parse(body)
        spec.signature_name = rest_json.signature_name(document)
        ask = {"predict": self._predict, "classify": self._classify, "regress": self._regress}[match["method"].lower()]
        return ask(spec, document)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length header: send the body as a whole")
        if int(length) > self.server.max_request_bytes:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request has {length} bytes, more than the {self.server.max_request_bytes} that --max_request_bytes allows: "
                "send fewer rows",
            )
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected a plain body, received one with a Content-Encoding")
        try:
            body = self.rfile.read(int(length))
        except OSError as error:  # silent for too long, or gone
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the request ended before its {length} bytes had come ({error})") from error
        if len(body) < int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the request ended after {len(body)} of {length} bytes")
        return body

    def _predict(self, spec: model_pb2.ModelSpec, document: dict) -> Callable[[], dict]:
        request = predict_pb2.PredictRequest(model_spec=spec)
        types = self.server.handlers.input_types(spec, spec.signature_name)
        to_json = rest_json.fill_inputs(document, types, request)
        return lambda: to_json(self.server.handlers.predict(request, REST))

    def _classify(self, spec: model_pb2.ModelSpec, document: dict) -> Callable[[], dict]:
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        rest_json.fill_examples(document, request.input)
        return lambda: rest_json.classifications_json(self.server.handlers.classify(request, REST))

    def _regress(self, spec: model_pb2.ModelSpec, document: dict) -> Callable[[], dict]:
        request = regression_pb2.RegressionRequest(model_spec=spec)
        rest_json.fill_examples(document, request.input)
        return lambda: rest_json.regressions_json(self.server.handlers.regress(request, REST))

    def send_error(self, code, message=None, explain=None):
        """What the base class refuses by itself: a method that there is not, a request that is no HTTP."""
        self.close_connection = True
        self._send(HTTPStatus(code), JSON, _json({"error": message or HTTPStatus(code).phrase}))

    def log_message(self, format, *arguments):
        log.debug("REST: %s", format % arguments)


class _Refused(StatusError):
    """A request whose body is not read, or not to its end. HTTP has a status for that; the metrics, which have gRPC's, INVALID_ARGUMENT."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(_Code.INVALID_ARGUMENT, message)
        self.status = status


def _malformed(method: str, path: str) -> StatusError:
    message = f"Malformed request: {method} {path}"
    return invalid(message) if path.startswith("/v1/") else not_found(message)


def _spec(match: re.Match) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"]))
    if match["version"]:
        if len(match["version"]) > 19 or int(match["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> bytes:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[METADATA_FIELD].Unpack(signatures)
    return _json({"model_spec": _fields(response.model_spec), "metadata": {METADATA_FIELD: _fields(signatures)}})


def _fields(message) -> dict:
    return json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="replace")
