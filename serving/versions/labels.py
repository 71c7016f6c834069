"""What an operator has said about the versions of a model: labels, a pin, and which numbers have been given.

Kept in `versions.json` beside the versions, replaced as a whole. The embedded server watches it; TensorFlow Serving gets
it through the file that `python -m serving.versions model-config` writes (`serving.versions.model_config`).

    label   a name for a version, such as stable or canary: that version is loaded too, and answers requests with the label
    pin     the version that answers all requests without a label, whatever is published later

TensorFlow Serving answers a request without version or label from the highest version it has loaded. So a label must not name
a version above the pin.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic import Field as Setting

from preprocessing.errors import UserError
from preprocessing.files import flush, write_atomically
from serving.versions.checksums import require_sound
from serving.versions.folders import MAX_VERSION, exported_versions, locked

REGISTER_FILE = "versions.json"
LABEL_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"

_Version = Annotated[int, Setting(ge=0, le=MAX_VERSION)]
_Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]


class Register(BaseModel):
    """The content of `versions.json`.

    Attributes:
      highest: the highest number ever given to a version; none is given twice, even after its folder is gone.
      labels: label -> version.
      pin: the pinned version, if any.
      copies: versions that a roll-back made -> the version whose content they have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    highest: _Version = 0
    labels: dict[_Label, _Version] = {}
    pin: _Version | None = None
    copies: dict[_Version, _Version] = {}

    def but(self, **changes) -> "Register":
        return Register(**{**dict(self), **changes})

    @property
    def named(self) -> dict[str, int]:
        """What names a version, "label stable" or "the pin", and the version, which must not be removed."""
        labelled = {f"label {label}": version for label, version in self.labels.items()}
        return labelled if self.pin is None else {**labelled, "the pin": self.pin}

    def served(self, versions: Collection[int]) -> int | None:
        """Which of the versions answers requests without a label; None where there is none, or the pinned one is not among them."""
        if self.pin is None:
            return max(versions, default=None)
        return self.pin if self.pin in versions else None

    def wanted(self, versions: Collection[int]) -> set[int]:
        """Which of the versions are to be loaded: the one that answers requests without a label, and the labelled ones."""
        return {self.served(versions), *self.labels.values()} & set(versions)


def read_register(base_path: Path) -> Register:
    """Reads `versions.json`; where there is none, nothing has been said.

    Raises:
      UserError: it cannot be read, or is not what this module writes.
    """
    path = base_path / REGISTER_FILE
    try:
        return Register.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Register()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): it holds labels and pin, so it must be a file that servers and publishers can read"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path} is not readable: {place}: {first['msg']}; it was changed by hand or by another program. Restore it from a copy, "
            "or write it as {\"highest\": N}, N at least as high as any version ever published here, and pin and label anew"
        ) from error


def write_register(base_path: Path, register: Register) -> None:
    """Replaces `versions.json`, durably. Only under `versions.locked`."""
    write_atomically(base_path / REGISTER_FILE, register.model_dump_json(indent=1))
    flush(base_path)


def require_label(label: str, version: int | None, register: Register) -> None:
    """Refuses a label that is no name, or whose version would answer requests without label in the place of the pinned one.

    Args:
      version: None: one that is still to be published, which will be above the pin.
    """
    if not re.fullmatch(LABEL_PATTERN, label):
        raise UserError(f"label {label!r} is not a name: expected a letter, then up to 63 letters, digits, `_`, `.` or `-`, such as "
                        "`stable` or `canary`")  # fmt: skip
    if register.pin is not None and (version is None or version > register.pin):
        raise UserError(
            f"label {label} cannot name {'a new version' if version is None else f'version {version}'} while version {register.pin} is "
            "pinned: a server answers requests without a label from the highest version that it has loaded, which would no longer be "
            "the pinned one; `unpin` first, or pin a higher version"
        )


def require_exported(base_path: Path, version: int) -> Path:
    """The folder of a version that servers can be sent to.

    Raises:
      UserError: there is none, it holds no SavedModel, or its files are not those that were published.
    """
    folders = exported_versions(base_path)
    if version not in folders:
        there = ", ".join(map(str, folders)) or "none"
        raise UserError(f"model base path {base_path} has no version {version} with a SavedModel: the versions are {there}")
    require_sound(folders[version])
    return folders[version]


def set_label(base_path: Path, label: str, version: int) -> int | None:
    """Gives a label to a version; returns the version that had it before, if any.

    Raises:
      UserError: the version is not there or damaged, the label is no name, or the version is above the pinned one.
    """
    with locked(base_path):
        register = read_register(base_path)
        require_label(label, version, register)
        require_exported(base_path, version)
        write_register(base_path, register.but(labels={**register.labels, label: version}))
    return register.labels.get(label)


def version_labelled(base_path: Path, label: str, register: Register) -> int:
    """The version that has a label.

    Raises:
      UserError: none has.
    """
    if label not in register.labels:
        there = ", ".join(register.labels) or "none"
        raise UserError(f"model base path {base_path} has no label {label}: the labels are {there}")
    return register.labels[label]


def remove_label(base_path: Path, label: str) -> int:
    """Takes a label away; returns the version that had it.

    Raises:
      UserError: there is no such label.
    """
    with locked(base_path):
        register = read_register(base_path)
        version = version_labelled(base_path, label, register)
        write_register(base_path, register.but(labels={name: of for name, of in register.labels.items() if name != label}))
    return version


def set_pin(base_path: Path, version: int) -> int | None:
    """Pins a version; returns the one that was pinned before, if any.

    Raises:
      UserError: the version is not there or damaged, or a label names a higher one.
    """
    with locked(base_path):
        register = read_register(base_path)
        require_exported(base_path, version)
        above = {label: of for label, of in register.labels.items() if of > version}
        if above:
            named = ", ".join(f"{label} ({of})" for label, of in above.items())
            raise UserError(
                f"version {version} cannot be pinned while labels name higher versions: {named}. A server answers requests without a "
                "label from the highest version that it has loaded; move or remove these labels first"
            )
        write_register(base_path, register.but(pin=version))
    return register.pin


def remove_pin(base_path: Path) -> int:
    """Unpins; the highest version answers again. Returns the version that was pinned.

    Raises:
      UserError: no version is pinned.
    """
    with locked(base_path):
        register = read_register(base_path)
        if register.pin is None:
            raise UserError(f"model base path {base_path} has no pinned version, so there is nothing to unpin")
        write_register(base_path, register.but(pin=None))
    return register.pin
