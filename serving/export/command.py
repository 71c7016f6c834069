"""The command `python -m serving.export`."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from preprocessing.environment import start_tensorflow
from preprocessing.errors import run
from serving.export.exporter import export
from serving.versions.folders import exported_versions

EPILOG = """\
examples:
  python -m serving.export --model_dir model --data_dir data --base_path exports/clicks
  python -m serving.export --model_dir model --data_dir data --base_path exports/clicks --label canary --keep 5

It is what `python -m trainer.task --stage=export --export_dir BASE` calls. Servers that poll BASE swap to the new version by
themselves; `python -m serving.versions` lists, rolls back, pins and labels what is there.
Exit code: 0 published; 2 refused, nothing was published, and standard error says why.
"""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.export", description="Publishes a fine-tuned model as the next version under a model base path.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model_dir", type=Path, required=True, help="model folder with a fine-tuned checkpoint")
    parser.add_argument("--data_dir", type=Path, required=True, help="the data folder that the model was trained on")
    parser.add_argument("--base_path", type=Path, required=True,
                        help="model base path that servers poll, made if absent; the same as --export_dir of trainer.task")  # fmt: skip
    parser.add_argument("--label", help="a label for the new version, such as canary")
    parser.add_argument("--keep", type=int, metavar="N",
                        help="delete all but the N highest versions afterwards, and those that a label or the pin names")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object; progress goes to standard error")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of user errors too")
    return parser.parse_args(argv)


def _main(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    start_tensorflow()
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        version_dir = export(arguments.model_dir, arguments.data_dir, arguments.base_path, arguments.keep, arguments.label)
    if arguments.json:
        versions = list(exported_versions(arguments.base_path))
        print(json.dumps({"version": int(version_dir.name), "path": str(version_dir), "label": arguments.label, "versions": versions}))


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)
