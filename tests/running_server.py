"""A model server in the test's own process, on free ports, with the stubs to ask it."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.server.batching import BatchScheduler
from serving.server.config import BatchingParameters, ModelConfig
from serving.server.health import SERVICE, HealthCheckRequest, HealthCheckResponse
from serving.server.loading import Loader
from serving.server.metrics import ServerMetrics
from serving.server.model_server import Listening, ModelServer, wait_for_first_versions
from serving.server.served_models import ServedModels

Status = get_model_status_pb2.ModelVersionStatus
SECONDS = 60  # that a call may take on a busy machine


class Asked:
    """A running server, and ways to ask it."""

    def __init__(self, server: ModelServer, models: ServedModels, metrics: ServerMetrics, channel: grpc.Channel):
        self.server, self.models, self.metrics, self.channel = server, models, metrics, channel
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(channel)
        serialization = {
            "request_serializer": HealthCheckRequest.SerializeToString, "response_deserializer": HealthCheckResponse.FromString,
        }  # fmt: skip
        self._check = channel.unary_unary(f"/{SERVICE}/Check", **serialization)
        self.watch = channel.unary_stream(f"/{SERVICE}/Watch", **serialization)

    def health(self, service: str = "") -> int:
        return self._check(HealthCheckRequest(service=service), timeout=SECONDS).status

    def get(self, path: str):
        return self.rest(path)

    def post(self, path: str, content):
        return self.rest(path, content if isinstance(content, bytes) else json.dumps(content).encode())

    def rest(self, path: str, body: bytes | None = None):
        """HTTP status and content: an object where it is JSON, else text."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.server.rest_port}{path}", data=body, timeout=SECONDS
            ) as response:
                status, kind, text = response.status, response.headers["Content-Type"], response.read().decode()
        except urllib.error.HTTPError as error:
            status, kind, text = error.code, error.headers["Content-Type"], error.read().decode()
        return status, json.loads(text) if kind == "application/json" else text


@contextmanager
def running(
    configs: ModelConfig | Iterable[ModelConfig],
    batching: BatchingParameters | None = None,
    channel=grpc.insecure_channel,
    **listening,
) -> Iterator[Asked]:
    """Serves models until the block ends; nothing polls for new versions but `asked.models.poll()`."""
    configs = [configs] if isinstance(configs, ModelConfig) else list(configs)
    metrics = ServerMetrics()
    scheduler = BatchScheduler(batching, metrics.batching) if batching else None
    models = ServedModels(configs, Loader(batched=scheduler.batched if scheduler else None), metrics)
    server = None
    try:
        assert wait_for_first_versions(models, configs, lambda: True)
        server = ModelServer(models, metrics, Listening(**{"port": 0, "rest_port": 0, **listening}))
        with channel(f"127.0.0.1:{server.port}") as opened:
            yield Asked(server, models, metrics, opened)
    finally:
        if server:
            server.stop(0)
        if scheduler:
            scheduler.stop()


def served(base_path: Path, name: str = "tiny", **changes) -> ModelConfig:
    return ModelConfig(name, base_path, **changes)


def refusal(call, request, timeout: float = SECONDS) -> tuple[grpc.StatusCode, str]:
    """Code and words of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=timeout)
    return caught.value.code(), caught.value.details()


def copy_in(version: Path, base_path: Path, number: int) -> Path:
    """Publishes a version as export does: whole, by rename."""
    staging = base_path / f".copy-{number}"
    shutil.copytree(version, staging)
    return staging.rename(base_path / str(number))
