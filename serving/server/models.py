"""The life of a served model: finds its versions, loads those that are wanted, swaps to newer ones, rolls back to older.

The old version answers until the new one has loaded and passed its warm-up. A version that fails is reported and left
alone until its folder is gone, as with TensorFlow Serving's --max_num_load_retries=0. Calls take no lock: they read one
reference, which a swap replaces.
"""

import gc
import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from preprocessing.errors import UserError
from serving.server.config import ModelConfig
from serving.server.loading import Loader
from serving.server.metrics import ServerMetrics
from serving.server.servable import Servable
from serving.server.status import StatusError, invalid, not_found
from serving.versions.folders import find_versions
from serving.versions.labels import Register, read_register

State = get_model_status_pb2.ModelVersionStatus
REMEMBERED_VERSIONS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionStatus:
    """Where a version stands: a ModelVersionStatus state and, if its load failed, why."""

    state: int
    error: StatusError | None = None


@dataclass(frozen=True)
class _Live:
    """What answers calls; replaced as a whole."""

    versions: Mapping[int, Servable] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def latest(self) -> int | None:
        return max(self.versions, default=None)


class ServedVersions:
    """The versions of one model under its base path.

    Args:
      config: name, base path, and which versions to serve.
      loader: how to load one.
      metrics: told of loads.
    """

    def __init__(self, config: ModelConfig, loader: Loader, metrics: ServerMetrics):
        self.config = config
        self._loader = loader
        self._metrics = metrics
        self._lock = threading.Lock()  # guards the statuses
        self._statuses: dict[int, VersionStatus] = {}
        self._live = _Live(labels=dict(config.labels))
        self._to_serve: set[int] = set()
        self._register = Register()
        self._complaint = ""

    @property
    def live_version(self) -> int | None:
        """The version that answers calls which name none."""
        return self._live.latest

    @property
    def live_versions(self) -> list[int]:
        return sorted(self._live.versions)

    def poll(self) -> None:
        """Looks at the base path once and brings what is live in line with it. Called from one thread at a time."""
        folders = self._find_versions()
        if folders is None:
            return
        self._to_serve = wanted = self._wanted(self.config, folders)
        self._load_missing(wanted, folders)
        superfluous = self._live.versions.keys() - wanted
        if superfluous and (not folders or self._is_replaced(wanted, folders)):
            self._unload(superfluous)
        if self.config.by_operator:
            self._live = replace(self._live, labels=self._register.labels)

    def load_for(self, config: ModelConfig) -> set[int]:
        """Loads what another configuration wants, beside what is live, and returns which of it is live then."""
        folders = self._find_versions()
        if folders is None:
            return set(self._live.versions)
        wanted = self._wanted(config, folders)
        self._load_missing(wanted, folders)
        return wanted & self._live.versions.keys()

    def configure(self, config: ModelConfig) -> None:
        """Changes which versions are served, from the next poll on, and labels, at once. Not for another base path."""
        self.config = config
        if not config.by_operator:
            self._live = replace(self._live, labels=dict(config.labels))

    def unload_all(self) -> None:
        self._unload(self._live.versions.keys())

    def failure(self, among: Collection[int] | None = None) -> tuple[int, StatusError] | None:
        """The highest version (of all, or of some) that failed to load, and why; None if none did."""
        failures = {
            version: status.error
            for version, status in self.statuses().items()
            if status.error and (among is None or version in among)
        }
        return max(failures.items(), key=lambda item: item[0], default=None)

    def failed_above_live(self) -> tuple[int, StatusError] | None:
        """The version that should answer calls which name none, but failed to load, and why, while a lower one answers them."""
        failure, live = self.failure(self._to_serve), self.live_version
        return failure if failure and live is not None and failure[0] > live else None

    def servable(self, spec: model_pb2.ModelSpec) -> Servable:
        """The version that a request asks for.

        Raises:
          StatusError: NOT_FOUND where it is not live, INVALID_ARGUMENT for an unknown version label.
        """
        live = self._live
        asked = _asked(spec, live.labels)
        servable = live.versions.get(live.latest if asked is None else asked)
        if servable is None:
            raise not_served(spec.name, asked)
        return servable

    def statuses_of(self, spec: model_pb2.ModelSpec) -> dict[int, VersionStatus]:
        """The states of the versions that a request asks about; raises StatusError where it knows none."""
        asked = _asked(spec, self._live.labels)
        statuses = self.statuses()
        if asked is None:
            if not statuses:
                raise not_found(f"Could not find any versions of model {spec.name}")
            return statuses
        if asked not in statuses:
            raise not_found(f"Could not find version {asked} of model {spec.name}")
        return {asked: statuses[asked]}

    def statuses(self) -> dict[int, VersionStatus]:
        """Every version that was seen and its state, highest first."""
        with self._lock:
            return dict(sorted(self._statuses.items(), reverse=True))

    def _find_versions(self) -> Mapping[int, Path] | None:
        """None where the base path is out of reach."""
        base_path = self.config.base_path
        try:
            if base_path.is_dir():
                return find_versions(base_path)
        except OSError as error:
            self._complain(f"{base_path} cannot be read; what is live stays so: {error}")
        else:
            self._complain(f"{base_path} is gone; what is live stays so" if self.live_versions else "")
        return None

    def _wanted(self, config: ModelConfig, folders: Mapping[int, Path]) -> set[int]:
        if config.by_operator:
            return self._wanted_by_operator(folders)
        if config.specific:
            missing = sorted(set(config.specific) - folders.keys())
            self._complain(f"{config.base_path} lacks the versions {missing} that are to be served" if missing else "")
            return folders.keys() & set(config.specific)
        self._complain("")
        return set(sorted(folders)[-config.latest :])  # all of them where `latest` is 0

    def _wanted_by_operator(self, folders: Mapping[int, Path]) -> set[int]:
        """The pinned or highest version, and the labelled ones."""
        try:
            self._register = read_register(self.config.base_path)
        except UserError as error:
            self._complain(f"labels and pin stay as they were: {error}")
        else:
            pin = self._register.pin
            gone = folders and pin is not None and pin not in folders
            self._complain(f"{self.config.base_path} lacks the pinned version {pin}; what is live stays so" if gone else "")
        return self._register.wanted(folders.keys())

    def _is_replaced(self, wanted: set[int], folders: Mapping[int, Path]) -> bool:
        """Whether versions that are wanted no more may go: something answers for them, even calls that name no version.

        A policy's versions are all the same to TensorFlow Serving: one of them suffices. A label's version is for those who ask
        for it: where the pinned or highest version is gone or has failed, the one before answers on.
        """
        live = self._live.versions.keys()
        return self._register.served(folders) in live if self.config.by_operator else bool(wanted & live)

    def _complain(self, complaint: str) -> None:
        """Logs what is wrong, once for as long as it is."""
        if complaint and complaint != self._complaint:
            log.error("%s: %s", self.config.name, complaint)
        self._complaint = complaint

    def _load_missing(self, wanted: set[int], folders: Mapping[int, Path]) -> None:
        self._forget_failures_of_gone(folders)
        for version in sorted(wanted - self._live.versions.keys()):
            if not self._has_failed(version):
                self._load(version, folders[version])

    def _load(self, version: int, folder: Path) -> None:
        name = self.config.name
        self._set(version, VersionStatus(State.LOADING))
        log.info("%s version %d is loading", name, version)
        started = time.monotonic()
        try:
            servable = self._loader.load(name, version, folder)
        except Exception as error:  # noqa: BLE001 - whatever a folder does, the live version answers on
            self._fail(version, error if isinstance(error, StatusError) else _unexpected(error))
            return
        seconds = time.monotonic() - started
        self._metrics.load_seconds.observe(seconds, name)
        self._live = replace(self._live, versions={**self._live.versions, version: servable})
        self._set(version, VersionStatus(State.AVAILABLE))
        log.info("%s version %d is live after %.1f s", name, version, seconds)

    def _fail(self, version: int, error: StatusError) -> None:
        live = self.live_version
        answering = "no version answers" if live is None else f"version {live} answers calls that name no version"
        log.error("%s version %d failed to load: %s: %s; %s", self.config.name, version, error.code.name, error, answering)
        self._metrics.load_failures.add(self.config.name)
        self._set(version, VersionStatus(State.END, error))

    def _unload(self, versions: Iterable[int]) -> None:
        gone = set(versions)
        self._live = replace(
            self._live, versions={number: one for number, one in self._live.versions.items() if number not in gone}
        )
        for version in sorted(gone):
            self._set(version, VersionStatus(State.END))
            log.info("%s version %d is unloaded", self.config.name, version)
        gc.collect()  # the graph of a closed session is a cycle of references

    def _has_failed(self, version: int) -> bool:
        with self._lock:
            status = self._statuses.get(version)
            return status is not None and status.error is not None

    def _forget_failures_of_gone(self, folders: Mapping[int, Path]) -> None:
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


def _asked(spec: model_pb2.ModelSpec, labels: Mapping[str, int]) -> int | None:
    """The version that a request names, by number or label; None if it names none."""
    if spec.version_label:
        if spec.version_label not in labels:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return labels[spec.version_label]
    return spec.version.value if spec.HasField("version") else None


def _unexpected(error: Exception) -> StatusError:
    return StatusError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")


def not_served(name: str, version: int | None) -> StatusError:
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return not_found(f"Servable not found for request: {asked}")
