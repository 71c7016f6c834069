"""The file of `--model_config_file` for TensorFlow Serving, from a base path's labels and pin."""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from preprocessing.errors import UserError
from serving.versions.folders import exported_versions
from serving.versions.labels import Register, read_register

_HEADER = """\
# Written by `python -m serving.versions model-config`; write it anew after every change of labels or pin.
# TensorFlow Serving reads it again every --model_config_file_poll_wait_seconds.
"""
_LABELS = "# Labels are refused at start unless --allow_version_labels_for_unavailable_models=true is given.\n"
_NUMBERED = "# Versions are named by number: a version that is published later is not served before this file names it.\n"


def model_config(base_path: Path, name: str, served_path: str, load_all: bool = False) -> str:
    """A text proto ModelServerConfig with one model.

    Where there is neither label nor pin, TensorFlow Serving is to follow the highest version by itself; else the pinned
    version (or the highest) and the labelled ones are named by number.

    Args:
      base_path: the model base path as this process sees it.
      name: the model's name for clients.
      served_path: the base path as TensorFlow Serving sees it.
      load_all: every version is to be loaded, so that new ones are served without this file being written again.

    Raises:
      UserError: no version is there, a labelled or pinned one is gone, or `load_all` although a version is pinned.
    """
    register, versions = read_register(base_path), list(exported_versions(base_path))
    _require_versions(base_path, register, versions)
    config = model_server_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add(name=name, base_path=served_path, model_platform="tensorflow")
    comments = _HEADER
    if load_all:
        if register.pin is not None:
            raise UserError(f"version {register.pin} is pinned: with all versions loaded, TensorFlow Serving would answer from the highest; "
                            "leave out --all, or `unpin` first")  # fmt: skip
        model.model_version_policy.all.SetInParent()
    elif register.named:
        comments += _NUMBERED
        model.model_version_policy.specific.versions.extend(sorted(register.wanted(versions)))
    else:
        model.model_version_policy.latest.num_versions = 1
    if register.labels:
        comments += _LABELS
    for label, version in sorted(register.labels.items()):
        model.version_labels[label] = version
    return comments + text_format.MessageToString(config)


def _require_versions(base_path: Path, register: Register, versions: list[int]) -> None:
    if not versions:
        raise UserError(f"model base path {base_path} holds no version, and TensorFlow Serving would wait for one: export a model first")
    for holder, version in register.named.items():
        if version not in versions:
            raise UserError(f"{holder} names version {version}, which is not under {base_path} any more: move or remove it first")
