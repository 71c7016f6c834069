"""Versions of a served model: the folders of a model base path whose names are whole numbers."""

import re
from pathlib import Path

SAVED_MODEL_FILE = "saved_model.pb"
_VERSION_NAME = re.compile(r"[0-9]+")


def find_versions(base_path: Path) -> dict[int, Path]:
    """Maps each version to its folder, lowest first; a missing base path has none.

    As TensorFlow Serving does, `0007` is read as 7, and any other name (`.export-1`, `8x`) is ignored.
    """
    if not base_path.is_dir():
        return {}
    found = {int(path.name): path for path in base_path.iterdir() if _VERSION_NAME.fullmatch(path.name) and path.is_dir()}
    return dict(sorted(found.items()))
