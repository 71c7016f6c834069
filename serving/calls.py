"""What both clients share: the model that is asked, the failures that may be tried again, and what failures mean."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import grpc
import numpy as np
import tensorflow as tf
from tenacity import retry_if_exception, stop_before_delay, wait_random_exponential
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from preprocessing.errors import UserError

POLL_SECONDS = 0.2
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 2.0
_LAST_ATTEMPT = 0.9  # of the deadline
_TOO_LARGE = "larger than max"
_NO_HANDSHAKE = "handshake failed"
_NOT_GRPC = "failed parsing http/2"
_UNEQUAL_LISTS = "padding is turned off"

Code = grpc.StatusCode
Status = get_model_status_pb2.ModelVersionStatus


class PredictError(UserError):
    """A call that the server refused or did not answer.

    Attributes:
      code: the gRPC status code.
    """

    def __init__(self, message: str, code: grpc.StatusCode):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> PredictError:
    return PredictError(message, Code.INVALID_ARGUMENT)


# ---- Which failures are tried again ----


def may_be_repeated(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later. A prediction changes nothing, so asking twice is harmless.

    UNAVAILABLE: no server took the call, or its queue is full; RESOURCE_EXHAUSTED: it is overloaded. Final are a message
    beyond its limits, a failed TLS handshake, and an answer that is not gRPC, which come with the same codes.
    """
    if not isinstance(error, grpc.RpcError) or error.code() not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        return False
    details = (error.details() or "").lower()
    return not any(final in details for final in (_TOO_LARGE, _NO_HANDSHAKE, _NOT_GRPC))


def retry_policy(deadline: float) -> dict:
    """Arguments of tenacity's `Retrying` and `AsyncRetrying`.

    The n-th wait is drawn from [0, 0.1 * 2^(n-1)] s, at most 2 s, so that clients of a restarted server do not come back
    all at once. No attempt begins in the last tenth of `deadline` seconds, so that the last one has time to fail by itself.
    """
    return {
        "retry": retry_if_exception(may_be_repeated),
        "stop": stop_before_delay(_LAST_ATTEMPT * deadline),
        "reraise": True,
        "wait": wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
    }


