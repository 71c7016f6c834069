"""Follows the `--model_config_file` of a running server."""

import logging
from collections.abc import Sequence
from pathlib import Path

from preprocessing.errors import UserError
from serving.server.config import ModelConfig, read_model_config
from serving.server.served_models import ServedModels
from serving.server.status import StatusError
from serving.versions.folders import require_base_path

log = logging.getLogger(__name__)


class ModelConfigFile:
    """Serves what the file says, from each change of it on; what cannot be served leaves everything as it was.

    Args:
      path: the file.
      served: what it said at the start, which is being served.
      models: what is told of changes.
    """

    def __init__(self, path: Path, served: Sequence[ModelConfig], models: ServedModels):
        self._path = path
        self._served = list(served)
        self._models = models
        self._complaint = ""

    def look(self) -> None:
        """Reads the file once. A change that cannot be served is tried again at each look, and logged once for each reason."""
        try:
            configs = read_model_config(self._path)
            if configs != self._served:
                self._follow(configs)
        except (UserError, StatusError) as error:
            if str(error) != self._complaint:
                log.error("the changed --model_config_file is not followed, the models stay as they were: %s", error)
            self._complaint = str(error)
        else:
            self._complaint = ""

    def _follow(self, configs: list[ModelConfig]) -> None:
        for config in configs:
            require_base_path(config.base_path)
        self._models.follow(configs)
        self._served = configs
        log.info("%s has changed; now serving %s", self._path, ", ".join(config.name for config in configs))
