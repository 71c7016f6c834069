"""Counts and times of a server in Prometheus' text format, by TensorFlow Serving's names where it has one.

Times are in microseconds, as TensorFlow Serving gives them. A metric with the prefix `dgenctr_` has no counterpart there.
"""

import bisect
import itertools
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS = [round(10 * 1.8**power, 1) for power in range(33)]  # microseconds, up to 20 minutes
SIZE_BUCKETS = [2**power for power in range(15)]

Labels = tuple[str, ...]


class _Metric(ABC):
    kind: str

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()):
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self._lock = threading.Lock()

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.description}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self._samples()

    @abstractmethod
    def _samples(self) -> Iterator[str]:
        """The lines of its values."""

    def _sample(self, suffix: str, values: Labels, number: float, more: str = "") -> str:
        pairs = [f'{label}="{_escaped(value)}"' for label, value in zip(self.labels, values, strict=True)] + [more] * bool(more)
        return (
            f"{self.name}{suffix}{{{','.join(pairs)}}} {_number(number)}" if pairs else f"{self.name}{suffix} {_number(number)}"
        )


class Counter(_Metric):
    """A number that only grows, for each combination of label values."""

    kind = "counter"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._values: dict[Labels, float] = {}

    def add(self, *values: str, amount: float = 1) -> None:
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def _samples(self) -> Iterator[str]:
        with self._lock:
            values = sorted(self._values.items())
        for labels, number in values:
            yield self._sample("", labels, number)


class Gauge(_Metric):
    """Numbers that are looked up when somebody asks."""

    kind = "gauge"

    def __init__(self, name: str, description: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, float]]):
        super().__init__(name, description, labels)
        self._read = read

    def _samples(self) -> Iterator[str]:
        for labels, number in sorted(self._read().items()):
            yield self._sample("", labels, number)


class Histogram(_Metric):
    """How many observations lie at or below each bound, and their sum, for each combination of label values."""

    kind = "histogram"

    def __init__(self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]):
        super().__init__(name, description, labels)
        self._bounds = list(bounds)
        self._cells: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        place = bisect.bisect_left(self._bounds, value)
        with self._lock:
            counts, total = self._cells.setdefault(labels, ([0] * (len(self._bounds) + 1), [0.0]))
            counts[place] += 1
            total[0] += value

    def _samples(self) -> Iterator[str]:
        with self._lock:
            cells = sorted((labels, list(counts), total[0]) for labels, (counts, total) in self._cells.items())
        for labels, counts, total in cells:
            for bound, count in zip([*self._bounds, math.inf], itertools.accumulate(counts), strict=True):
                yield self._sample("_bucket", labels, count, f'le="{_number(bound)}"')
            yield self._sample("_sum", labels, total)
            yield self._sample("_count", labels, sum(counts))


class BatchingMetrics:
    """What the batching threads report."""

    def __init__(self):
        prefix = ":tensorflow:serving:batching_session:"
        self.processed = Histogram(f"{prefix}processed_batch_size", "Rows of a batch, with padding.", (), SIZE_BUCKETS)
        self.padding = Histogram(f"{prefix}padding_size", "Rows that fill a batch up to an allowed size.", (), [0, *SIZE_BUCKETS])
        self.queuing = Histogram(
            f"{prefix}queuing_latency", "Microseconds from a call's arrival to its batch.", (), LATENCY_BUCKETS
        )

    def observe(self, rows: int, padding: int, waits: Sequence[float]) -> None:
        self.processed.observe(rows + padding)
        self.padding.observe(padding)
        for seconds in waits:
            self.queuing.observe(seconds * 1e6)


class ServerMetrics:
    """All metrics of a server.

    Attributes:
      requests: by model and status, REST's that are refused before a model is asked among them. A model that is not served counts
        as the empty name, so that callers cannot invent labels.
      latency: microseconds of a request, from its arrival at the handler to its answer, by model, API, entry point and status.
      refused: calls beyond the limit of concurrent ones.
      load_seconds: from the start of a load to the end of the warm-up, by model.
      load_failures: by model.
    """

    def __init__(self):
        prefix = ":tensorflow:serving:"
        self.requests = Counter(f"{prefix}request_count", "Requests by model and status.", ("model_name", "status"))
        self.latency = Histogram(f"{prefix}request_latency", "Microseconds of a request.",
                                 ("model_name", "API", "entrypoint", "status"), LATENCY_BUCKETS)  # fmt: skip
        self.refused = Counter("dgenctr_serving_refused_total", "Calls beyond the limit of concurrent calls.", ("API",))
        self.load_seconds = Histogram("dgenctr_serving_load_seconds", "Seconds of a load with its warm-up.", ("model_name",),
                                      [0.1, 0.3, 1, 3, 10, 30, 100, 300])  # fmt: skip
        self.load_failures = Counter("dgenctr_serving_load_failures_total", "Versions that did not load.", ("model_name",))
        self.batching = BatchingMetrics()
        started = time.time()
        self._gauges = [
            Gauge("process_resident_memory_bytes", "Resident memory.", (), _resident_bytes),
            Gauge("process_start_time_seconds", "Start of the server, since 1970.", (), lambda: {(): started}),
        ]

    def gauge(self, name: str, description: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, float]]) -> None:
        self._gauges.append(Gauge(name, description, labels, read))

    def text(self) -> str:
        batching = self.batching
        own = [self.requests, self.latency, self.refused, self.load_seconds, self.load_failures,
               batching.processed, batching.padding, batching.queuing]  # fmt: skip
        return "\n".join(line for metric in [*own, *self._gauges] for line in metric.lines()) + "\n"


def _resident_bytes() -> dict[Labels, float]:
    """Nothing where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return {}
    return {(): pages * os.sysconf("SC_PAGE_SIZE")}


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if value == math.inf:
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
