"""The client for programs with an event loop: the same calls as `serving.client.predict_client`, many at once on one connection."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tenacity import AsyncRetrying
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.client.calls import POLL_SECONDS, AskedModel, KnownSignatures, Readiness
from serving.client.candidates import candidate_chunks, of_one_request
from serving.client.columns import Calls, Signature, as_arrays, chunks, empty_outputs, joined, outputs_of
from serving.client.connection import Tls, open_aio_channel
from serving.client.predict_client import check_limits
from serving.client.refusals import Code, PredictError, retry_policy
from serving.signatures import CANDIDATE_COUNT_INPUT, CANDIDATES_SIGNATURE, NAMED_SIGNATURE

__all__ = ["AsyncPredictClient", "PredictError", "Tls"]


class AsyncPredictClient:
    """`PredictClient` for asyncio; create it inside the event loop that uses it.

        async with AsyncPredictClient("127.0.0.1:8500", "clicks") as client:
            await client.wait_until_ready()
            answers = await asyncio.gather(*(client.predict(columns) for columns in requests))

    Args:
      concurrency: calls in progress at once, over all tasks that use the client; more wait their turn, and their deadline
        begins with it.
      Others, errors and answers: as `PredictClient`.
    """

    def __init__(self, server: str, model: str, *, signature: str = NAMED_SIGNATURE, version: int | None = None,
                 label: str | None = None, deadline: float = 10.0, chunk_rows: int = 512, concurrency: int = 8,
                 tls: Tls | None = None):  # fmt: skip
        check_limits(deadline, chunk_rows, concurrency)
        self._asked = AskedModel(server, model, signature, version, label, tls)
        self._deadline, self._chunk_rows = deadline, chunk_rows
        self._channel = open_aio_channel(server, tls)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._turns = asyncio.Semaphore(concurrency)
        self._looking_up = asyncio.Lock()
        self._signatures = KnownSignatures()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def wait_until_ready(self, seconds: float = 60.0) -> int:
        """As `PredictClient.wait_until_ready`."""
        readiness = Readiness(self._asked, seconds)
        while True:
            try:
                response = await self._status.GetModelStatus(self._asked.status_request(), timeout=self._deadline)
                version = readiness.available(response.model_version_status)
                if version is not None:
                    return version if self._asked.label is None else (await self._metadata(self._asked)).model_spec.version.value
            except grpc.RpcError as error:
                readiness.failed(error, self._deadline)
            await asyncio.sleep(POLL_SECONDS)

    async def input_specs(self) -> dict[str, tf.TensorSpec]:
        """As `PredictClient.input_specs`."""
        return (await self._signature_of(self._asked)).inputs

    async def predict(self, columns: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """As `PredictClient.predict`; the chunks of a long list are sent at once, as far as `concurrency` allows."""
        asked = self._asked
        signature, calls = await self._fitting(
            asked, lambda one: chunks(as_arrays(columns, one.inputs, asked), self._chunk_rows)
        )
        if not calls:
            return empty_outputs(signature)
        return await self._joined(calls, lambda chunk: self._call(asked, signature, chunk))

    async def rank(self, shared: Mapping[str, Any], candidates: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """As `PredictClient.rank`."""
        asked = replace(self._asked, signature=CANDIDATES_SIGNATURE)
        signature, calls = await self._fitting(
            asked, lambda one: list(candidate_chunks(shared, candidates, one, asked, self._chunk_rows))
        )
        if not calls:
            return empty_outputs(signature, batch_dimensions=2)

        async def call(chunk: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return of_one_request(await self._call(asked, signature, chunk), chunk[CANDIDATE_COUNT_INPUT][0])

        return await self._joined(calls, call)

    async def _joined(self, calls: Sequence[Mapping], call: Callable[[Mapping], Awaitable[dict]]) -> dict[str, np.ndarray]:
        tasks = [asyncio.ensure_future(call(one)) for one in calls]
        try:
            return joined(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()  # the others, where one has failed

    async def _call(self, asked: AskedModel, signature: Signature, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return outputs_of(await self._invoke(self._prediction.Predict, asked.predict_request(arrays, signature)))
        except PredictError as error:
            if error.code == Code.INVALID_ARGUMENT:
                self._signatures.forget(asked.signature, signature)
            raise

    async def _fitting(self, asked: AskedModel, to_calls: Callable[[Signature], Calls]) -> tuple[Signature, Calls]:
        """As `PredictClient._fitting`."""
        known = self._signatures.fitting(asked.signature, to_calls)
        if known is not None:
            return known
        signature = await self._signature_of(asked)
        return signature, to_calls(signature)

    async def _signature_of(self, asked: AskedModel) -> Signature:
        async with self._looking_up:  # once, however many tasks begin together
            signature = self._signatures.get(asked.signature)
            if signature is None:
                signature = self._signatures[asked.signature] = asked.definition(await self._metadata(asked))
            return signature

    async def _metadata(self, asked: AskedModel):
        return await self._invoke(self._prediction.GetModelMetadata, asked.metadata_request())

    async def _invoke(self, method: Callable[..., Awaitable], request):
        """As `PredictClient._invoke`; a turn is held during the waits too, since the server is then too busy for more."""
        async with self._turns:
            give_up = time.monotonic() + self._deadline
            try:
                async for attempt in AsyncRetrying(**retry_policy(self._deadline)):
                    with attempt:
                        return await method(request, timeout=give_up - time.monotonic())
            except grpc.RpcError as error:
                raise self._asked.explained(error, self._deadline, attempt.retry_state.attempt_number) from error
