"""A running server: the gRPC port, the REST port, and the thread that looks for new versions."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from preprocessing.errors import UserError
from serving.server.config import MAX_CONCURRENT_CALLS, MAX_REQUEST_BYTES, ModelConfig
from serving.server.handlers import Handlers
from serving.server.health import MAX_WATCHERS, Health
from serving.server.metrics import ServerMetrics
from serving.server.ports import bracketed, port_error
from serving.server.rest import RestServer
from serving.server.served_models import ServedModels
from serving.server.services import ModelService, PredictionService
from serving.server.status import StatusError
from serving.server.tls import Certificates, ServerTls
from serving.versions.folders import meant_instead

MAX_RESPONSE_BYTES = 2**31 - 1
OTHER_THREADS = MAX_WATCHERS + 4  # for refusals, health, metadata and status, while all places for inference are taken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where and how a server listens.

    Attributes:
      host: address; loopback unless told otherwise.
      port: of gRPC, 0 for a free one.
      rest_port: of REST and metrics, 0 for a free one; None: no REST.
      tls: for both ports; None: plain.
      max_request_bytes: a larger request is RESOURCE_EXHAUSTED (gRPC) or 413 (REST).
      max_concurrent_calls: inference calls under way at once; the next one is RESOURCE_EXHAUSTED.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = None
    tls: ServerTls | None = None
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_concurrent_calls: int = MAX_CONCURRENT_CALLS


class ModelServer:
    """Answers calls from its construction until `stop`.

    Attributes:
      port: the gRPC port.
      rest_port: the REST port, if there is one.

    Raises:
      UserError: a port cannot be had, or the TLS files cannot be used.
    """

    def __init__(self, models: ServedModels, metrics: ServerMetrics, listening: Listening):
        handlers = Handlers(models, metrics, listening.max_concurrent_calls)
        self._health = Health(lambda: models.models)
        self._looks: list[futures.Future] = []
        self._stopping = threading.Event()
        certificates = Certificates(listening.tls) if listening.tls else None
        self._grpc, self.port = _grpc_server(handlers, self._health, listening, certificates)
        self._rest = _rest_server(handlers, metrics, listening, certificates) if listening.rest_port is not None else None
        self.rest_port = self._rest.port if self._rest else None
        self._grpc.start()
        if self._rest:
            self._rest.start()

    def every(self, seconds: float, look: Callable[[], None], purpose: str) -> None:
        """Calls `look` until `stop`, in a thread of its own; `purpose` says in the log what has failed."""
        self._looks.append(in_background(lambda: self._repeat(seconds, look, purpose), purpose))

    def _repeat(self, seconds: float, look: Callable[[], None], purpose: str) -> None:
        while not self._stopping.wait(seconds):
            try:
                look()
            except Exception:
                log.exception("%s failed; the next look is in %g s", purpose, seconds)

    def announce_stop(self) -> None:
        """Health says NOT_SERVING from now on; calls are still answered."""
        self._health.stop_serving()

    def stop(self, drain_seconds: float) -> None:
        """Refuses new calls, and gives those in progress some time to be answered.

        A version that is being loaded has what is left of it. What then goes on, in a thread, nobody waits for.
        """
        give_up = time.monotonic() + drain_seconds
        self.announce_stop()
        self._stopping.set()
        self._health.end_watches()
        stopped = self._grpc.stop(drain_seconds)
        if self._rest:
            self._rest.stop(drain_seconds)
        stopped.wait()
        futures.wait(self._looks, max(0.0, give_up - time.monotonic()))


def in_background(work: Callable[[], Any], name: str) -> futures.Future:
    """Does something in a thread that does not keep the process from ending: a load takes its time, and cannot be interrupted."""
    outcome = futures.Future()
    threading.Thread(target=_settle, args=(outcome, work), name=name, daemon=True).start()
    return outcome


def _settle(outcome: futures.Future, work: Callable[[], Any]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result is told
        outcome.set_exception(error)


def wait_for_first_versions(models: ServedModels, configs: Iterable[ModelConfig], wait) -> bool:
    """Waits until every model has a live version, as TensorFlow Serving does before it opens its port.

    Args:
      wait: waits a little and returns whether to give up, which this function then does by returning False.

    Raises:
      UserError: a model's versions do not load, or a label names a version that is not live.
    """
    models.poll()
    _tell_who_waits(models)
    while waiting := [model for model in models.models.values() if model.live_version is None]:
        for model in waiting:
            if failure := model.failure():
                version, error = failure
                raise UserError(
                    f"model {model.config.name} version {version} failed to load ({error.code.name}): {error}; mend that, or serve the "
                    f"version before by `python -m serving.versions rollback {model.config.base_path}`"
                )
        if wait():
            return False
        models.poll()
    try:
        models.require_labelled(configs)
    except StatusError as error:
        raise UserError(f"{error}: let version_labels name versions that exist and that model_version_policy serves") from error
    return True


def _tell_who_waits(models: ServedModels) -> None:
    for model in models.models.values():
        if model.live_version is None and model.failure() is None:
            base_path = model.config.base_path
            lack = "holds no version folder" if base_path.is_dir() else "does not exist yet"
            question = f" ({question})" if (question := meant_instead(base_path)) else ""
            log.warning("%s %s; waiting for a version to be published there%s", base_path, lack, question)


def _grpc_server(
    handlers: Handlers, health: Health, listening: Listening, certificates: Certificates | None
) -> tuple[grpc.Server, int]:
    options = [
        ("grpc.max_receive_message_length", listening.max_request_bytes),
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent sharer
    ]
    threads = futures.ThreadPoolExecutor(listening.max_concurrent_calls + OTHER_THREADS, thread_name_prefix="grpc")
    server = grpc.server(threads, options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(handlers), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(handlers), server)
    health.add_to(server)
    credentials = certificates.grpc_credentials() if certificates else None
    address = f"{bracketed(listening.host)}:{listening.port}"
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise port_error(listening.host, listening.port, "--port") from error
    return server, port


def _rest_server(
    handlers: Handlers, metrics: ServerMetrics, listening: Listening, certificates: Certificates | None
) -> RestServer:
    tls = certificates.ssl_context if certificates else None
    try:
        return RestServer((listening.host, listening.rest_port), handlers, metrics, listening.max_request_bytes, tls)
    except OSError as error:
        raise port_error(listening.host, listening.rest_port, "--rest_api_port") from error
