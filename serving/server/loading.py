"""Loads a version and proves it: one that does not answer its own warm-up requests does not go live."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from tensorflow.core.protobuf import config_pb2

from preprocessing.errors import UserError
from serving.server.config import MAX_REQUEST_BYTES
from serving.server.example_inference import classify, multi_inference, regress
from serving.server.servable import Run, Servable
from serving.server.status import StatusError, invalid
from serving.versions.checksums import require_sound
from serving.warmup import read_warmup


@dataclass(frozen=True)
class Loader:
    """How the versions of a server are loaded.

    Attributes:
      max_bytes: the most memory that one input of a request may take.
      batched: wraps what a signature runs, to join concurrent calls (`BatchScheduler.batched`); None: no batching.
      session_config: TensorFlow's threads, for example.
    """

    max_bytes: int = MAX_REQUEST_BYTES
    batched: Callable[[Run], Run] | None = None
    session_config: config_pb2.ConfigProto | None = None

    def load(self, name: str, version: int, folder: Path) -> Servable:
        """Returns a version that has answered its warm-up requests.

        Raises:
          StatusError: its files are not those that were published (where it says what these are), it does not load, or a
            warm-up request fails.
        """
        try:
            require_sound(folder)
        except UserError as error:
            raise StatusError(grpc.StatusCode.DATA_LOSS, str(error)) from error
        servable = Servable(
            name, version, folder, max_bytes=self.max_bytes, batched=self.batched, session_config=self.session_config
        )
        _warm_up(servable, folder)
        return servable


def _warm_up(servable: Servable, folder: Path) -> None:
    answers = {
        "predict_log": servable.predict,
        "classify_log": lambda request: classify(servable, request),
        "regress_log": lambda request: regress(servable, request),
        "multi_inference_log": lambda request: multi_inference(servable, request),
    }
    try:
        for number, record in enumerate(read_warmup(folder)):
            kind = record.WhichOneof("log_type")
            if kind not in answers:
                raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"warm-up request {number}: unsupported log_type {kind}")
            try:
                answers[kind](getattr(record, kind).request)
            except StatusError as error:
                raise StatusError(error.code, f"warm-up request {number}: {error}") from error
    except ValueError as error:
        raise invalid(f"warm-up: {error}") from error
