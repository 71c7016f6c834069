"""gRPC's health protocol (grpc.health.v1), which Kubernetes, Envoy and grpc_health_probe ask.

The empty service name and `tensorflow.serving.PredictionService` mean the whole server: SERVING from the moment all its
models have a live version until it is told to stop. The name of a model means that model: SERVING while it has a live version.
"""

import threading
from collections.abc import Callable, Mapping

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from serving.server.models import ServedVersions
from serving.server.proto_messages import add_field, define
from serving.server.status import sendable

SERVICE = "grpc.health.v1.Health"
WHOLE_SERVER = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
MAX_WATCHERS = 4  # each holds a thread of the server
WATCH_SECONDS = 1.0  # between looks at models, and whether a watcher is still there


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    add_field(file.message_type.add(name="HealthCheckRequest"), "service", 1, FieldDescriptorProto.TYPE_STRING)
    response = file.message_type.add(name="HealthCheckResponse")
    states = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        states.value.add(name=name, number=number)
    add_field(response, "status", 1, FieldDescriptorProto.TYPE_ENUM, of=".grpc.health.v1.HealthCheckResponse.ServingStatus")
    return define(file)


_MESSAGES = _messages()
HealthCheckRequest, HealthCheckResponse = _MESSAGES["HealthCheckRequest"], _MESSAGES["HealthCheckResponse"]


class Health:
    """Whether the server and its models serve; `Check` asks once, `Watch` is told of changes.

    Args:
      models: the models by name, as they are now.
    """

    def __init__(self, models: Callable[[], Mapping[str, ServedVersions]]):
        self._models = models
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self._watchers = threading.BoundedSemaphore(MAX_WATCHERS)

    def stop_serving(self) -> None:
        """From now on: NOT_SERVING."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def end_watches(self) -> None:
        """Lets the watchers' calls end, so that a server can stop."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def check(self, request, context: grpc.ServicerContext):
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, sendable(f"unknown service {request.service!r}: give none, or a model's name"))
        return HealthCheckResponse(status=status)

    def watch(self, request, context: grpc.ServicerContext):
        if not self._watchers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} callers watch already: use Check")
        try:
            yield from self._changes(request.service, context)
        finally:
            self._watchers.release()

    def _status(self, service: str) -> int:
        model = self._models().get(service)
        if service not in WHOLE_SERVER and model is None:
            return SERVICE_UNKNOWN
        lacks_version = model is not None and model.live_version is None
        return NOT_SERVING if self._stopping or lacks_version else SERVING

    def _changes(self, service: str, context: grpc.ServicerContext):
        told = None
        while context.is_active() and not self._ended:
            status = self._status(service)
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            with self._changed:
                if not self._ended and self._status(service) == told:
                    self._changed.wait(WATCH_SECONDS)

    def add_to(self, server: grpc.Server) -> None:
        serialization = {
            "request_deserializer": HealthCheckRequest.FromString,
            "response_serializer": HealthCheckResponse.SerializeToString,
        }
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, **serialization),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, **serialization),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
