"""Files that are either whole or not there."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to the disk and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_sibling(path, "")
    temporary.touch(exist_ok=False)  # with the mode of any new file, which those of `tempfile` do not have
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def hidden_sibling(path: Path, purpose: str) -> Path:
    """A path in the folder of `path` that nothing has: `.NAME.PURPOSE` and something random."""
    return path.with_name(f".{path.name}.{purpose}{secrets.token_hex(8)}")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that readers see the old content or the new, never a part; for one writer at a time."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)


def flush(path: str | Path) -> None:
    """Makes what was written to a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The checksum of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
