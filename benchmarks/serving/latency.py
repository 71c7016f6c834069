"""Latency and throughput by candidates a request and clients at once, beside the bare model and beside a plain network.

All arms take turns in rounds, every other round backwards, so that a ratio compares neighbours in time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Processes
from benchmarks.serving.figures import summary
from benchmarks.serving.models import CLICKS, PLAIN
from benchmarks.serving.programs import Clients, Target
from benchmarks.serving.requests import REQUESTS, request_path

PREDICT, CANDIDATES, EXAMPLES = "predict", "candidates", "serving_default"
TENSORFLOW_CLIENTS = 4  # at the most: each imports TensorFlow


@dataclass(frozen=True)
class Arm:
    """What is asked, and how.

    Attributes:
      title: for the tables.
      way: of `benchmarks.serving.worker`.
      clients: how many at once, at the most.
      batched: whether the server joins concurrent calls.
    """

    title: str
    way: str
    model: str = CLICKS
    signature: str = PREDICT
    clients: int = 1_000
    batched: bool = False

    @property
    def local(self) -> bool:
        """Whether it calls the SavedModel without a server."""
        return self.way in ("function", "session")


ARMS = {
    "function": Arm("no server: call of the loaded SavedModel", "function", clients=1),
    "session": Arm("no server: the graph alone", "session", clients=1),
    "predict": Arm("server, `predict`", "bytes"),
    "examples": Arm("server, `serving_default`", "bytes", signature=EXAMPLES, clients=1),
    "candidates": Arm("server, `candidates`, the user sent once", "bytes", signature=CANDIDATES),
    "batched": Arm("server that joins calls, `predict`", "bytes", batched=True),
    "client": Arm("our client, `predict`", "client", clients=TENSORFLOW_CLIENTS),
    "rank": Arm("our client, `rank`", "client", signature=CANDIDATES, clients=TENSORFLOW_CLIENTS),
    "plain_function": Arm("plain DCN-V2, no server: call", "function", model=PLAIN, clients=1),
    "plain_session": Arm("plain DCN-V2, no server: the graph alone", "session", model=PLAIN, clients=1),
    "plain": Arm("plain DCN-V2, server, `predict`", "bytes", model=PLAIN),
}


@dataclass(frozen=True)
class Cell:
    """An arm, asked for `rows` candidates a request by `clients` at once."""

    arm: str
    rows: int
    clients: int

    @property
    def key(self) -> str:
        return f"{self.arm} {self.rows} {self.clients}"

    @classmethod
    def of(cls, key: str) -> "Cell":
        arm, rows, clients = key.split()
        return cls(arm, int(rows), int(clients))


def cells(arms: Sequence[str], rows: Sequence[int], clients: Sequence[int]) -> list[Cell]:
    return [Cell(arm, size, number) for size in rows for arm in arms for number in clients if number <= ARMS[arm].clients]


class Asking:
    """The clients of all arms.

    Args:
      server: the server that arms ask, one that joins calls or not; it is started when it is first asked for.
      versions: by model the folder of the version that the arms without a server load.
      requests: by model the folder of its requests.
      printed: a folder for what clients print.
    """

    def __init__(self, processes: Processes, server: Callable[[bool], Target], versions: dict[str, Path], requests: dict[str, Path],
                 printed: Path):  # fmt: skip
        self._processes, self._server = processes, server
        self._versions, self._requests, self._printed = versions, requests, printed
        self._stack, self._clients = ExitStack(), {}

    def close(self) -> None:
        self._stack.close()

    def measure(self, cell: Cell, settle: float, seconds: float) -> dict:
        arm = ARMS[cell.arm]
        sample = self.clients(arm).ask(cell.clients, self.files(arm, cell.rows), settle, seconds)
        return summary(sample, cell.rows)

    def clients(self, arm: Arm) -> Clients:
        about = ("--version", str(self._versions[arm.model])) if arm.local else ("--server", self._server(arm.batched).address)
        if (arm.way, about) not in self._clients:
            printed = self._printed / f"{arm.way}-{len(self._clients)}.txt"
            self._clients[arm.way, about] = self._stack.enter_context(closing(Clients(self._processes, arm.way, about, printed)))
        return self._clients[arm.way, about]

    def files(self, arm: Arm, rows: int) -> list[Path]:
        return [request_path(self._requests[arm.model], arm.signature, rows, number) for number in range(REQUESTS)]


def rounds(asking: Asking, chosen: Sequence[Cell], number: int, settle: float, seconds: float) -> Iterator[dict[str, dict]]:
    """For each round the summaries of all cells by their keys."""
    for place in range(number):
        found = {}
        for cell in chosen if place % 2 == 0 else chosen[::-1]:
            found[cell.key] = one = asking.measure(cell, settle, seconds)
            print(f"round {place + 1}/{number}  {ARMS[cell.arm].title}, {cell.rows} rows, {cell.clients} clients: p50 {one['p50']:.2f} ms, "
                  f"p99 {one['p99']:.2f} ms, {one['rows_per_second']:,.0f} rows/s{_failures(one)}", flush=True)  # fmt: skip
        yield found


def _failures(one: dict) -> str:
    return f", failed: {one['failures']}" if one["failures"] else ""
