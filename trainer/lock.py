"""One run at a time in a model folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import UserError

LOCK_FILE = ".lock"


@contextmanager
def exclusive(model_dir: Path) -> Iterator[None]:
    """Holds the lock of a model folder. The system lets go of it when the process ends, however it ends.

    Raises:
      UserError: another process holds it, or the file system has no locks.
    """
    with open(model_dir / LOCK_FILE, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"model folder {model_dir} is in use by {_holder(file)}: wait until that run ends or stop it, or give "
                            "another --model_dir") from error
        except OSError as error:
            raise UserError(f"model folder {model_dir} cannot be locked ({error.strerror}): put it on a file system with file "
                            "locks, so that no two runs write to it") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def holder(model_dir: str | Path) -> str | None:
    """Who trains in the model folder, as "process 17 on host"; None where nobody does."""
    path = Path(model_dir) / LOCK_FILE
    if not path.exists():
        return None
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
    return None


def _holder(file) -> str:
    file.seek(0)
    return file.read() or "another process"
