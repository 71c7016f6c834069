"""The commands of `python -m serving.versions`."""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from preprocessing.errors import run
from preprocessing.files import write_atomically
from serving.versions import labels, publishing
from serving.versions.folders import (
    exported_versions,
    find_versions,
    require_base_path,
    require_existing,
    require_own_versions,
)
from serving.versions.model_config import model_config

DESCRIPTION = """\
Lists, rolls back, pins, labels and removes the versions of a served model. BASE is its model base path, the folder with the
numeric version folders that a server polls. Numbers only increase, and none is used twice.
"""

EPILOG = """\
examples:
  python -m serving.versions list exports/clicks
  python -m serving.versions rollback exports/clicks            # something is wrong with the newest: back to the one before
  python -m serving.versions label exports/clicks canary 8      # requests with version_label "canary" get version 8
  python -m serving.versions pin exports/clicks 7               # 7 answers, whatever is published, until `unpin`
  python -m serving.versions keep exports/clicks 5              # after every export: five are enough
  python -m serving.versions model-config exports/clicks --name clicks --served_path /models/clicks --output models.config

The embedded server follows all of it by itself. TensorFlow Serving follows exports and roll-backs by itself as long as there is
neither label nor pin; these reach it by `model-config`, written anew after each of these commands and each export, if it runs
with --model_config_file and --model_config_file_poll_wait_seconds=30.
Exit code: 0 done; 2 refused, nothing has changed, and standard error says why. --json prints one object for scripts.
`python -m serving.versions COMMAND --help` says more of each.
"""


def _list(arguments: argparse.Namespace) -> tuple[dict, str]:
    base_path = arguments.base
    register, exported = labels.read_register(base_path), exported_versions(base_path)
    found = find_versions(base_path)
    served = register.served(exported)
    versions = [
        {
            "version": version,
            "serves": version == served,
            "labels": sorted(label for label, of in register.labels.items() if of == version),
            "pinned": version == register.pin,
            "copy_of": register.copies.get(version),
            "published": datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="seconds"),
            "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "has_saved_model": version in exported,
        }
        for version, folder in sorted(found.items(), reverse=True)
    ]
    gone = {holder: version for holder, version in register.named.items() if version not in found}
    result = {"base_path": str(base_path), "highest_ever": max([register.highest, *found]), "versions": versions, "gone": gone}
    lines = [_line(version) for version in versions] or [f"{base_path} holds no version"]
    lines += [f"{holder} names version {version}, which is gone" for holder, version in gone.items()]
    return result, "\n".join(lines)


def _line(version: dict) -> str:
    marks = ["to answer requests"] * version["serves"] + ["pinned"] * version["pinned"] + version["labels"]
    marks += [f"copy of {version['copy_of']}"] if version["copy_of"] is not None else []
    marks += [] if version["has_saved_model"] else ["no saved_model.pb: not exported here"]
    published = version["published"].replace("T", " ").removesuffix("+00:00")
    return f"{version['version']:>6}  {published} UTC  {version['bytes'] / 1e6:>10,.1f} MB  {', '.join(marks)}".rstrip()


def _roll_back(arguments: argparse.Namespace) -> tuple[dict, str]:
    done = publishing.roll_back(arguments.base, arguments.to)
    text = f"version {done.version} has the content of version {done.source} and is the highest now, before version {done.replaced}"
    if done.moved_labels:
        text += f"; moved to it: {', '.join(done.moved_labels)}"
    result = {"version": done.version, "copy_of": done.source, "replaced": done.replaced, "moved_labels": list(done.moved_labels)}
    return result, text


def _pin(arguments: argparse.Namespace) -> tuple[dict, str]:
    before = labels.set_pin(arguments.base, arguments.version)
    text = f"version {arguments.version} is pinned" + (f", instead of version {before}" if before not in (None, arguments.version) else "")
    return {"pin": arguments.version, "before": before}, text


def _unpin(arguments: argparse.Namespace) -> tuple[dict, str]:
    before = labels.remove_pin(arguments.base)
    return {"pin": None, "before": before}, f"version {before} is no longer pinned: the highest version answers"


def _label(arguments: argparse.Namespace) -> tuple[dict, str]:
    label, version = arguments.label, arguments.version
    if arguments.remove:
        before = labels.remove_label(arguments.base, label)
        return {"label": label, "version": None, "before": before}, f"label {label} is gone; it named version {before}"
    before = labels.set_label(arguments.base, label, version)
    text = f"label {label} names version {version}" + (f", before it named version {before}" if before not in (None, version) else "")
    return {"label": label, "version": version, "before": before}, text


def _keep(arguments: argparse.Namespace) -> tuple[dict, str]:
    gone = publishing.keep_highest(arguments.base, arguments.count)
    kept = list(exported_versions(arguments.base))
    return {"removed": gone, "kept": kept}, f"removed {_listed(gone)}; kept {_listed(kept)}"


