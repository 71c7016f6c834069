"""Mistakes that callers make, what status each gets, and whether the next good request is answered."""

import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.serving.programs import Target
from benchmarks.serving.swaps import SWAP_SECONDS, ServedModel
from benchmarks.serving.worker import MAX_MESSAGE_BYTES, OK, PREDICT
from serving.versions.folders import SAVED_MODEL_FILE, exported_versions, highest_name

CALL_SECONDS = 120
POLL_SECONDS = 0.1
BYTES_OF_A_LARGE_REQUEST = 100_000_000
CALLS_AT_ONCE, IMPATIENT_CALLS = 1_000, 100
LIMITS = [(f"grpc.max_{direction}_message_length", MAX_MESSAGE_BYTES) for direction in ("send", "receive")]


@dataclass(frozen=True)
class Fault:
    """A mistake.

    Attributes:
      title: for the table.
      expected: the statuses of which each call must have one.
      commit: makes the mistake; returns the statuses of its calls.
      calls: how many these are.
    """

    title: str
    expected: tuple[str, ...]
    commit: Callable[[], Counter]
    calls: int = 1


class Caller:
    """Stubs of a server, and one good request.

    Args:
      request: a serialized PredictRequest of the signature with one tensor a field, with the model's name.
    """

    def __init__(self, target: Target, request: bytes):
        self.address = target.address
        self._channel = grpc.insecure_channel(target.address, options=LIMITS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._bytes = self._channel.unary_unary(PREDICT)
        self._good = request

    def good(self) -> predict_pb2.PredictRequest:
        return predict_pb2.PredictRequest.FromString(self._good)

    def ask(self, request: predict_pb2.PredictRequest) -> str:
        return self._status(lambda: self._stub.Predict(request, timeout=CALL_SECONDS))

    def ask_bytes(self, content: bytes) -> str:
        return self._status(lambda: self._bytes(content, timeout=CALL_SECONDS))

    def ask_at_once(self, calls: int, seconds: float = CALL_SECONDS) -> Counter:
        request = self.good()
        futures = [self._stub.Predict.future(request, timeout=seconds) for _ in range(calls)]
        return Counter(self._status(future.result) for future in futures)

    def close(self) -> None:
        self._channel.close()

    def _status(self, call: Callable) -> str:
        try:
            call()
        except grpc.RpcError as error:
            return error.code().name
        return OK


def faults(caller: Caller) -> list[Fault]:
    """The mistakes of callers. What is expected is what TensorFlow Serving does, but for the limits of our own server."""

    def changed(change: Callable[[predict_pb2.PredictRequest], None]) -> Callable[[], Counter]:
        def commit() -> Counter:
            request = caller.good()
            change(request)
            return Counter([caller.ask(request)])

        return commit

    inputs = sorted(caller.good().inputs)
    texts = next(name for name in inputs if caller.good().inputs[name].dtype == tf.string.as_datatype_enum)
    numbers = next(name for name in inputs if caller.good().inputs[name].dtype == tf.float32.as_datatype_enum)

    def replaced(name: str, values) -> Callable[[], Counter]:
        return changed(lambda request: request.inputs[name].CopyFrom(tf.make_tensor_proto(values)))

    return [
        Fault("garbage instead of a request", ("INTERNAL",), lambda: Counter([caller.ask_bytes(b"\xff" * 1000)])),
        Fault("garbage instead of HTTP/2", ("connection closed",), lambda: Counter([_send_garbage(caller.address)])),
        Fault("a request of 100 MB", ("RESOURCE_EXHAUSTED",),
              replaced(texts, np.array([b"x" * BYTES_OF_A_LARGE_REQUEST], object))),
        Fault("a tensor that claims 8 GB", ("INVALID_ARGUMENT",), changed(lambda request: _claim(request, numbers))),
        Fault("numbers instead of texts", ("INVALID_ARGUMENT",), replaced(texts, np.zeros(1, np.int32))),
        Fault("float64 instead of float32", ("INVALID_ARGUMENT",), replaced(numbers, np.zeros(1, np.float64))),
        Fault("a missing input", ("INVALID_ARGUMENT",), changed(lambda request: request.inputs.pop(texts))),
        Fault("an input too many", ("INVALID_ARGUMENT",), replaced("no_such_field", np.zeros(1, np.float32))),
        Fault("columns of different length", ("INVALID_ARGUMENT",), replaced(numbers, np.zeros(77, np.float32))),
        Fault("garbage instead of a tf.Example", ("INVALID_ARGUMENT",), changed(_garbage_example)),
        Fault("an unknown signature", ("FAILED_PRECONDITION",), changed(lambda request: _rename(request, signature_name="none"))),
        Fault("an unknown model", ("NOT_FOUND",), changed(lambda request: _rename(request, name="none"))),
        Fault("an unknown version", ("NOT_FOUND",), changed(_unknown_version)),
        Fault(f"{IMPATIENT_CALLS} calls at once that wait a millisecond", (OK, "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"),
              lambda: caller.ask_at_once(IMPATIENT_CALLS, seconds=0.001), IMPATIENT_CALLS),
        Fault(f"{CALLS_AT_ONCE} calls at once", (OK, "RESOURCE_EXHAUSTED"), lambda: caller.ask_at_once(CALLS_AT_ONCE),
              CALLS_AT_ONCE),
    ]  # fmt: skip


def _send_garbage(address: str) -> str:
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=CALL_SECONDS) as connection:
        connection.sendall(b"\x00garbage\r\n" * 100)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
    return "connection closed"


