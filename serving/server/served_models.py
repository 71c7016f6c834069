"""All models of a server, and what may be changed while it runs."""

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

import grpc
from tensorflow_serving.apis import model_pb2

from serving.server.config import ModelConfig
from serving.server.loading import Loader
from serving.server.metrics import ServerMetrics
from serving.server.models import ServedVersions, VersionStatus, not_served
from serving.server.servable import Servable
from serving.server.status import StatusError, failed_precondition, not_found
from serving.versions.folders import meant_instead


class ServedModels:
    """The models of a server by name. Calls take no lock.

    Args:
      configs: the models.
      loader: how to load a version.
      metrics: told of loads; shows which versions are live.
    """

    def __init__(self, configs: Iterable[ModelConfig], loader: Loader, metrics: ServerMetrics):
        self._loader = loader
        self._metrics = metrics
        self._managing = threading.Lock()  # one poll or reload at a time
        self._models = {config.name: self._new(config) for config in configs}
        self._roots = {model.config.base_path.resolve().parent for model in self._models.values()}
        metrics.gauge(
            "dgenctr_serving_live_version", "The version that answers calls which name none.", ("model_name",), self._latest
        )
        metrics.gauge("dgenctr_serving_live_versions", "How many versions are loaded.", ("model_name",), self._counts)
        metrics.gauge(
            "dgenctr_serving_failed_version", "The version that should answer and failed to load, while a lower one answers.",
            ("model_name",), self._failed,
        )  # fmt: skip

    def _latest(self) -> dict[tuple[str], int]:
        latest = {(name,): model.live_version for name, model in self._models.items()}
        return {labels: version for labels, version in latest.items() if version is not None}

    def _counts(self) -> dict[tuple[str], int]:
        return {(name,): len(model.live_versions) for name, model in self._models.items()}

    def _failed(self) -> dict[tuple[str], int]:
        failures = {(name,): model.failed_above_live() for name, model in self._models.items()}
        return {labels: failure[0] for labels, failure in failures.items() if failure}

    def _new(self, config: ModelConfig) -> ServedVersions:
        return ServedVersions(config, self._loader, self._metrics)

    @property
    def models(self) -> Mapping[str, ServedVersions]:
        return self._models

    def poll(self) -> None:
        """Looks at all base paths once.

        Raises:
          ExceptionGroup: looking at some models failed in the server itself; all others have been looked at.
        """
        failures = []
        with self._managing:
            for name, model in self._models.items():
                try:
                    model.poll()
                except Exception as error:  # noqa: BLE001 - whatever it is, it is raised below
                    error.add_note(f"while looking for versions of model {name}")
                    failures.append(error)
        if failures:
            raise ExceptionGroup("looking for versions", failures)

    def servable(self, spec: model_pb2.ModelSpec) -> Servable:
        """The version that a request asks for; raises StatusError as `ServedVersions.servable`."""
        model = self._models.get(spec.name)
        if model is None:
            raise not_served(spec.name, spec.version.value if spec.HasField("version") else None)
        return model.servable(spec)

    def statuses(self, spec: model_pb2.ModelSpec) -> dict[int, VersionStatus]:
        """The states that a request asks about; raises StatusError as `ServedVersions.statuses_of`."""
        model = self._models.get(spec.name)
        if model is None:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return model.statuses_of(spec)

    def require_labelled(self, configs: Iterable[ModelConfig]) -> None:
        """Refuses labels of versions that are not live.

        Raises:
          StatusError: FAILED_PRECONDITION.
        """
        for config in configs:
            _require_labelled(config, self._models[config.name].live_versions if config.name in self._models else ())

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Serves these models instead, as a caller asks: new ones are loaded, others reconfigured or unloaded. Returns when that
        is done.

        Raises:
          StatusError: a label names a version that is not live, a base path lies elsewhere than those the server was started
            with, or a new model does not load or has no version yet. Nothing is changed then.
        """
        with self._managing:
            self._require_known_place(configs)
            self.require_labelled(configs)
            self._serve(configs)

    def follow(self, configs: Sequence[ModelConfig]) -> None:
        """The same as the operator's own file says: base paths may lie anywhere, and labels name what is live when all is loaded.

        Raises:
          StatusError: a label names a version that is not live then, or a new model does not load or has no version yet.
            Nothing is changed then.
        """
        with self._managing:
            self._serve(configs)
            self._roots |= {config.base_path.resolve().parent for config in configs}

    def _serve(self, configs: Sequence[ModelConfig]) -> None:
        """What is served now answers until all that is wanted instead has been loaded beside it."""
        before = self._models
        after = {config.name: self._known(config) or self._new(config) for config in configs}
        try:
            for config in configs:
                model = after[config.name]
                ready = model.load_for(config)
                if before.get(config.name) is not model:
                    _require_live(model)
                _require_labelled(config, ready)
        except StatusError:
            for name, model in after.items():
                if before.get(name) is model:
                    model.poll()
                else:
                    model.unload_all()
            raise
        for config in configs:
            after[config.name].configure(config)
            after[config.name].poll()
        self._models = after
        for name, model in before.items():
            if after.get(name) is not model:
                model.unload_all()

    def _known(self, config: ModelConfig) -> ServedVersions | None:
        """The model as it is served now; None if it is not, or from another base path."""
        model = self._models.get(config.name)
        return model if model and model.config.base_path == config.base_path else None

    def _require_known_place(self, configs: Iterable[ModelConfig]) -> None:
        """Whoever can reach the port must not be able to load any folder of the machine."""
        for config in configs:
            if config.base_path.resolve().parent not in self._roots:
                raise StatusError(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"model {config.name}: base path {config.base_path} is not beside one that this server was started with; "
                    "restart it with that model in --model_config_file",
                )


def _require_labelled(config: ModelConfig, live: Collection[int]) -> None:
    for _, version in config.labels:
        if version not in live:
            raise failed_precondition(
                f"Request to assign label to version {version} of model {config.name}, which is not currently available "
                "for inference"
            )


def _require_live(model: ServedVersions) -> None:
    if model.live_version is not None:
        return
    name, failure = model.config.name, model.failure()
    if failure:
        raise StatusError(failure[1].code, f"model {name} version {failure[0]} failed to load: {failure[1]}")
    base_path = model.config.base_path
    question = f"; {question}" if (question := meant_instead(base_path)) else ""
    raise StatusError(grpc.StatusCode.UNAVAILABLE, f"model {name} has no version under {base_path} yet{question}")
