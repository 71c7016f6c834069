"""Version swaps: under full load, and many one after another; and a long run with both."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.prepare.measure import tree_bytes
from benchmarks.processes import Processes
from benchmarks.serving.figures import before_and_during, percentile, summary
from benchmarks.serving.programs import Clients, Target
from preprocessing.errors import UserError
from serving.versions.checksums import CHECKSUM_FILE
from serving.versions.folders import exported_versions
from serving.versions.publishing import keep_highest, publish, staged_version

SWAP_SECONDS = 120
POLL_SECONDS = 0.05
AFTER_SECONDS = 0.5
STATUS_SECONDS = 30
KEPT = 2
Statuses = Callable[[], dict[int, tuple[str, str]]]  # version -> state, and why it failed


def status_reader(target: Target, model: str) -> Statuses:
    """What asks a server for the states of a model's versions; raises UserError where it does not answer."""
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(target.address))
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = target.names[model]
    state = get_model_status_pb2.ModelVersionStatus.State

    def read() -> dict[int, tuple[str, str]]:
        try:
            found = stub.GetModelStatus(request, timeout=STATUS_SECONDS).model_version_status
        except grpc.RpcError as error:
            raise UserError(f"the server on {target.address} does not tell the versions of {request.model_spec.name} ({error.code().name}: "
                            f"{error.details()}): see what it printed; the name is --model") from error
        return {one.version: (state.Name(one.state), one.status.error_message) for one in found}

    return read


@contextmanager
def copied_version(base_path: Path) -> Iterator[Callable[[], int]]:
    """A copy of the highest version, ready to be published by what is yielded, which returns its number."""
    versions = exported_versions(base_path)
    with staged_version(base_path) as staging:
        shutil.copytree(versions[max(versions)], staging, ignore=shutil.ignore_patterns(CHECKSUM_FILE.name))
        yield lambda: int(publish(staging, base_path).name)


@dataclass(frozen=True)
class ServedModel:
    """A model whose versions are swapped, and those who ask it.

    Attributes:
      target: its server.
      statuses: asks the server for the states of its versions.
      base_path: where its versions are published.
      clients: ask these files, requests of `rows` rows, by turns.
    """

    processes: Processes
    target: Target
    statuses: Statuses
    base_path: Path
    clients: Clients
    files: list[Path]
    rows: int

    def swap(self) -> None:
        """Publishes a copy of the highest version, and returns when it alone answers."""
        with copied_version(self.base_path) as publish_copy:
            version = publish_copy()
        self.wait_until_alone(version)
        keep_highest(self.base_path, KEPT)

    def wait_until_alone(self, version: int) -> None:
        """Waits until a version is the only one available.

        Raises:
          UserError: it is not in time.
        """
        give_up = time.monotonic() + SWAP_SECONDS
        while _available(found := self.statuses()) != [version]:
            if time.monotonic() > give_up:
                raise UserError(f"version {version} was not the only one to answer after {SWAP_SECONDS} s (versions: {found}): see the "
                                "server's log; does the server poll this folder?")
            self.processes.check_signals()
            time.sleep(POLL_SECONDS)

    def memory(self) -> int | None:
        """Resident bytes of the server, if it is ours."""
        return tree_bytes(self.target.pid) if self.target.pid else None


def _available(found: dict[int, tuple[str, str]]) -> list[int]:
    return [number for number, (state, _) in found.items() if state == "AVAILABLE"]


def swap_under_load(served: ServedModel, number: int, before_seconds: float) -> dict:
    """Publishes a version while `number` clients ask without a pause.

    Returns:
      "before", "during": p99 in milliseconds, of the calls before, and of those under way between the rename and the moment when
      the old version is gone, and shortly after; "seconds" between these; "calls", "failures".

    Raises:
      UserError: no call was answered before the swap or during it.
    """
    with TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"
        with copied_version(served.base_path) as publish_copy:
            begin = served.clients.begin(number, served.files, 1.0, before_seconds + 2 * SWAP_SECONDS, stop)
            time.sleep(max(0.0, begin + before_seconds - time.monotonic()))
            published = time.monotonic()
            version = publish_copy()
        served.wait_until_alone(version)
        alone = time.monotonic()
        time.sleep(AFTER_SECONDS)
        stop.touch()
        sample = served.clients.answers()
    keep_highest(served.base_path, KEPT)
    before, during = before_and_during(sample, published, alone + AFTER_SECONDS)
    if not before or not during:
        raise UserError(f"{len(before)} calls before the swap and {len(during)} during it were answered (statuses: {dict(sample.statuses)}): "
                        "see what the server printed, or raise --before_seconds")
    return {"before": percentile(before, 0.99), "during": percentile(during, 0.99), "seconds": alone - published,
            "calls": sample.statuses.total(), "failures": sample.failures}  # fmt: skip


def one_after_another(served: ServedModel, number: int, seconds: float) -> Iterator[dict]:
    """Swaps, each followed by calls of the new version; memory afterwards."""
    for place in range(number):
        served.swap()
        found = summary(served.clients.ask(1, served.files, 0.0, seconds), served.rows)
        memory = served.memory()
        if place % 10 == 9 or place == number - 1:
            print(f"swap {place + 1}/{number}: {_megabytes(memory)}, p99 {found['p99']:.1f} ms", flush=True)
        yield {"bytes": memory, "calls": found["calls"], "failures": found["failures"]}


def _megabytes(memory: int | None) -> str:
    return f"{memory / 1e6:,.0f} MB" if memory else "memory unknown"
