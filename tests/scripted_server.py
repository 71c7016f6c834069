"""A server of TensorFlow Serving's protocol in this process that answers by arithmetic, and fails as a test has scripted it.

logit = price + bytes of the user + 100 * tags + the image's sum; what is missing counts nothing.
"""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

MODEL = "kinds"
Status = get_model_status_pb2.ModelVersionStatus
_SHAPES = {"user": (), "price": (), "tags": (None,), "image": (2,)}
_TYPES = {"user": tf.string, "price": tf.float32, "tags": tf.string, "image": tf.float32}


def expected_logits(columns) -> np.ndarray:
    """The logits of rows in the form of `PredictClient.predict`."""
    prices = np.nan_to_num(np.array([np.nan if price is None else price for price in columns["price"]], np.float32))
    letters = [len((user or "").encode()) for user in columns["user"]]
    tags = [sum(tag not in ("", None) for tag in row or ()) for row in columns["tags"]]
    return (
        prices + letters + 100 * np.array(tags, np.float32) + np.nan_to_num(np.asarray(columns["image"], np.float32)).sum(axis=1)
    )


def _logits(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """[R, K] of `candidates`, or [B] of `predict`."""
    letters = np.vectorize(len, otypes=[np.float32])(inputs["user"])
    tags = (np.vectorize(len, otypes=[np.int64])(inputs["tags"]) > 0).sum(axis=-1)
    return np.nan_to_num(inputs["price"]) + letters + 100 * tags.astype(np.float32) + np.nan_to_num(inputs["image"]).sum(axis=-1)


class ScriptedServer(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Answers from version 7 of the model `kinds`, whose label is `stable`.

    Attributes:
      script: what happens to the next calls of Predict: None (an answer), a status (code, details), or a function that is
        called before the answer.
      statuses: the answers to the next calls of GetModelStatus, each a list of (version, state); the last one stays.
      lacks: fields that the version does not take, as GetModelMetadata tells.
      asked: the PredictRequests, as they came. Each entry of `metadata_asked` is a request for metadata.
      address: HOST:PORT.
      most_at_once: the largest number of Predict calls in progress.
    """

    def __init__(self):
        self.script: list = []
        self.statuses = [[(7, Status.AVAILABLE)]]
        self.lacks: frozenset[str] = frozenset()
        self.asked: list[predict_pb2.PredictRequest] = []
        self.metadata_asked: list = []
        self.address = ""
        self.most_at_once = self._in_progress = 0
        self._lock = threading.Lock()

    def Predict(self, request, context):
        with self._lock:
            self.asked.append(request)
            event = self.script.pop(0) if self.script else None
            self._in_progress += 1
            self.most_at_once = max(self.most_at_once, self._in_progress)
        try:
            if isinstance(event, tuple):
                context.abort(*event)
            if event:
                event()
            return self._answer(request)
        finally:
            with self._lock:
                self._in_progress -= 1

    def _answer(self, request):
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        logits = _logits(inputs)
        if request.model_spec.signature_name == "candidates":  # filled up, as by a server that batches
            logits = np.pad(logits, [(0, 0), (0, 3)])
        response.outputs["logit"].CopyFrom(tf.make_tensor_proto(logits, tf.float32))
        response.outputs["probability"].CopyFrom(tf.make_tensor_proto(1 / (1 + np.exp(-logits)), tf.float32))
        if request.model_spec.signature_name == "explain":
            response.outputs["contribution"].CopyFrom(tf.make_tensor_proto(np.stack([logits, logits], axis=1), tf.float32))
        return response

    def GetModelMetadata(self, request, context):
        self.metadata_asked.append(request)
        self._check(request.model_spec, context)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for signature, first in (("predict", (None,)), ("explain", (None,)), ("candidates", (None, None))):
            definition = signatures.signature_def[signature]
            for name in _SHAPES.keys() - self.lacks:
                _describe(definition.inputs[name], _TYPES[name], (*first, *_SHAPES[name]))
            for name in ("logit", "probability"):
                _describe(definition.outputs[name], tf.float32, first)
        _describe(signatures.signature_def["candidates"].inputs["candidate_count"], tf.int64, (None,))
        _describe(signatures.signature_def["candidates"].inputs["shared_fields"], tf.string, (None,))
        _describe(signatures.signature_def["matrix"].inputs["x"], tf.int64, (None, 2))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.version.value = 7
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request, context):
        self._check(request.model_spec, context)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]:
            response.model_version_status.add(version=version, state=state)
        return response

    @staticmethod
    def _check(spec, context) -> None:
        if spec.name != MODEL or spec.HasField("version") and spec.version.value != 7:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        if spec.version_label not in ("", "stable"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}")


def _describe(info, dtype, shape) -> None:
    info.dtype = dtype.as_datatype_enum
    info.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())


@contextmanager
def running(credentials: grpc.ServerCredentials | None = None):
    """A server on a free port."""
    scripted = ScriptedServer()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 100 * 2**20)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(scripted, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(scripted, server)
    port = server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    scripted.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield scripted
    finally:
        server.stop(0).wait()


def all_in_progress(number: int) -> Callable[[], None]:
    """A step of the script: waits until so many calls wait at it."""
    barrier = threading.Barrier(number)
    return lambda: barrier.wait(30)


def slow() -> None:
    time.sleep(0.05)
