"""The model that a client asks: its requests, and whether it can be asked yet."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from serving.client.columns import Calls, Signature, fill
from serving.client.connection import Tls
from serving.client.refusals import Code, PredictError, advice, may_be_repeated
from serving.signature_defs import specs_of

POLL_SECONDS = 0.2

Status = get_model_status_pb2.ModelVersionStatus


class KnownSignatures(dict[str, Signature]):
    """Signatures by name, as a server has told them; a newer version may take other inputs."""

    def fitting(self, name: str, to_calls: Callable[[Signature], Calls]) -> tuple[Signature, Calls] | None:
        """The signature, and the calls that values become by it; None where it is not known, or was and they do not fit it: it is
        forgotten then."""
        signature = self.get(name)
        if signature is None:
            return None
        try:
            return signature, to_calls(signature)
        except PredictError:
            self.forget(name, signature)
            return None

    def forget(self, name: str, signature: Signature) -> None:
        """Forgets it, unless another has taken its place."""
        if self.get(name) is signature:
            del self[name]


@dataclass(frozen=True)
class AskedModel:
    """A model on a server, and which version and signature of it.

    Attributes:
      version, label: one version, or the one that carries a label; without both, the server's choice.
      tls: how the connection is encrypted, for advice; None: not at all.
    """

    server: str
    name: str
    signature: str
    version: int | None = None
    label: str | None = None
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(f"give a version or a label, not both, received {self.version} and {self.label!r}")

    def __str__(self) -> str:
        chosen = f" version {self.version}" if self.version is not None else f" label {self.label!r}" if self.label else ""
        return f"model {self.name}{chosen} on {self.server}"

    def predict_request(self, arrays: Mapping[str, np.ndarray], signature: Signature) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        self._address(request)
        request.model_spec.signature_name = self.signature
        for name, array in arrays.items():
            fill(request.inputs[name], array, signature.inputs[name].dtype)
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

    def definition(self, response: get_model_metadata_pb2.GetModelMetadataResponse) -> Signature:
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
        return PredictError(f"{self}: {advice(error, deadline, self.tls)} ({received})", error.code())


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
            states = [f"{one.version} {Status.State.Name(one.state)} {one.status.error_message}".strip() for one in statuses]
            said = "; ".join(states) or "none"
            raise PredictError(
                f"{self._asked} has no available version after {self._seconds:g} s (versions: {said}): see the server's log",
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