def _claim(request: predict_pb2.PredictRequest, name: str) -> None:
    """One value that stands for two thousand million."""
    tensor = request.inputs[name]
    tensor.Clear()
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.dim.add(size=2_000_000_000)
    tensor.float_val.append(1.0)


def _garbage_example(request: predict_pb2.PredictRequest) -> None:
    _rename(request, signature_name="serving_default")
    for name in list(request.inputs):
        del request.inputs[name]
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto([b"\xff\xff\xff"]))


def _rename(request: predict_pb2.PredictRequest, **names: str) -> None:
    for attribute, value in names.items():
        setattr(request.model_spec, attribute, value)


def _unknown_version(request: predict_pb2.PredictRequest) -> None:
    request.model_spec.version.value = 2**40


def outcome(fault: Fault, caller: Caller) -> dict:
    """{"fault", "expected", "statuses", "next": the status of a good request afterwards, "right": whether all is as it should be}."""
    statuses = fault.commit()
    following = caller.ask(caller.good())
    right = set(statuses) <= set(fault.expected) and following == OK
    return {"fault": fault.title, "expected": list(fault.expected), "statuses": dict(statuses), "next": following, "right": right}


# Versions that cannot be served.

def _empty(version: Path) -> None:
    shutil.rmtree(version)
    version.mkdir()


def _corrupt(version: Path) -> None:
    (version / SAVED_MODEL_FILE).write_bytes(b"\xff" * 1000)


def _halve(version: Path) -> None:
    shutil.rmtree(version / "variables")


SPOILT = {  # what is done to a version, and what the server must name
    "an empty version": (_empty, "has no saved_model.pb"),
    "a version with a corrupt graph": (_corrupt, "saved_model.pb has 1,000 bytes"),
    "a version copied by half": (_halve, "variables"),
}
FAILED = "END"


def spoilt_versions(served: ServedModel, caller: Caller) -> Iterator[dict]:
    """Puts versions into the base path that do not load, as a careless copy does; the old one must go on answering.

    Yields:
      as `outcome`, with the state of the version instead of a call's status, and "reason": what the server says of it.
    """
    for title, (spoil, named) in SPOILT.items():
        base_path, versions = served.base_path, exported_versions(served.base_path)
        number = highest_name(base_path) + 1
        copy, place = base_path / f".copy-{number}", base_path / str(number)
        shutil.copytree(versions[max(versions)], copy)
        spoil(copy)
        copy.rename(place)
        try:
            state, reason = _wait_for_end(served, number)
            following = caller.ask(caller.good())
        finally:
            shutil.rmtree(place)
        _wait_until_forgotten(served, number)  # the next one has the same number
        yield {"fault": title, "expected": [FAILED], "statuses": {state: 1}, "next": following, "reason": reason.replace(f"{base_path}/", ""),
               "right": state == FAILED and named in reason and following == OK}  # fmt: skip


def _wait_for_end(served: ServedModel, version: int) -> tuple[str, str]:
    """State and reason of a version when it has either failed or, against all expectation, not failed in time."""
    give_up = time.monotonic() + SWAP_SECONDS
    while True:
        state, reason = served.statuses().get(version, ("unknown", ""))
        if (state == FAILED and reason) or time.monotonic() > give_up:
            return state, reason
        served.processes.check_signals()
        time.sleep(POLL_SECONDS)


def _wait_until_forgotten(served: ServedModel, version: int) -> None:
    give_up = time.monotonic() + SWAP_SECONDS
    while served.statuses().get(version, ("", ""))[1] and time.monotonic() < give_up:
        served.processes.check_signals()
        time.sleep(POLL_SECONDS)