def _remove(arguments: argparse.Namespace) -> tuple[dict, str]:
    publishing.remove(arguments.base, arguments.versions)
    kept = list(exported_versions(arguments.base))
    return {"removed": arguments.versions, "kept": kept}, f"removed {_listed(arguments.versions)}; kept {_listed(kept)}"


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"


def _model_config(arguments: argparse.Namespace) -> tuple[dict, str]:
    served_path = arguments.served_path or str(arguments.base.resolve())
    text = model_config(arguments.base, arguments.name, served_path, arguments.all)
    if arguments.output is None:
        return {"model_config": text, "output": None}, text.rstrip("\n")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.output, text)  # TensorFlow Serving may be reading it
    return {"model_config": text, "output": str(arguments.output)}, f"wrote {arguments.output}"


def _version(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise argparse.ArgumentTypeError(f"expected the number of a version, such as 7, received {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.versions", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run_it: Callable, summary: str, more: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}")
        one.add_argument("base", type=Path, metavar="BASE", help="model base path: the folder with the version folders 1, 2, ...")
        one.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        one.add_argument("--traceback", action="store_true", help="show the traceback of user errors too")
        one.set_defaults(run=run_it, parser=one)
        return one

    command("list", _list, "show the versions, highest first",
            "Says which one servers are asked to answer requests without a label from, which have labels or the pin, which are "
            "copies that a roll-back made, and what labels and pin name that is gone. Whether a server has loaded them, it says "
            "itself: by its log, GetModelStatus and /v1/models/NAME. It only reads.")  # fmt: skip
    one = command("rollback", _roll_back, "publish an earlier version again, as the highest",
                  "Its files are linked under a new number after their checksums have been verified, so every server that polls the "
                  "folder swaps to it by itself, and the version that went wrong stays there to be examined. Labels of that version "
                  "move to the new one. Refused while a version is pinned.")  # fmt: skip
    one.add_argument("--to", type=_version, metavar="VERSION",
                     help="the version to go back to (default: the one before the highest; after a roll-back, the one before its source)")  # fmt: skip
    one = command("pin", _pin, "let one version answer, whatever is published later",
                  "Requests without version or label get this version until `unpin`; it is never removed. For TensorFlow Serving, write "
                  "its file anew by `model-config`. Refused while a label names a higher version, from which TensorFlow Serving would "
                  "answer instead.")  # fmt: skip
    one.add_argument("version", type=_version, metavar="VERSION", help="the version to pin")
    command("unpin", _unpin, "let the highest version answer again", "Undoes `pin`.")
    one = command("label", _label, "give a version a name that clients can ask for",
                  "Clients ask for it in model_spec.version_label. The version is loaded beside the one that answers other requests, and "
                  "never removed; the label may be moved at any time. A client that should not get a new version before it has proved "
                  "itself asks for `stable`, a client that tries it for `canary`. For TensorFlow Serving, write its file anew by "
                  "`model-config`.")  # fmt: skip
    one.add_argument("label", metavar="LABEL", help="a letter, then letters, digits, `_`, `.` or `-`")
    one.add_argument("version", type=_version, metavar="VERSION", nargs="?", help="the version that gets it")
    one.add_argument("--remove", action="store_true", help="take the label away")
    one = command("keep", _keep, "delete all but the highest versions",
                  "Versions that a label or the pin names stay too. Numeric folders without a saved_model.pb are somebody else's: they "
                  "neither count nor go. Keep at least 2, so that there is one to roll back to.")  # fmt: skip
    one.add_argument("count", type=int, metavar="N", help="how many to keep")
    one = command("remove", _remove, "delete versions",
                  "Refused, for all of them, if one answers requests, has a label or is pinned. Their numbers are not used again.")  # fmt: skip
    one.add_argument("versions", type=_version, metavar="VERSION", nargs="+", help="the versions to delete")
    one = command("model-config", _model_config, "write TensorFlow Serving's --model_config_file",
                  "Without label and pin it says `latest`, and TensorFlow Serving follows new versions by itself. With either, it names by "
                  "number the version that answers and the labelled ones: write it again after each export, label or pin (a server "
                  "started with --model_config_file_poll_wait_seconds=30 reads it again).")  # fmt: skip
    one.add_argument("--name", required=True, help="the model's name for clients")
    one.add_argument("--served_path", metavar="PATH", help="BASE as TensorFlow Serving sees it, such as /models/clicks (default: BASE)")
    one.add_argument("--output", type=Path, metavar="FILE", help="file to replace as a whole (default: standard output)")
    one.add_argument("--all", action="store_true",
                     help="load every version there is, so that new ones are served without writing this file again; takes their memory")  # fmt: skip
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    arguments = _parser().parse_args(argv)
    if arguments.run is _label and arguments.remove == (arguments.version is not None):
        arguments.parser.error("give either the VERSION that gets the label, or --remove")
    return arguments


def _main(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    require_base_path(arguments.base)
    require_existing(arguments.base)
    require_own_versions(arguments.base)
    result, text = arguments.run(arguments)
    print(json.dumps(result) if arguments.json else text)


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)
