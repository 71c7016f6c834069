"""A client of TensorFlow Serving's gRPC protocol, for whatever columns a program has."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tenacity import Retrying
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.client.calls import POLL_SECONDS, AskedModel, KnownSignatures, Readiness
from serving.client.candidates import candidate_chunks, of_one_request
from serving.client.columns import Calls, Signature, as_arrays, chunks, empty_outputs, joined, outputs_of
from serving.client.connection import Tls, open_channel
from serving.client.refusals import Code, PredictError, retry_policy
from serving.signatures import CANDIDATE_COUNT_INPUT, CANDIDATES_SIGNATURE, NAMED_SIGNATURE

__all__ = ["PredictClient", "PredictError", "Tls"]


class PredictClient:
    """Asks one model on one server; reuses one connection, so keep it for many calls and close it at the end.

        with PredictClient("127.0.0.1:8500", "clicks") as client:
            client.wait_until_ready()
            answers = client.predict({"user": ["u1", "u2"], "price": [1.5, float("nan")]})
            answers["probability"]  # float32 [2]
            client.rank(shared={"user": "u1"}, candidates={"price": [1.5, 2.0, 9.9]})["probability"]  # float32 [3]

    Threads may share a client. A call that the server did not take, or was too busy for, is sent again after a random wait
    that grows, as long as its deadline allows; a call that it refused is not.

    Args:
      server: HOST:PORT.
      model: the model's name.
      signature: the signature to call, with one tensor a column.
      version, label: ask one version, or the one that carries a label, instead of the server's choice.
      deadline: seconds that one call may take, from the first attempt to the last.
      chunk_rows: rows sent in one call; no more than the server's max_batch_size where it batches.
      concurrency: calls that one `predict` or `rank` of more than `chunk_rows` rows makes at once.
      tls: encrypt the connection.

    Raises:
      ValueError: a limit that allows nothing, or a version and a label.
    """

    def __init__(self, server: str, model: str, *, signature: str = NAMED_SIGNATURE, version: int | None = None,
                 label: str | None = None, deadline: float = 10.0, chunk_rows: int = 512, concurrency: int = 1,
                 tls: Tls | None = None):  # fmt: skip
        check_limits(deadline, chunk_rows, concurrency)
        self._asked = AskedModel(server, model, signature, version, label, tls)
        self._deadline, self._chunk_rows = deadline, chunk_rows
        self._channel = open_channel(server, tls)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._threads = ThreadPoolExecutor(concurrency, "predict") if concurrency > 1 else None
        self._signatures = KnownSignatures()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        self._channel.close()

    def wait_until_ready(self, seconds: float = 60.0) -> int:
        """Waits until the model can be asked and returns the version that answers.

        Raises:
          PredictError: it cannot within `seconds`, or the server answers and does not have the model, version or label.
        """
        readiness = Readiness(self._asked, seconds)
        while True:
            try:
                response = self._status.GetModelStatus(self._asked.status_request(), timeout=self._deadline)
                version = readiness.available(response.model_version_status)
                if version is not None:
                    return version if self._asked.label is None else self._metadata(self._asked).model_spec.version.value
            except grpc.RpcError as error:
                readiness.failed(error, self._deadline)
            time.sleep(POLL_SECONDS)

    def input_specs(self) -> dict[str, tf.TensorSpec]:
        """The columns that the signature takes, by GetModelMetadata, asked once for as long as values fit them."""
        return self._signature_of(self._asked).inputs

    def predict(self, columns: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """Scores rows, `chunk_rows` a call.

        Args:
          columns: one sequence a column of the signature, all of one length; strings or numbers as the column is, None
            where there is no value. A column of lists takes a sequence of strings a row, of any length; a column of
            vectors an array [rows, size].

        Returns:
          One array an output, `probability` and `logit` float32 `[rows]`.

        Raises:
          PredictError: columns are missing, too many or of different length, or a call failed.
        """
        asked = self._asked
        signature, calls = self._fitting(asked, lambda one: chunks(as_arrays(columns, one.inputs, asked), self._chunk_rows))
        if not calls:  # never sent: a server that batches does not answer an empty call
            return empty_outputs(signature)
        return self._joined(calls, lambda chunk: self._call(asked, signature, chunk))

    def rank(self, shared: Mapping[str, Any], candidates: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """Scores many candidates that share features, such as one user's, which are sent once a call.

        Args:
          shared: one value a field: a string, a number, a sequence of strings for a list, of numbers for a vector.
          candidates: one sequence a field that differs between the candidates, as for `predict`.

        Returns:
          `probability` and `logit`, float32 `[candidates]`, in their order.

        Raises:
          PredictError: a field is missing, not known or in both; or a call failed.
        """
        asked = replace(self._asked, signature=CANDIDATES_SIGNATURE)
        signature, calls = self._fitting(
            asked, lambda one: list(candidate_chunks(shared, candidates, one, asked, self._chunk_rows))
        )
        if not calls:
            return empty_outputs(signature, batch_dimensions=2)

        def call(chunk: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return of_one_request(self._call(asked, signature, chunk), chunk[CANDIDATE_COUNT_INPUT][0])

        return self._joined(calls, call)

    def _joined(self, calls: Sequence[Mapping], call: Callable[[Mapping], dict]) -> dict[str, np.ndarray]:
        several = self._threads and len(calls) > 1
        return joined(list(self._threads.map(call, calls)) if several else [call(one) for one in calls])

    def _call(self, asked: AskedModel, signature: Signature, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return outputs_of(self._invoke(self._prediction.Predict, asked.predict_request(arrays, signature)))
        except PredictError as error:
            if error.code == Code.INVALID_ARGUMENT:
                self._signatures.forget(asked.signature, signature)
            raise

    def _fitting(self, asked: AskedModel, to_calls: Callable[[Signature], Calls]) -> tuple[Signature, Calls]:
        """The signature, and the calls that values become by it. Values that do not fit the one that is known are refused only when
        they do not fit the one that is asked for anew either."""
        known = self._signatures.fitting(asked.signature, to_calls)
        if known is not None:
            return known
        signature = self._signature_of(asked)
        return signature, to_calls(signature)

    def _signature_of(self, asked: AskedModel) -> Signature:
        signature = self._signatures.get(asked.signature)
        if signature is None:
            signature = self._signatures[asked.signature] = asked.definition(self._metadata(asked))
        return signature

    def _metadata(self, asked: AskedModel):
        return self._invoke(self._prediction.GetModelMetadata, asked.metadata_request())

    def _invoke(self, method: Callable, request):
        """Calls a method, again where that is safe, until it answers or the deadline is near."""
        give_up = time.monotonic() + self._deadline
        try:
            for attempt in Retrying(**retry_policy(self._deadline)):
                with attempt:
                    return method(request, timeout=give_up - time.monotonic())
        except grpc.RpcError as error:
            raise self._asked.explained(error, self._deadline, attempt.retry_state.attempt_number) from error


def check_limits(deadline: float, chunk_rows: int, concurrency: int) -> None:
    if chunk_rows < 1 or deadline <= 0 or concurrency < 1:
        raise ValueError(
            "chunk_rows and concurrency must be at least 1 and deadline above 0, received "
            f"{chunk_rows}, {concurrency} and {deadline}"
        )