# ---- The model, its requests, and what its refusals mean ----


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a signature, by name."""

    inputs: dict[str, tf.TensorSpec]
    outputs: dict[str, tf.TensorSpec]

    @cached_property
    def inner_inputs(self) -> dict[str, tf.TensorSpec]:
        """The inputs without their first dimension."""
        return {name: tf.TensorSpec(spec.shape[1:], spec.dtype) for name, spec in self.inputs.items()}


@dataclass(frozen=True)
class AskedModel:
    """A model on a server, and which version and signature of it.

    Attributes:
      version, label: one version, or the one that carries a label; without both, the server's choice.
    """

    server: str
    name: str
    signature: str
    version: int | None = None
    label: str | None = None
    tls: bool = False

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(f"give a version or a label, not both, received {self.version} and {self.label!r}")

    def __str__(self) -> str:
        chosen = f" version {self.version}" if self.version is not None else f" label {self.label!r}" if self.label else ""
        return f"model {self.name}{chosen} on {self.server}"

    def predict_request(self, arrays: Mapping[str, np.ndarray], signature: "Signature") -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        self._address(request)
        request.model_spec.signature_name = self.signature
        for name, array in arrays.items():
            _fill(request.inputs[name], array, signature.inputs[name].dtype)
        return request

    def metadata_request(self) -> get_model_metadata_pb2.GetModelMetadataRequest:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._address(request)
        return request

    def status_request(self) -> get_model_status_pb2.GetModelStatusRequest:
        """Asks for the states of all versions, or of the one chosen by number."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.name
        if self.version is not None:
            request.model_spec.version.value = self.version
        return request

    def _address(self, request) -> None:
        request.model_spec.name = self.name
        if self.version is not None:
            request.model_spec.version.value = self.version
        elif self.label is not None:
            request.model_spec.version_label = self.label

    def definition(self, response: get_model_metadata_pb2.GetModelMetadataResponse) -> "Signature":
        """The signature, from the answer to `metadata_request`."""
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        if self.signature not in signatures.signature_def:
            raise PredictError(
                f"{self} has no signature {self.signature!r}: it has {sorted(signatures.signature_def)}", Code.FAILED_PRECONDITION
            )
        definition = signatures.signature_def[self.signature]
        return Signature(specs_of(definition.inputs), specs_of(definition.outputs))

    def explained(self, error: grpc.RpcError, deadline: float, attempts: int = 1) -> PredictError:
        """A failed call as an error that says what to do."""
        times = f" in {attempts} attempts" if attempts > 1 else ""
        received = f"{error.code().name}{times}: {error.details()}"
        return PredictError(f"{self}: {self._advice(error, deadline)} ({received})", error.code())

    @property
    def _or_tls(self) -> str:
        return "" if self.tls else "; a server that wants TLS needs --tls or --tls_ca"

    def _advice(self, error: grpc.RpcError, deadline: float) -> str:
        code, details = error.code(), (error.details() or "").lower()
        if _TOO_LARGE in details:
            return "the request or its answer is larger than the server takes: send fewer rows a call (chunk_rows)"
        if _NO_HANDSHAKE in details:
            return (
                "the TLS handshake failed: give the certificate of the authority that signed the server's (--tls_ca), the host name "
                "that stands in it, and the client's certificate if the server asks for one (--tls_cert, --tls_key)"
            )
        if _NOT_GRPC in details:
            return (
                "what answers there does not speak gRPC like this: give the server's gRPC port (usually 8500; 8501 is REST)"
                + self._or_tls
            )
        if _UNEQUAL_LISTS in details:
            return (
                "the server joins calls into batches, and lists of different length do not fit into one: set its "
                "pad_variable_length_inputs, which the lists of this client allow, or turn its batching off for this model"
            )
        if code == Code.INVALID_ARGUMENT and "version label" in details:
            return "no version there carries that label: set it on the server, or correct the label"
        return {
            Code.UNAVAILABLE: "no server answers there: start one with `python -m serving.server`, or correct HOST:PORT"
            + self._or_tls,
            Code.NOT_FOUND: "the server does not serve that model or version: correct the model's name or the version",
            Code.DEADLINE_EXCEEDED: f"no answer within {deadline:g} s: raise the deadline or send fewer rows a call",
            Code.RESOURCE_EXHAUSTED: "the server is overloaded: send fewer calls at once, or try again later",
            Code.INVALID_ARGUMENT: "the server refused the inputs: compare them with the signature that GetModelMetadata tells",
            Code.FAILED_PRECONDITION: "that version has no such signature, or cannot answer it: choose another one",
            Code.UNIMPLEMENTED: "what answers there is not TensorFlow Serving's gRPC protocol: correct HOST:PORT",
        }.get(code, "the server refused the call")


class Readiness:
    """What the answers of a server mean to a client that waits for a model, for `seconds` at most."""

    def __init__(self, asked: AskedModel, seconds: float):
        self._asked, self._seconds = asked, seconds
        self._give_up = time.monotonic() + seconds

    def available(self, statuses: Sequence[Status]) -> int | None:
        """The highest available version; None: there is none yet.

        Raises:
          PredictError: there is none and the time is up.
        """
        available = [status.version for status in statuses if status.state == Status.AVAILABLE]
        if available:
            return max(available)
        if time.monotonic() > self._give_up:
            states = "; ".join(f"{one.version} {Status.State.Name(one.state)} {one.status.error_message}".strip() for one in statuses)
            raise PredictError(
                f"{self._asked} has no available version after {self._seconds:g} s (versions: {states or 'none'}): see the "
                "server's log",
                Code.UNAVAILABLE,
            )
        return None

    def failed(self, error: grpc.RpcError, deadline: float) -> None:
        """Takes note of a call that failed.

        Raises:
          PredictError: waiting does not mend it, or the time is up.
        """
        may_pass = may_be_repeated(error) or error.code() == Code.DEADLINE_EXCEEDED
        if not may_pass or time.monotonic() > self._give_up:
            raise self._asked.explained(error, deadline) from error


# ---- Columns to tensors, tensors to columns ----


