"""A client of TensorFlow Serving's gRPC protocol, for whatever columns a program has."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from preprocessing.errors import UserError
from serving.signatures import NAMED_SIGNATURE

MAX_MESSAGE_BYTES = 2**31 - 1
RETRY_SECONDS = 0.2
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default of two minutes would outlast any wait for a starting server
]
Status = get_model_status_pb2.ModelVersionStatus


class PredictError(UserError):
    """A call that the server refused or did not answer.

    Attributes:
      code: the gRPC status code.
    """

    def __init__(self, message: str, code: grpc.StatusCode):
        super().__init__(message)
        self.code = code


class PredictClient:
    """Asks one model on one server; reuses one connection, so keep it for many calls and close it at the end.

        with PredictClient("127.0.0.1:8500", "clicks") as client:
            client.wait_until_ready()
            answers = client.predict({"user": ["u1", "u2"], "price": [1.5, float("nan")]})
            answers["probability"]  # float32 [2]

    Args:
      server: HOST:PORT.
      model: the model's name.
      signature: the signature to call, with one tensor a column.
      deadline: seconds that one call may take.
      chunk_rows: rows sent in one call; no more than the server's max_batch_size where it batches.
    """

    def __init__(self, server: str, model: str, *, signature: str = NAMED_SIGNATURE, deadline: float = 10.0,
                 chunk_rows: int = 512):  # fmt: skip
        if chunk_rows < 1 or deadline <= 0:
            raise ValueError(f"chunk_rows must be at least 1 and deadline above 0, received {chunk_rows} and {deadline}")
        self._channel = grpc.insecure_channel(server, options=CHANNEL_OPTIONS)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._server = server
        self._model = model
        self._signature = signature
        self._deadline = deadline
        self._chunk_rows = chunk_rows
        self._known_definition: SignatureDef | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def wait_until_ready(self, seconds: float = 60.0) -> int:
        """Waits until a version of the model is available and returns its number.

        Raises:
          PredictError: it is not within `seconds`, or the server answers and does not have the model.
        """
        give_up = time.monotonic() + seconds
        while True:
            try:
                statuses = self._model_statuses()
            except PredictError as error:
                if error.code != grpc.StatusCode.UNAVAILABLE or time.monotonic() > give_up:
                    raise
                statuses = []
            available = [status.version for status in statuses if status.state == Status.AVAILABLE]
            if available:
                return max(available)
            if time.monotonic() > give_up:
                states = [f"{status.version} {Status.State.Name(status.state)} {status.status.error_message}" for status in statuses]
                raise PredictError(
                    f"model {self._model} on {self._server} has no available version after {seconds:g} s (versions: "
                    f"{'; '.join(states) or 'none'}): see the server's log",
                    grpc.StatusCode.UNAVAILABLE,
                )
            time.sleep(RETRY_SECONDS)

    def input_specs(self) -> dict[str, tf.TensorSpec]:
        """The columns that the signature takes, by GetModelMetadata, asked once."""
        return _specs(self._definition().inputs)

    def predict(self, columns: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """Scores rows, `chunk_rows` a call.

        Args:
          columns: one sequence a column of the signature, all of one length; strings or numbers as the column is. A
            column of lists takes a sequence of strings a row, of any length; a column of vectors an array [rows, size].

        Returns:
          One float32 `[rows]` array an output, `probability` and `logit`.

        Raises:
          PredictError: columns are missing, too many or of different length, or a call failed.
        """
        arrays = {name: self._as_array(name, columns[name]) for name in self._checked(columns)}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise _invalid(f"columns must be of one length, received {lengths}")
        rows = next(iter(lengths.values()))
        if rows == 0:  # never sent: a server that batches does not answer an empty call
            return {name: np.zeros(0, spec.dtype.as_numpy_dtype) for name, spec in _specs(self._definition().outputs).items()}
        answers = [
            self._call({name: array[start : start + self._chunk_rows] for name, array in arrays.items()})
            for start in range(0, rows, self._chunk_rows)
        ]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def _checked(self, columns: Mapping[str, Sequence]) -> Iterable[str]:
        wanted = self.input_specs()
        if set(columns) != set(wanted):
            raise _invalid(
                f"model {self._model} takes the columns {sorted(wanted)}: missing {sorted(set(wanted) - set(columns))}, "
                f"not known {sorted(set(columns) - set(wanted))}"
            )
        return wanted

    def _as_array(self, name: str, values: Sequence) -> np.ndarray:
        spec = self.input_specs()[name]
        texts = spec.dtype == tf.string
        try:
            if not len(values):
                return np.empty([0] * spec.shape.rank, object)
            if texts and spec.shape.rank == 2:
                values = _filled_up(values)
            array = np.asarray(values, dtype=object if texts else spec.dtype.as_numpy_dtype)
        except (TypeError, ValueError) as error:
            raise _invalid(f"column {name}: expected {spec.dtype.name} values: {error}") from error
        if not spec.shape.is_compatible_with(array.shape):
            expected = "one value a row" if spec.shape.rank == 1 else f"{spec.shape[1] or 'several'} values a row"
            raise _invalid(f"column {name}: expected {expected}, received an array of shape {array.shape}")
        return array

    def _call(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        request = predict_pb2.PredictRequest()
        self._name(request, self._signature)
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype=self.input_specs()[name].dtype))
        with self._explained():
            response = self._predict.Predict(request, timeout=self._deadline)
        return {name: tf.make_ndarray(proto) for name, proto in sorted(response.outputs.items())}

    def _definition(self) -> SignatureDef:
        if self._known_definition is None:
            signatures = self._signature_defs()
            if self._signature not in signatures:
                raise PredictError(
                    f"model {self._model} on {self._server} has no signature {self._signature!r}: it has {sorted(signatures)}",
                    grpc.StatusCode.FAILED_PRECONDITION,
                )
            self._known_definition = signatures[self._signature]
        return self._known_definition

    def _signature_defs(self) -> Mapping[str, SignatureDef]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request)
        with self._explained():
            response = self._predict.GetModelMetadata(request, timeout=self._deadline)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return signatures.signature_def

    def _model_statuses(self):
        request = get_model_status_pb2.GetModelStatusRequest()
        self._name(request)
        with self._explained():
            return self._status.GetModelStatus(request, timeout=self._deadline).model_version_status

    def _name(self, request, signature: str = "") -> None:
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a failed call into a PredictError that says what to do."""
        try:
            yield
        except grpc.RpcError as error:
            code = error.code()
            what = {
                grpc.StatusCode.UNAVAILABLE: "no server answers there: start one with `python -m serving.server`, or correct HOST:PORT",
                grpc.StatusCode.NOT_FOUND: "the server does not serve that model or version: correct the model's name",
                grpc.StatusCode.DEADLINE_EXCEEDED: f"no answer within {self._deadline:g} s: raise the deadline or send fewer rows a call",
                grpc.StatusCode.RESOURCE_EXHAUSTED: "the server is overloaded: send fewer calls at once, or try again later",
            }.get(code, "the server refused the call")
            raise PredictError(f"model {self._model} on {self._server}: {what} ({code.name}: {error.details()})", code) from error


def _specs(tensors: Mapping[str, TensorInfo]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.DType(info.dtype)) for name, info in sorted(tensors.items())}


def _filled_up(lists: Sequence[Sequence[str]]) -> list[list[str]]:
    """Lists of texts, made equally long by empty ones, which mean nothing to the model."""
    if any(isinstance(one, str | bytes) for one in lists):
        raise TypeError("a sequence of texts a row, received a text")
    longest = max(map(len, lists))
    return [[*one, *[""] * (longest - len(one))] for one in lists]


def _invalid(message: str) -> PredictError:
    return PredictError(message, grpc.StatusCode.INVALID_ARGUMENT)
