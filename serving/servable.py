"""One loaded version of a model: checks a PredictRequest and answers it, with TensorFlow Serving's status codes."""

from collections.abc import Collection, Iterable
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving.signatures import DEFAULT_SIGNATURE
from serving.versions import SAVED_MODEL_FILE
from serving.warmup import read_warmup

STACK_TRACE_END = "<stack traces unavailable>\n"
_CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class StatusError(Exception):
    """A request or a load that failed, with the gRPC status to report."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


class Servable:
    """A SavedModel that is ready to answer: loaded, and through with its warm-up requests.

    Args:
      name: the model's name, for the answers.
      version: its version.
      folder: the SavedModel.

    Raises:
      StatusError: the folder is no SavedModel that loads, or a warm-up request failed.
    """

    def __init__(self, name: str, version: int, folder: Path):
        self.name = name
        self.version = version
        self.signature_defs = _read_signature_defs(folder)
        try:
            self._model = tf.saved_model.load(str(folder), tags=["serve"])
        except Exception as error:  # a corrupt folder raises anything; none of it may take the live version down
            raise _load_failure(error, folder) from error
        self._signatures = dict(self._model.signatures)
        self._warm_up(folder)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers a request whatever model and version it names.

        Raises:
          StatusError: FAILED_PRECONDITION for an unknown signature; INVALID_ARGUMENT for inputs that are not exactly the
            signature's in name and dtype, or an unknown output; else the code of the op that failed.
        """
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        definition = self.signature_defs.get(signature_name)
        if definition is None:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Serving signature key \"{signature_name}\" not found. Model {self.name} has {_braces(self.signature_defs)}.",
            )
        _check_inputs(request, definition)
        wanted = _wanted_outputs(request.output_filter, definition)
        inputs = {key: _to_tensor(key, proto) for key, proto in request.inputs.items()}
        try:
            outputs = self._signatures[signature_name](**inputs)
        except tf.errors.OpError as error:
            raise StatusError(_CODE_OF_NUMBER[error.error_code], error.message.split(STACK_TRACE_END)[-1]) from error
        except (ValueError, TypeError) as error:  # a shape that the signature's own specs refuse
            raise invalid(str(error)) from error
        return self._response(signature_name, {key: outputs[key].numpy() for key in wanted})

    def _response(self, signature_name: str, outputs: dict[str, np.ndarray]) -> predict_pb2.PredictResponse:
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = signature_name
        for key, values in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(values))
        return response

    def metadata(self) -> get_model_metadata_pb2.SignatureDefMap:
        return get_model_metadata_pb2.SignatureDefMap(signature_def=self.signature_defs)

    def _warm_up(self, folder: Path) -> None:
        """Answers every warm-up request once; one that fails fails the load."""
        try:
            for number, log in enumerate(read_warmup(folder)):
                if log.WhichOneof("log_type") != "predict_log":
                    raise invalid(f"only predict_log is answered here, received {log.WhichOneof('log_type')}")
                self.predict(log.predict_log.request)
        except ValueError as error:
            raise invalid(f"warm-up: {error}") from error
        except StatusError as error:
            raise StatusError(error.code, f"warm-up request {number}: {error}") from error


def _read_signature_defs(folder: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    try:
        content = saved_model_pb2.SavedModel.FromString((folder / SAVED_MODEL_FILE).read_bytes())
    except FileNotFoundError as error:
        raise StatusError(grpc.StatusCode.NOT_FOUND, f"{folder} has no {SAVED_MODEL_FILE}") from error
    except (DecodeError, OSError) as error:
        raise StatusError(grpc.StatusCode.DATA_LOSS, f"{folder / SAVED_MODEL_FILE} cannot be read: {error}") from error
    for graph in content.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return {key: value for key, value in graph.signature_def.items() if key != "__saved_model_init_op"}
    raise StatusError(grpc.StatusCode.NOT_FOUND, f"{folder / SAVED_MODEL_FILE} has no graph with the tag `serve`")


def _load_failure(error: Exception, folder: Path) -> StatusError:
    code = _CODE_OF_NUMBER[error.error_code] if isinstance(error, tf.errors.OpError) else grpc.StatusCode.UNKNOWN
    return StatusError(code, f"{folder} does not load: {' '.join(str(error).split())}")


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _check_inputs(request: predict_pb2.PredictRequest, definition: meta_graph_pb2.SignatureDef) -> None:
    sent, required = set(request.inputs), set(definition.inputs)
    if sent != required:
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(required)}: expected {_braces(required)}, received "
            f"{_braces(sent)}. Sent extra: {_braces(sent - required)}. Missing but required: {_braces(required - sent)}."
        )
    for key, info in definition.inputs.items():
        if request.inputs[key].dtype != info.dtype:
            expected, received = (tf.DType(number).name if number else "none" for number in (info.dtype, request.inputs[key].dtype))
            raise invalid(f"input {key}: expected dtype {expected}, received {received}")


def _wanted_outputs(output_filter: Collection[str], definition: meta_graph_pb2.SignatureDef) -> Collection[str]:
    unknown = set(output_filter) - set(definition.outputs)
    if unknown:
        raise invalid(
            f"output tensor alias not found in signature: {_braces(unknown)}. Outputs expected to be in the set "
            f"{_braces(definition.outputs)}."
        )
    if len(set(output_filter)) != len(output_filter):
        raise invalid(f"duplicate output tensor alias in {list(output_filter)}")
    return output_filter or definition.outputs


def _to_tensor(key: str, proto) -> tf.Tensor:
    try:
        return tf.io.parse_tensor(proto.SerializeToString(), tf.DType(proto.dtype))
    except tf.errors.InvalidArgumentError as error:
        raise invalid(f"tensor parsing error: {key}: {error.message}") from error
