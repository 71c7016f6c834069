"""How a version comes to be under a model base path, and how it goes: whole or not at all, and no number twice.

    BASE/.export-*/lock        held while the version beside it is being written
    BASE/.export-*/version/    written, checked, synced to the disk
    BASE/8/                    the same folder after one rename: servers only ever see whole versions

Numbers are given under the base path's lock, and each is noted in `versions.json` before it is used. A folder to be deleted
gets a hidden name first. So a kill at any moment leaves at worst hidden folders, which the next publisher removes, or a number
that nothing has.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.files import flush
from serving.versions.checksums import write_checksums
from serving.versions.folders import (
    MAX_VERSION,
    exported_versions,
    find_versions,
    highest_name,
    locked,
    locked_file,
    require_base_path,
)
from serving.versions.labels import Register, read_register, require_exported, require_label, write_register

STAGING_PREFIX = ".export-"
REMOVED_PREFIX = ".removed-"
_VERSION = "version"
_ALIVE = "lock"
_NO_HARD_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def staged_version(base_path: Path) -> Iterator[Path]:
    """Yields the path of a folder to be made and filled under the base path, where servers do not look; `publish` moves it.

    What was not published is removed in the end, and so is what killed publishers left behind.

    Raises:
      UserError: the base path is a file or a version itself.
    """
    require_base_path(base_path)
    base_path.mkdir(parents=True, exist_ok=True)
    staging = base_path / f"{STAGING_PREFIX}{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        with locked(base_path):
            _remove_leftovers(base_path)
            staging.mkdir()
            stack.enter_context(locked_file(staging / _ALIVE, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
        yield staging / _VERSION


def _remove_leftovers(base_path: Path) -> None:
    """Removes what killed publishers left. Links and files of such a name are not theirs and stay."""
    for path in base_path.glob(f"{STAGING_PREFIX}*"):
        if _is_own_folder(path) and not _is_alive(path):
            shutil.rmtree(path, ignore_errors=True)  # what another user left must not keep this one from publishing
    for path in base_path.glob(f"{REMOVED_PREFIX}*"):
        if _is_own_folder(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_alive(staging: Path) -> bool:
    try:
        with locked_file(staging / _ALIVE, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except (BlockingIOError, PermissionError):  # held, or another user's
        return True
    except FileNotFoundError:  # killed before it had its lock, or about to remove its folder itself
        return False


def publish(version: Path, base_path: Path, label: str | None = None) -> Path:
    """Makes a folder that `staged_version` gave the highest version, and returns its folder.

    Args:
      version: a whole, checked SavedModel; gets its checksums.
      label: a label to give to it.

    Raises:
      UserError: the label is no name, or would name a version above the pinned one; nothing is published then.
    """
    write_checksums(version)
    _sync_to_disk(version)
    with locked(base_path):
        register = read_register(base_path)
        if label is not None:
            require_label(label, None, register)
        number, register = _move_in(version, base_path, register)
        if label is not None:
            write_register(base_path, register.but(labels={**register.labels, label: number}))
    return base_path / str(number)


def _move_in(version: Path, base_path: Path, register: Register, source: int | None = None) -> tuple[int, Register]:
    """Notes the next number, then renames the folder to it; labels follow, as they must not name what is not there yet."""
    number = max(register.highest, highest_name(base_path)) + 1
    if number > MAX_VERSION:
        raise UserError(f"model base path {base_path} has a version {number - 1}, the highest number there is, so none can follow: publish "
                        "to a new base path")  # fmt: skip
    copies = register.copies if source is None else {**register.copies, number: source}
    register = register.but(highest=number, copies=copies)
    write_register(base_path, register)
    os.utime(version)  # when it was published, which `list` shows
    version.rename(base_path / str(number))
    flush(base_path)
    return number, register


def _sync_to_disk(folder: Path) -> None:
    for directory, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(directory, name) for name in names), directory):
            flush(path)


@dataclass(frozen=True)
class RollBack:
    """What a roll-back did.

    Attributes:
      version: the new version.
      source: the version whose content it has.
      replaced: the version that was the highest before.
      moved_labels: labels that named the replaced version and now name the new one.
    """

    version: int
    source: int
    replaced: int
    moved_labels: tuple[str, ...]


def roll_back(base_path: Path, to: int | None = None) -> RollBack:
    """Publishes the content of an earlier version under a new highest number, so that every server that polls swaps to it.

    Files are linked, not copied, where the file system can. Labels of the version that is replaced move to the new one.

    Args:
      to: the version to go back to; by default the one before the highest, or, if that was itself made by a roll-back, the one
        before its source.

    Raises:
      UserError: there is no such version, it is damaged, or a version is pinned.
    """
    replaced, source = _choose_source(base_path, read_register(base_path), to)
    folder = require_exported(base_path, source)
    with staged_version(base_path) as staging:
        _copy_whole(folder, staging)
        _sync_to_disk(staging)
        with locked(base_path):
            register = read_register(base_path)
            _require_unpinned(register)
            if (highest := max(find_versions(base_path))) != replaced:
                raise UserError(f"version {highest} was published while version {source} was being copied, so nothing was rolled back: "
                                "look at `list` and try again")  # fmt: skip
            origin = register.copies.get(source, source)
            number, register = _move_in(staging, base_path, register, origin)
            moved = tuple(label for label, version in register.labels.items() if version == replaced)
            if moved:
                write_register(base_path, register.but(labels={**register.labels, **dict.fromkeys(moved, number)}))
    return RollBack(number, origin, replaced, moved)


def _require_unpinned(register: Register) -> None:
    if register.pin is not None:
        raise UserError(f"version {register.pin} is pinned, so servers would not follow a roll-back: `pin` the version to go back to, or "
                        "`unpin` first")  # fmt: skip


def _choose_source(base_path: Path, register: Register, to: int | None) -> tuple[int, int]:
    """The highest version, and the one to go back to."""
    _require_unpinned(register)
    folders = exported_versions(base_path)
    highest = max(find_versions(base_path), default=0)
    if to == highest:
        raise UserError(f"version {to} is the highest already, so there is nothing to roll back{_others(folders, highest)}")
    if to is not None:
        return highest, to
    before = register.copies.get(highest, highest)
    earlier = [version for version in folders if version < before]
    if not earlier:
        raise UserError(f"model base path {base_path} has no version before {before} to roll back to{_others(folders, highest)}")
    return highest, max(earlier)


def _others(folders: Collection[int], highest: int) -> str:
    others = ", ".join(str(version) for version in folders if version != highest)
    return f": name one of {others} by --to" if others else ": it is the only version, so export another model"


def _copy_whole(folder: Path, staging: Path) -> None:
    try:
        shutil.copytree(folder, staging, copy_function=_link_or_copy)
    except shutil.Error as error:
        [(source, _, reason), *_] = error.args[0]
        raise UserError(f"version {folder.name} could not be copied ({source}: {reason}), so nothing was rolled back: make room, or see why "
                        "the file cannot be read, and try again") from error  # fmt: skip


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        shutil.copy2(source, target)


def remove(base_path: Path, versions: Collection[int]) -> None:
    """Deletes versions, all of them or, if one must stay, none.

    Raises:
      UserError: one is not there, holds no SavedModel, answers requests, or has a label or the pin.
    """
    with locked(base_path):
        register, folders = read_register(base_path), exported_versions(base_path)
        for version in versions:
            _require_removable(version, base_path, folders, register)
        _delete(base_path, {version: folders[version] for version in versions}, register)


def keep_highest(base_path: Path, count: int) -> list[int]:
    """Deletes all but the `count` highest versions and those that a label or the pin names; returns which are gone.

    Raises:
      UserError: `count` is below 1.
    """
    require_count(count)
    with locked(base_path):
        register, folders = read_register(base_path), exported_versions(base_path)
        kept = {*sorted(folders)[-count:], *register.named.values()}
        gone = {version: folder for version, folder in folders.items() if version not in kept}
        _delete(base_path, gone, register)
    return list(gone)


def require_publishable(base_path: Path, keep: int | None, label: str | None) -> None:
    """Refuses at once what publishing a new version would refuse at its end.

    Raises:
      UserError: no model base path, a register that cannot be read, a count below 1, or a label that the version cannot have.
    """
    require_base_path(base_path)
    if keep is not None:
        require_count(keep)
    register = read_register(base_path)
    if label is not None:
        require_label(label, None, register)


def require_count(count: int) -> None:
    if count < 1:
        raise UserError(f"cannot keep {count} versions: expected at least 1, which answers, and better 2, so that there is one to roll back to")


def _require_removable(version: int, base_path: Path, folders: dict[int, Path], register: Register) -> None:
    if version not in folders:
        raise UserError(
            f"model base path {base_path} has no version {version} with a SavedModel: the versions are {', '.join(map(str, folders)) or 'none'}; "
            "a numeric folder without one was not published here, so remove it yourself if you know whose it is"
        )
    if holders := [holder for holder, of in register.named.items() if of == version]:
        raise UserError(f"version {version} stays, because of {' and '.join(holders)}: move or remove that first")
    if version == register.served(folders):
        raise UserError(f"version {version} stays, because it answers requests: publish another version or roll back first")


def _delete(base_path: Path, folders: dict[int, Path], register: Register) -> None:
    """Takes versions out of sight at once, then deletes them. Of a link, the link alone goes."""
    if not folders:
        return
    write_register(base_path, register.but(highest=max(register.highest, *folders)))  # before the names are gone that tell it
    hidden = [folder.rename(base_path / f"{REMOVED_PREFIX}{uuid.uuid4().hex[:12]}") for folder in folders.values()]
    flush(base_path)
    for path in hidden:
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