def specs_of(tensors: Mapping[str, TensorInfo]) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.DType(info.dtype)) for name, info in sorted(tensors.items())
    }


def as_arrays(columns: Mapping[str, Sequence], specs: Mapping[str, tf.TensorSpec], asked: AskedModel) -> dict[str, np.ndarray]:
    """The columns as the signature takes them, each `[rows, ...]`.

    Raises:
      PredictError: columns are missing, too many, of another type or shape, or of different length.
    """
    if set(columns) != set(specs):
        raise invalid(
            f"{asked} takes the columns {sorted(specs)}: missing {sorted(set(specs) - set(columns))}, "
            f"not known {sorted(set(columns) - set(specs))}"
        )
    arrays = {name: _as_array(name, columns[name], spec) for name, spec in specs.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise invalid(f"columns must be of one length, received {lengths}")
    return arrays


def _as_array(name: str, values: Sequence, spec: tf.TensorSpec) -> np.ndarray:
    texts = spec.dtype == tf.string
    try:
        if not len(values):
            return np.empty([0] * (spec.shape.rank or 1), object if texts else spec.dtype.as_numpy_dtype)
        if texts and spec.shape.rank == 2:
            values = _filled_up(values)
        array = np.asarray(values, dtype=object if texts else spec.dtype.as_numpy_dtype)
    except (TypeError, ValueError) as error:
        raise invalid(f"column {name}: expected {spec.dtype.name} values: {error}") from error
    if not spec.shape.is_compatible_with(array.shape):
        expected = "one value a row" if spec.shape.rank == 1 else f"{spec.shape[1] or 'several'} values a row"
        raise invalid(f"column {name}: expected {expected}, received an array of shape {array.shape}")
    return _without_none(name, array) if texts else array


def _without_none(name: str, array: np.ndarray) -> np.ndarray:
    """Texts with the empty one in place of None, which is how a program says that there is none."""
    if not array.size:
        return array
    kinds = set(map(type, array.flat))
    if type(None) in kinds:
        array = np.where(np.equal(array, None), "", array)
    if odd := sorted(kind.__name__ for kind in kinds if not issubclass(kind, str | bytes | type(None))):
        raise invalid(
            f"column {name}: expected string values: received {', '.join(odd)}; convert them, as the log has them, with str()"
        )
    return array


def _filled_up(lists: Sequence[Sequence[str] | None]) -> list[list[str]]:
    """Lists of texts, made equally long by empty ones in front, at least one, which mean nothing to the model.

    A server that joins calls into batches may fill shorter lists up with their first text, which thus means nothing too.
    """
    if any(isinstance(one, str | bytes) for one in lists):
        raise TypeError("a sequence of texts a row, received a text")
    lists = [() if one is None else one for one in lists]
    length = 1 + max(map(len, lists))
    return [[*[""] * (length - len(one)), *one] for one in lists]


def chunks(arrays: Mapping[str, np.ndarray], rows: int) -> list[dict[str, np.ndarray]]:
    """The arrays in stretches of at most `rows` rows."""
    total = len(next(iter(arrays.values())))
    return [{name: array[start : start + rows] for name, array in arrays.items()} for start in range(0, total, rows)]


def _fill(proto: TensorProto, array: np.ndarray, dtype: tf.DType) -> None:
    """As `tf.make_tensor_proto`, which spends most of its time on types and shapes that are known here."""
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype == tf.string:
        proto.string_val.extend([text.encode() if isinstance(text, str) else text for text in array.flat])
    else:
        proto.tensor_content = array.tobytes()


def outputs_of(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(proto) for name, proto in sorted(response.outputs.items())}


def joined(answers: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs of chunks, one behind the other."""
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def empty_outputs(signature: Signature, batch_dimensions: int = 1) -> dict[str, np.ndarray]:
    """The outputs for no rows, where the first `batch_dimensions` dimensions of the signature's outputs together are the rows."""
    specs = signature.outputs.items()
    return {
        name: np.zeros([0] * (1 + (spec.shape.rank or 1) - batch_dimensions), spec.dtype.as_numpy_dtype) for name, spec in specs
    }
