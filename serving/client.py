"""`python -m serving.client`: scores the rows of a CSV file with a served model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from preprocessing.environment import start_tensorflow
from preprocessing.errors import run
from serving.score_csv import MAX_REJECTED_SHARE, check_paths, score_csv

EPILOG = """\
examples:
  python -m serving.client --server 127.0.0.1:8500 --model clicks --input new.csv --output scores.csv
  python -m serving.client --server 127.0.0.1:8500 --model clicks --input new.tsv.gz --separator tab > scores.csv

The input needs a header with every column of the model's `predict` signature, in any order; other columns are ignored.
The output is a CSV with one line a row, in the input's order (a blank line is no row). A malformed row (wrong number of
columns, text in a numeric column, not UTF-8) has a line too, with empty values; the first few are named on standard
error. More of them than --max_rejected_share, and nothing is written.
"""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client", description="Scores the rows of a CSV file with a served model.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--server", default="127.0.0.1:8500", help="HOST:PORT (default: %(default)s)")
    parser.add_argument("--model", required=True, help="the model's name on the server")
    parser.add_argument("--input", type=Path, required=True, help="CSV or TSV file with a header, plain or .gz")
    parser.add_argument("--output", type=Path, help="CSV file to write (default: standard output)")
    parser.add_argument("--separator", choices=("comma", "tab"), default="comma", help="between columns (default: %(default)s)")
    parser.add_argument("--missing", action="append", default=[], metavar="TEXT",
                        help="a text that means no value in numeric columns, beside the empty one; may be repeated")  # fmt: skip
    parser.add_argument("--list_separator", action="append", default=[], metavar="COLUMN=TEXT",
                        help="between the values of a cell of a column of lists or vectors (default: |); may be repeated")  # fmt: skip
    parser.add_argument("--max_rejected_share", type=float, default=MAX_REJECTED_SHARE, metavar="SHARE",
                        help="fail if more than this share of the rows is malformed (default: %(default)s)")  # fmt: skip
    parser.add_argument("--signature", default="predict", help="signature with one tensor a column (default: %(default)s)")
    parser.add_argument("--chunk_rows", type=int, default=512, help="rows a call (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds a call may take (default: %(default)s)")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for the server (default: %(default)s)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of user errors too")
    arguments = parser.parse_args(argv)
    if arguments.chunk_rows < 1 or arguments.deadline <= 0:
        parser.error(f"--chunk_rows must be at least 1 and --deadline above 0, received {arguments.chunk_rows} and {arguments.deadline}")
    arguments.list_separator = [pair.partition("=")[::2] for pair in arguments.list_separator]
    if not all(name and len(separator) == 1 for name, separator in arguments.list_separator):
        parser.error("--list_separator must be COLUMN=TEXT with one character of text, such as 'history= '")
    if not 0 <= arguments.max_rejected_share <= 1:
        parser.error(f"--max_rejected_share must be a share from 0 to 1, received {arguments.max_rejected_share}")
    return arguments


def _main(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    check_paths(arguments.input, arguments.output)

    # TensorFlow takes seconds to import: only after everything that can be checked without it.
    start_tensorflow()
    from serving.predict_client import PredictClient

    with PredictClient(
        arguments.server, arguments.model, signature=arguments.signature, deadline=arguments.deadline,
        chunk_rows=arguments.chunk_rows,
    ) as client:  # fmt: skip
        version = client.wait_until_ready(arguments.wait)
        print(f"model {arguments.model} version {version} on {arguments.server}", file=sys.stderr)
        separator = {"comma": ",", "tab": "\t"}[arguments.separator]
        score_csv(client, arguments.input, arguments.output, separator, arguments.missing, arguments.max_rejected_share,
                  dict(arguments.list_separator))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
