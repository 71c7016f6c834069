"""Data folders that are either whole or not there."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.files import flush, hidden_sibling, sha256
from preprocessing.schema import MANIFEST_FILE, read_manifest

# By kind of finished folder, what its manifest always has, and hardly another program's.
DATA = frozenset({"splits", "made_from"})
SCORES = frozenset({"kind", "signature", "keys"})
_KINDS = (DATA, SCORES)
_NOT_IDS = ("samples", "rejected")


@contextmanager
def new_data_folder(output: Path, overwrite: bool, kinds: Sequence[frozenset[str]] = _KINDS) -> Iterator[Path]:
    """Yields an empty sibling folder of `output`, which becomes `output` if the block ends without an error.

    While the block runs, no other run can write the same output. A symbolic link stays, and what it leads to is written. Arguments
    and errors: as `prepare_output`.
    """
    prepare_output(output, overwrite, kinds)
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = hidden_sibling(output, "partial-")
    partial.mkdir()
    lock = lock_folder(partial)
    try:
        yield partial
        for hidden in list(partial.rglob(".*")):
            shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink(missing_ok=True)
        _publish(partial, output)
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def is_finished(output: Path, made_from: str) -> bool:
    """Whether `output` is a finished data folder, made by an equal job (`Job.fingerprint`)."""
    manifest = _manifest(output)
    return manifest.keys() >= DATA and manifest["made_from"] == made_from


def _manifest(folder: Path) -> dict:
    """The manifest of a folder; an empty one where there is none, or one that cannot be ours."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def require_unchanged(data_dir: Path) -> None:
    """Checks that what decides ids in a finished data folder is as it was written, by the manifest's checksums.

    Raises:
      UserError: a file is absent or another, or the manifest is damaged.
    """
    for name, checksum in read_manifest(data_dir).get("checksums", {}).items():
        if name.split("/")[0] in _NOT_IDS:
            continue
        path = data_dir / name
        if not path.is_file():
            raise UserError(f"data folder {data_dir}: {name} is in {MANIFEST_FILE} but not on disk: restore it, or write the folder again")
        if sha256(path) != checksum:
            raise UserError(f"data folder {data_dir}: {name} is not as it was written (its SHA-256 differs from the manifest's), so "
                            "its ids cannot be trusted: restore it, or write the folder again")


def prepare_output(output: Path, overwrite: bool, kinds: Sequence[frozenset[str]] = _KINDS) -> None:
    """Removes what killed runs left beside `output` and checks that it may be written.

    Args:
      kinds: of the finished folders that may be replaced.

    Raises:
      UserError: `output` is finished and `overwrite` is false, or is nothing that may be replaced, or another run is writing it.
    """
    output = output.resolve()
    _recover(output)
    _check_free(output, overwrite, kinds)


def _check_free(output: Path, overwrite: bool, kinds: Sequence[frozenset[str]]) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not any(_manifest(output).keys() >= kind for kind in kinds):
        raise UserError(
            f"--output {output} exists and is not a data folder (its {MANIFEST_FILE} is absent, or not this command's), so it is left "
            "alone: choose another path or remove it yourself"
        )
    if not overwrite:
        raise UserError(
            f"--output {output} is a finished data folder, made from other files (by path, size and time of change), another "
            "schema or other flags: nothing was done; choose another path, or add --overwrite to replace it"
        )


def _recover(output: Path) -> None:
    """Removes unfinished folders of killed runs; a finished folder set aside by a killed replacement is put back."""
    for partial in output.parent.glob(f".{_escaped(output.name)}.partial-*"):
        try:
            os.close(lock_folder(partial))
        except BlockingIOError:
            raise UserError(
                f"--output {output} is being written by another run (its working folder is {partial}): wait for it or "
                "choose another path"
            ) from None
        shutil.rmtree(partial)
    for replaced in output.parent.glob(f".{_escaped(output.name)}.replaced-*"):
        if output.exists():
            shutil.rmtree(replaced)
        else:
            os.rename(replaced, output)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def lock_folder(folder: Path) -> int:
    """Locks a folder until the returned handle is closed or the process ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


def _publish(partial: Path, output: Path) -> None:
    for path in partial.rglob("*"):
        flush(path)
    flush(partial)
    replaced = None
    if output.exists() and any(output.iterdir()):
        replaced = output.parent / partial.name.replace(".partial-", ".replaced-")
        os.rename(output, replaced)
    os.rename(partial, output)
    flush(output.parent)
    if replaced:
        shutil.rmtree(replaced)
