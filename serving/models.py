"""The life of a served model: finds its versions, loads the highest, swaps to a newer one, rolls back to an older.

The old version answers until the new one has loaded and passed its warm-up. A version that fails is reported and left
alone until its folder is gone, as with TensorFlow Serving's --max_num_load_retries=0.
"""

import gc
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving.servable import Servable, StatusError, invalid
from serving.versions import find_versions

State = get_model_status_pb2.ModelVersionStatus
REMEMBERED_VERSIONS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionStatus:
    """Where a version stands: a ModelVersionStatus state and, if its load failed, why."""

    state: int
    error: StatusError | None = None


def refuse_label(spec: model_pb2.ModelSpec) -> None:
    if spec.version_label:
        raise invalid(f"Unrecognized servable version label: {spec.version_label}")


class ServedVersions:
    """The versions of one model under its base path, of which at most one answers.

    Args:
      name: the model's name.
      base_path: folder whose numeric sub-folders are versions.
    """

    def __init__(self, name: str, base_path: Path):
        self.name = name
        self.base_path = base_path
        self._lock = threading.Lock()
        self._live: Servable | None = None
        self._statuses: dict[int, VersionStatus] = {}

    @property
    def live_version(self) -> int | None:
        live = self._live
        return live.version if live else None

    def poll(self) -> None:
        """Looks at the base path once and makes its highest version live. Called from one thread only."""
        folders = find_versions(self.base_path)
        self._forget_failures_of_gone(folders)
        wanted = max(folders, default=None)
        if wanted == self.live_version:
            return
        if wanted is None:
            self._put_live(None)
        elif not self._has_failed(wanted):
            self._load(wanted, folders[wanted])

    def failure(self) -> tuple[int, StatusError] | None:
        """The highest version that failed to load, and why; None if none did."""
        with self._lock:
            failures = {version: status.error for version, status in self._statuses.items() if status.error}
        return max(failures.items(), key=lambda item: item[0], default=None)

    def servable(self, spec: model_pb2.ModelSpec) -> Servable:
        """The version that a request asks for.

        Raises:
          StatusError: NOT_FOUND where it is not live, INVALID_ARGUMENT for a version label, of which there are none.
        """
        refuse_label(spec)
        live = self._live
        any_version = not spec.HasField("version")
        if live is None or spec.name != self.name or not (any_version or spec.version.value == live.version):
            asked = f"Latest({spec.name})" if any_version else f"Specific({spec.name}, {spec.version.value})"
            raise StatusError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
        return live

    def statuses(self) -> dict[int, VersionStatus]:
        """Every version that was seen and its state, highest first."""
        with self._lock:
            return dict(sorted(self._statuses.items(), reverse=True))

    def _load(self, version: int, folder: Path) -> None:
        self._set(version, VersionStatus(State.LOADING))
        try:
            servable = Servable(self.name, version, folder)
        except StatusError as error:
            log.error("%s version %d failed to load: %s: %s", self.name, version, error.code.name, error)
            self._set(version, VersionStatus(State.END, error))
            return
        self._put_live(servable)

    def _put_live(self, servable: Servable | None) -> None:
        before = self.live_version
        self._live = servable
        if servable:
            self._set(servable.version, VersionStatus(State.AVAILABLE))
            log.info("%s version %d is live", self.name, servable.version)
        if before is not None:
            self._set(before, VersionStatus(State.END))
            log.info("%s version %d is unloaded", self.name, before)
            gc.collect()  # a loaded SavedModel is a cycle of references

    def _has_failed(self, version: int) -> bool:
        with self._lock:
            status = self._statuses.get(version)
            return status is not None and status.error is not None

    def _forget_failures_of_gone(self, folders: dict[int, Path]) -> None:
        with self._lock:
            for version, status in list(self._statuses.items()):
                if status.error and version not in folders:
                    self._statuses[version] = VersionStatus(State.END)

    def _set(self, version: int, status: VersionStatus) -> None:
        with self._lock:
            self._statuses[version] = status
            ended = [number for number, status in self._statuses.items() if status.state == State.END]
            for number in sorted(ended)[:-REMEMBERED_VERSIONS]:
                del self._statuses[number]
