"""Joins concurrent calls of one signature into one run of the graph, by TensorFlow Serving's rules and with its words.

Calls wait in a queue of their signature until a batch is full or its oldest call has waited long enough; a few threads,
shared by all signatures of all models, run the batches. The rules that surprise people:

- All inputs of a call need a first dimension, the same for all; all outputs must have the batch's.
- A call of more rows than `max_batch_size` is refused.
- Calls whose other dimensions differ fail together, unless `pad_variable_length_inputs`, which fills a shorter tensor up
  with its own first element: where that element is a value of a list, the list becomes another one.
- With `allowed_batch_sizes`, a batch is filled up to the next of them with copies of a row.

Unlike TensorFlow Serving, which never answers a call of no rows, such a call is run by itself.
"""

import bisect
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.server.config import BatchingParameters
from serving.server.metrics import BatchingMetrics
from serving.server.servable import Arrays, Run
from serving.server.status import StatusError, failed_precondition, invalid

log = logging.getLogger(__name__)


@dataclass
class _Call:
    inputs: Arrays
    rows: int
    arrived: float
    outputs: Future = field(default_factory=Future)


@dataclass
class _Batch:
    calls: list[_Call] = field(default_factory=list)
    rows: int = 0

    def add(self, call: _Call) -> None:
        self.calls.append(call)
        self.rows += call.rows


class BatchScheduler:
    """The queues and threads of one server. `batched` wraps what a signature runs.

    Args:
      parameters: sizes, waits and threads.
      metrics: told of every batch.
    """

    def __init__(self, parameters: BatchingParameters, metrics: BatchingMetrics):
        self._parameters = parameters
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[_Queue] = deque()  # the queues that have calls, the one to look at first in front
        self._stopping = False
        if parameters.pad_variable_length_inputs:
            log.warning("pad_variable_length_inputs fills a list up with its first element: let lists begin with an empty text")
        threads = parameters.num_batch_threads or os.cpu_count()
        self._threads = [threading.Thread(target=self._work, name=f"batch-{number}", daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def batched(self, run: Run) -> Run:
        """The same as `run`, joined with other calls of it; raises StatusError as described above."""
        queue = _Queue(run)

        def call(inputs: Arrays) -> Arrays:
            rows = _rows(inputs)
            if rows == 0:
                return run(inputs)
            limit = self._parameters.max_batch_size
            if rows > limit:
                raise invalid(f"Task size {rows} is larger than maximum input batch size {limit}")
            return self._enqueue(queue, _Call(inputs, rows, time.monotonic())).result()

        return call

    def stop(self, seconds: float = 30.0) -> None:
        """Runs what is waiting and ends the threads; returns when they have ended, or `seconds` have passed."""
        give_up = time.monotonic() + seconds
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _enqueue(self, queue: "_Queue", call: _Call) -> Future:
        with self._changed:
            if self._stopping:
                raise StatusError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            if not queue.batches or queue.batches[-1].rows + call.rows > self._parameters.max_batch_size:
                if len(queue.batches) >= self._parameters.max_enqueued_batches:
                    raise StatusError(
                        grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"
                    )
                queue.batches.append(_Batch())
            queue.batches[-1].add(call)
            if queue not in self._waiting:
                self._waiting.append(queue)
            self._changed.notify()
        return call.outputs

    def _work(self) -> None:
        while taken := self._next_batch():
            queue, batch = taken
            self._run(queue.run, batch)
            del queue, batch, taken

    def _next_batch(self) -> "tuple[_Queue, _Batch] | None":
        """Waits for a batch that is due; None when the server stops and nothing waits."""
        with self._changed:
            while True:
                now = time.monotonic()
                queue, wait = None, None
                for queue in self._waiting:
                    remaining = 0.0 if self._stopping else self._time_to_wait(queue, now)
                    if remaining <= 0:
                        return queue, self._take_from(queue)
                    wait = remaining if wait is None else min(wait, remaining)
                if self._stopping:
                    return None
                queue = None  # a thread that waits must not keep a version alive
                self._changed.wait(wait)

    def _time_to_wait(self, queue: "_Queue", now: float) -> float:
        batch = queue.batches[0]
        if len(queue.batches) > 1 or batch.rows >= self._parameters.max_batch_size:
            return 0.0
        return batch.calls[0].arrived + self._parameters.batch_timeout_micros / 1e6 - now

    def _take_from(self, queue: "_Queue") -> _Batch:
        batch = queue.batches.popleft()
        self._waiting.remove(queue)
        if queue.batches:
            self._waiting.append(queue)  # behind the others
            self._changed.notify()
        return batch

    def _run(self, run: Run, batch: _Batch) -> None:
        try:
            padding = self._padding(batch.rows)
            self._metrics.observe(batch.rows, padding, [time.monotonic() - call.arrived for call in batch.calls])
            outputs = run(self._merge(batch, padding))
            parts = _split(outputs, [call.rows for call in batch.calls], batch.rows + padding)
        except Exception as error:  # noqa: BLE001 - every caller waits for an answer, whatever happened
            for call in batch.calls:
                call.outputs.set_exception(error)
        else:
            for call, part in zip(batch.calls, parts, strict=True):
                call.outputs.set_result(part)

    def _padding(self, rows: int) -> int:
        sizes = self._parameters.allowed_batch_sizes
        return sizes[bisect.bisect_left(sizes, rows)] - rows if sizes else 0

    def _merge(self, batch: _Batch, padding: int) -> Arrays:
        if len(batch.calls) == 1 and not padding:
            return batch.calls[0].inputs
        return {
            name: self._merge_input(name, [call.inputs[name] for call in batch.calls], padding) for name in batch.calls[0].inputs
        }

    def _merge_input(self, name: str, arrays: Sequence[np.ndarray], padding: int) -> np.ndarray:
        if len({array.shape[1:] for array in arrays}) > 1:
            if not self._parameters.pad_variable_length_inputs:
                raise failed_precondition(
                    f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. Set "
                    "pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal dimensions "
                    "starting with the first dim."
                )
            arrays = _filled_up(name, arrays)
        return np.concatenate([*arrays, np.repeat(arrays[-1][:1], padding, axis=0)])


class _Queue:
    """The calls of one signature of one version that wait. Guarded by the scheduler's condition."""

    def __init__(self, run: Run):
        self.run = run
        self.batches: deque[_Batch] = deque()


def _rows(inputs: Arrays) -> int:
    if any(array.ndim == 0 for array in inputs.values()):
        raise invalid("Batching session Run() input tensors must have at least one dimension.")
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) != 1:
        raise invalid("Batching session Run() input tensors must have equal 0th-dimension size.")
    return sizes.pop()


def _filled_up(name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays of different shapes made equal but for the first dimension, each by its own first element."""
    if len({array.ndim for array in arrays}) > 1 or any(array.size == 0 for array in arrays):
        raise invalid(f"Tensors with name '{name}' cannot be padded: expected one rank and at least one element each")
    largest = np.max([array.shape for array in arrays], axis=0)
    filled = []
    for array in arrays:
        target = np.full((len(array), *largest[1:]), array.flat[0], array.dtype)
        target[tuple(slice(size) for size in array.shape)] = array
        filled.append(target)
    return filled


def _split(outputs: Arrays, sizes: Sequence[int], rows: int) -> list[Arrays]:
    """One part of each output for each call, without the rows that fill the batch up."""
    for values in outputs.values():
        if np.ndim(values) == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if len(values) != rows:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
            )
    ends = np.cumsum(sizes)
    return [{name: values[end - size : end] for name, values in outputs.items()} for size, end in zip(sizes, ends, strict=True)]
