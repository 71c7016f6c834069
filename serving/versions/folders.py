"""Versions of a served model: the folders of a model base path whose names are whole numbers.

    BASE/8/               a version: saved_model.pb, variables/, assets/, assets.extra/
    BASE/versions.json    labels, the pin, the highest number ever given (`serving.versions.labels`)
    BASE/.lock            held by whoever changes any of this
    BASE/.export-*/       versions that are being written (`serving.versions.publishing`)
    BASE/.removed-*/      versions that are being deleted

Servers look at the numeric names only. `python -m serving.versions` lists, rolls back, pins, labels and removes.
"""

import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from preprocessing.errors import UserError

SAVED_MODEL_FILE = "saved_model.pb"
SCHEMA_ASSET = Path("assets.extra") / "schema.yaml"  # of the log that the model learnt with; servers do not look at it
LOCK_FILE = ".lock"
MAX_VERSION = 2**63 - 1  # TensorFlow Serving's versions are int64
MAX_SUGGESTIONS = 3
_VERSION_NAME = re.compile(r"[0-9]+")


def _number(name: str) -> int | None:
    return int(name) if _VERSION_NAME.fullmatch(name) and int(name) <= MAX_VERSION else None


def find_versions(base_path: Path) -> dict[int, Path]:
    """Maps each version to its folder, lowest first; a missing base path has none.

    As TensorFlow Serving does, `0007` is read as 7, a link to a folder is one, and any other name (`.export-1`, `8x`) is ignored.
    """
    if not base_path.is_dir():
        return {}
    found = {_number(path.name): path for path in base_path.iterdir() if _number(path.name) is not None and path.is_dir()}
    return dict(sorted(found.items()))


def exported_versions(base_path: Path) -> dict[int, Path]:
    """The versions that hold a SavedModel. Any other numeric folder is somebody else's, or a half copy: never touched here."""
    return {version: folder for version, folder in find_versions(base_path).items() if (folder / SAVED_MODEL_FILE).is_file()}


def highest_name(base_path: Path) -> int:
    """The highest number that names anything under a base path, files and broken links too; 0 where none does."""
    return max((_number(path.name) or 0 for path in base_path.iterdir()), default=0)


def default_base_path(model_dir: Path, name: str) -> Path:
    """Where the versions of a model folder go unless told otherwise."""
    return model_dir / "export" / name


def require_base_path(base_path: Path) -> None:
    """Refuses what cannot be a model base path; one that is not there yet can.

    Raises:
      UserError: the path is a file or below one, or a version itself.
    """
    existing = next(path for path in (base_path, *base_path.absolute().parents) if path.exists())
    if not existing.is_dir():
        below = "" if existing == base_path else f" lies below {existing}, which"
        raise UserError(f"model base path {base_path}{below} is a file: give the folder that holds the version folders 1, 2, ...")
    if (base_path / SAVED_MODEL_FILE).is_file():
        raise UserError(f"model base path {base_path} is a version itself (it has a {SAVED_MODEL_FILE}): give its parent folder")


def meant_instead(base_path: Path) -> str:
    """A question for messages, where a folder holds no version but folders in it do, as when the parent was given; else empty."""
    if not _is_readable(base_path) or find_versions(base_path):
        return ""
    shown = [path for path in sorted(base_path.iterdir()) if not path.name.startswith(".")]
    found = [str(path) for path in shown if _is_readable(path) and exported_versions(path)]
    return f"did you mean {' or '.join(found[:MAX_SUGGESTIONS])}?" if found else ""


def _is_readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and folder.is_dir()


def require_own_versions(base_path: Path) -> None:
    """Refuses a folder that holds no version although folders in it do.

    Raises:
      UserError: and it names them.
    """
    if question := meant_instead(base_path):
        raise UserError(f"model base path {base_path} holds no version itself, but a folder in it does: {question}")


def require_existing(base_path: Path) -> None:
    """Refuses a model base path that is not there (`require_base_path` refuses what cannot be one)."""
    if not base_path.is_dir():
        raise UserError(f"model base path {base_path} does not exist: give the folder that holds the version folders 1, 2, ...")


@contextmanager
def locked(base_path: Path) -> Iterator[None]:
    """Waits until nobody else changes the base path, and keeps others waiting; a process that dies lets go of it.

    Raises:
      UserError: there is no such folder, or its file system has no locks.
    """
    require_existing(base_path)
    lock = base_path / LOCK_FILE, os.O_RDWR | os.O_CREAT
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_file(*lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            print(f"waiting: another process is changing {base_path}", file=sys.stderr, flush=True)
            stack.enter_context(locked_file(*lock, fcntl.LOCK_EX))
        yield


@contextmanager
def locked_file(path: Path, flags: int, operation: int) -> Iterator[None]:
    """Holds the lock of one file. Opened for writing, because network file systems refuse an exclusive lock otherwise.

    Raises:
      BlockingIOError: another process holds it and `operation` does not wait.
      UserError: the file system has no locks.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            raise
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror}): put the model base path on a file system with file locks, so that "
                "two publishers cannot give the same number"
            ) from error
        yield
    finally:
        os.close(descriptor)
