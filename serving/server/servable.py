"""One loaded version of a model: checks a request's tensors and answers them, with TensorFlow Serving's status codes.

A SavedModel is loaded into a session of its own, as TensorFlow Serving does: closing it gives back all of its memory, and
a call is one run of a prepared part of the graph. Everything that depends on the version alone is worked out when it loads.
"""

import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving.server.status import CODE_OF_NUMBER, StatusError, braces, failed_precondition, invalid, not_found
from serving.server.tensors import fill_proto, to_array
from serving.signature_defs import TAGS, read_signature_defs
from serving.signatures import DEFAULT_SIGNATURE
from serving.versions.folders import SAVED_MODEL_FILE

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


class Signature:
    """One signature of a loaded model.

    Attributes:
      inputs: name -> dtype, a number of `types_pb2`.
      outputs: the same of the outputs.
      run: computes all outputs from all inputs, whose names and dtypes have been checked.
    """

    def __init__(self, definition: meta_graph_pb2.SignatureDef, session: tf.compat.v1.Session):
        self.inputs = {key: definition.inputs[key].dtype for key in sorted(definition.inputs)}
        self.outputs = {key: definition.outputs[key].dtype for key in sorted(definition.outputs)}
        options = config_pb2.CallableOptions(
            feed=[definition.inputs[key].name for key in self.inputs],
            fetch=[definition.outputs[key].name for key in self.outputs],
        )
        # The public `make_callable` sorts out feeds at each call, and checks shapes, which TensorFlow Serving leaves to the ops.
        self._call = session._make_callable_from_options(options)
        self.run: Run = self._run

    def _run(self, arrays: Arrays) -> Arrays:
        try:
            return dict(zip(self.outputs, self._call(*(arrays[key] for key in self.inputs)), strict=True))
        except tf.errors.OpError as error:
            raise StatusError(CODE_OF_NUMBER[error.error_code], error.message) from error
        except UnicodeDecodeError as error:  # TensorFlow's message quotes bytes of the request that are no text; its code is lost
            raise invalid(error.object.decode(errors="replace")) from error


class Servable:
    """A SavedModel that is loaded, and answers once its warm-up requests have passed (`serving.server.loading`).

    Args:
      name: the model's name, for the answers.
      version: its version.
      folder: the SavedModel.
      max_bytes: the most memory that an input may take.
      batched: wraps what a signature runs, to join concurrent calls; None: each call is run by itself.
      session_config: threads, for example.

    Raises:
      StatusError: the folder is no SavedModel that loads.
    """

    def __init__(self, name: str, version: int, folder: Path, *, max_bytes: int, batched: Callable[[Run], Run] | None = None,
                 session_config: config_pb2.ConfigProto | None = None):  # fmt: skip
        self.name = name
        self.version = version
        self._max_bytes = max_bytes
        definitions = _signature_defs(folder)
        self.metadata = get_model_metadata_pb2.SignatureDefMap(signature_def=definitions)
        session = _load(folder, session_config)
        weakref.finalize(self, session.close)  # when the last call that uses this version has ended
        try:
            self.signatures = {key: Signature(definition, session) for key, definition in definitions.items()}
        except Exception as error:  # tensors that the graph lacks
            raise _load_failure(error, folder) from error
        if batched:
            for signature in self.signatures.values():
                signature.run = batched(signature.run)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers a request whatever model and version it names.

        Raises:
          StatusError: FAILED_PRECONDITION for an unknown signature; INVALID_ARGUMENT for inputs that are not exactly the
            signature's in name and dtype, or an unknown output; else the code of the op that failed.
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(name)
        if signature is None:
            raise failed_precondition(
                f'Serving signature key "{name}" not found. Model {self.name} has {braces(self.signatures)}.'
            )
        _check_inputs(request, signature.inputs)
        wanted = _wanted_outputs(request.output_filter, signature.outputs)
        outputs = signature.run({key: to_array(key, request.inputs[key], self._max_bytes) for key in signature.inputs})
        response = predict_pb2.PredictResponse()
        self.fill_spec(response.model_spec, name)
        for key in wanted:
            fill_proto(response.outputs[key], outputs[key], signature.outputs[key])
        return response

    def fill_spec(self, spec, signature_name: str = "") -> None:
        """Says in an answer who has answered."""
        spec.name = self.name
        spec.version.value = self.version
        spec.signature_name = signature_name


def _signature_defs(folder: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    try:
        return read_signature_defs(folder)
    except FileNotFoundError as error:
        raise not_found(f"{folder} has no {SAVED_MODEL_FILE}") from error
    except (DecodeError, OSError) as error:
        raise StatusError(grpc.StatusCode.DATA_LOSS, f"{folder / SAVED_MODEL_FILE} cannot be read: {error}") from error
    except LookupError as error:
        raise not_found(f"{folder / SAVED_MODEL_FILE} has {error}") from error


def _load(folder: Path, config: config_pb2.ConfigProto | None) -> tf.compat.v1.Session:
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        with session.graph.as_default():
            tf.compat.v1.saved_model.load(session, TAGS, str(folder))
        session.graph.finalize()
    except Exception as error:  # a corrupt folder raises anything; none of it may take the live version down
        session.close()
        raise _load_failure(error, folder) from error
    return session


def _load_failure(error: Exception, folder: Path) -> StatusError:
    code = CODE_OF_NUMBER[error.error_code] if isinstance(error, tf.errors.OpError) else grpc.StatusCode.UNKNOWN
    return StatusError(code, f"{folder} does not load: {' '.join(str(error).split())}")


def _check_inputs(request: predict_pb2.PredictRequest, required: Mapping[str, int]) -> None:
    sent = request.inputs.keys()
    if sent != required.keys():
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(required)}: expected {braces(required)}, received "
            f"{braces(sent)}. Sent extra: {braces(sent - required.keys())}. Missing but required: "
            f"{braces(required.keys() - sent)}."
        )
    for key, dtype in required.items():
        if request.inputs[key].dtype != dtype:
            raise invalid(f"input {key}: expected dtype {_dtype_name(dtype)}, received {_dtype_name(request.inputs[key].dtype)}")


def _dtype_name(number: int) -> str:
    try:
        return tf.DType(number).name
    except TypeError:
        return f"number {number}"


def _wanted_outputs(output_filter: Collection[str], outputs: Mapping[str, int]) -> Collection[str]:
    unknown = set(output_filter) - set(outputs)
    if unknown:
        raise invalid(
            f"output tensor alias not found in signature: {braces(unknown)}. Outputs expected to be in the set {braces(outputs)}."
        )
    if len(set(output_filter)) != len(output_filter):
        raise invalid(f"duplicate output tensor alias in {list(output_filter)}")
    return output_filter or outputs
