"""Space on disk: asked for before a run, explained when it runs out."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import UserError

_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


def free_bytes(path: str | Path) -> int:
    """Bytes free to this user on the file system of `path`, which need not exist yet."""
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def require_space(path: str | Path, needed: int, purpose: str) -> None:
    """Raises a `UserError` where `path` has less than `needed` bytes free."""
    free = free_bytes(path)
    if free < needed:
        raise UserError(f"{path}: {purpose} need {megabytes(needed)}, and {megabytes(free)} are free: free some space, "
                        "or give a folder on another disk")


@contextmanager
def explain_when_full(path: str | Path, needed: int, advice: str) -> Iterator[None]:
    """Turns "no space left" of the system or of TensorFlow into a `UserError`.

    Args:
      path: where is written.
      needed: bytes that the writing takes.
      advice: what the user does next.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not any(text in str(error) for text in _FULL):
            raise
        raise UserError(f"the disk of {path} is full: {megabytes(needed)} are needed and {megabytes(free_bytes(path))} free. "
                        f"{advice}") from error
