"""Checksums of a version's files: whether it still is what was published, found without loading it."""

import json
import os
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.files import sha256

CHECKSUM_FILE = Path("assets.extra") / "checksums.json"


def write_checksums(folder: Path) -> None:
    """Writes the size and SHA-256 of every file of a version into `assets.extra/checksums.json`."""
    files = sorted(Path(directory) / name for directory, _, names in os.walk(folder) for name in names)
    content = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    (folder / CHECKSUM_FILE).parent.mkdir(exist_ok=True)
    (folder / CHECKSUM_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What is wrong with a version's files, in words; None where all are as published, or it was published without checksums."""
    try:
        stored = json.loads((folder / CHECKSUM_FILE).read_text(encoding="utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in stored.items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUM_FILE} is not readable"
    for name, (size, checksum) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is absent"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes and was published with {size:,}"
        if sha256(path) != checksum:
            return f"{name} does not have the checksum it was published with"
    return None


def require_sound(folder: Path) -> None:
    """Refuses a version whose files have changed since it was published."""
    if problem := damage(folder):
        raise UserError(f"version {folder} is damaged: {problem}; restore it from a copy, choose another version, or export the model again")
