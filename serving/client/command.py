"""`python -m serving.client`: scores the rows of a file with a served model."""

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from preprocessing.environment import start_tensorflow
from preprocessing.errors import run
from preprocessing.schema import load_schema
from serving.client.connection import Tls
from serving.client.score_file import check_paths, score_file
from serving.reading import MAX_REJECTED_SHARE

QUIET_SECONDS = 3.0  # of waiting for a server
SEPARATORS = {"comma": ",", "tab": "\t"}

EPILOG = """\
examples:
  python -m serving.client --server 127.0.0.1:8500 --model clicks --input new.csv --output scores.csv
  python -m serving.client --server 127.0.0.1:8500 --model clicks --input new.tsv.gz --separator tab > scores.csv
  a log whose columns have other names than the model's inputs, as its schema says, or one by one:
    python -m serving.client --model clicks --input new.parquet --schema data/schema.yaml --output scores.csv
    python -m serving.client --model clicks --input new.csv --column user=user_id --column item=ad --output scores.csv
  the canary, through TLS with a certificate of one's own:
    python -m serving.client --server ctr.example:8500 --model clicks --label canary --input new.csv --output scores.csv \\
      --tls_ca ca.pem --tls_cert client.pem --tls_key client.key

The input is CSV or TSV, plain or gzipped, Parquet (.parquet) or TFRecord (.tfrecord). It needs every column of the model's
`predict` signature, in any order; other columns are ignored. A table of many gigabytes is better scored without a
server, by `python -m serving.batch`.
The output is a CSV with one line a row, in the input's order (a blank line is no row). A malformed row (wrong number of
columns, text in a numeric column, not UTF-8) has a line too, with empty values; the first few are named on standard
error. More of them than --max_rejected_share, and nothing is written.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client", description="Scores the rows of a file with a served model.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--server", default="127.0.0.1:8500", help="HOST:PORT of gRPC (default: %(default)s)")
    parser.add_argument("--model", required=True, help="the model's name on the server")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--version", type=int, metavar="N", help="ask this version (default: the server's choice, which is the highest)"
    )
    chosen.add_argument("--label", metavar="NAME", help="ask the version that carries this label, such as stable or canary")
    parser.add_argument("--input", type=Path, required=True, help="file to score: CSV or TSV with a header, Parquet or TFRecord")
    parser.add_argument("--output", type=Path, help="CSV file to write (default: standard output)")

    reading = parser.add_argument_group("how the input is written")
    reading.add_argument("--schema", type=Path, metavar="FILE",
                         help="schema.yaml of the model's data folder, or of its export (VERSION/assets.extra/schema.yaml): says "
                              "which column each input is read from, separators, header and texts that mean no value")  # fmt: skip
    reading.add_argument("--column", action="append", default=[], metavar="INPUT=COLUMN",
                         help="read an input of the signature from this column (default: as --schema says, or the column of the "
                              "same name); may be repeated")  # fmt: skip
    reading.add_argument("--separator", choices=SEPARATORS, help="between columns (default: as --schema says, or comma)")
    reading.add_argument("--missing", action="append", default=[], metavar="TEXT",
                         help="a text that means no value in numeric columns, beside the empty one; may be repeated")  # fmt: skip
    reading.add_argument("--list_separator", action="append", default=[], metavar="INPUT=TEXT",
                         help="between the values of a cell of lists or vectors (default: as --schema says, or |); may be "
                              "repeated")  # fmt: skip
    reading.add_argument("--max_rejected_share", type=float, default=MAX_REJECTED_SHARE, metavar="SHARE",
                         help="fail if more than this share of the rows is malformed (default: %(default)s)")  # fmt: skip

    calls = parser.add_argument_group("calls")
    calls.add_argument("--signature", default="predict", help="signature with one tensor a column (default: %(default)s)")
    calls.add_argument("--chunk_rows", type=int, default=512,
                       help="rows a call, at most the server's max_batch_size where it batches (default: "
                            "%(default)s)")  # fmt: skip
    calls.add_argument("--concurrency", type=int, default=2, help="calls at once (default: %(default)s)")
    calls.add_argument("--deadline", type=float, default=10.0,
                       help="seconds a call may take, with the attempts that are safe to repeat (default: "
                            "%(default)s)")  # fmt: skip
    calls.add_argument("--wait", type=float, default=60.0, help="seconds to wait for the server (default: %(default)s)")

    tls = parser.add_argument_group("encryption")
    tls.add_argument("--tls", action="store_true", help="use TLS, and trust the public certificate authorities")
    tls.add_argument(
        "--tls_ca", type=Path, metavar="FILE", help="use TLS, and trust the certificate authorities of this PEM file instead"
    )
    tls.add_argument(
        "--tls_cert", type=Path, metavar="FILE", help="the client's certificate chain (PEM), for a server that asks for one"
    )
    tls.add_argument("--tls_key", type=Path, metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of user errors too")
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.chunk_rows < 1 or arguments.concurrency < 1 or arguments.deadline <= 0:
        parser.error("--chunk_rows and --concurrency must be at least 1 and --deadline above 0, received "
                     f"{arguments.chunk_rows}, {arguments.concurrency} and {arguments.deadline}")  # fmt: skip
    arguments.column = dict(pair.partition("=")[::2] for pair in arguments.column)
    if not all(name and column for name, column in arguments.column.items()):
        parser.error("--column must be INPUT=COLUMN, such as user=user_id")
    arguments.list_separator = dict(pair.partition("=")[::2] for pair in arguments.list_separator)
    if not all(name and len(separator) == 1 for name, separator in arguments.list_separator.items()):
        parser.error("--list_separator must be INPUT=TEXT with one character of text, such as 'history= '")
    if not 0 <= arguments.max_rejected_share <= 1:
        parser.error(f"--max_rejected_share must be a share from 0 to 1, received {arguments.max_rejected_share}")
    return arguments


def _main(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    check_paths(arguments.input, arguments.output)
    schema = load_schema(arguments.schema) if arguments.schema else None
    tls = _tls(arguments)

    # TensorFlow takes seconds to import: only after everything that can be checked without it.
    start_tensorflow()
    from serving.client.predict_client import PredictClient
    from serving.reading import reading_of

    with PredictClient(
        arguments.server, arguments.model, signature=arguments.signature, version=arguments.version, label=arguments.label,
        deadline=arguments.deadline, chunk_rows=arguments.chunk_rows, concurrency=arguments.concurrency, tls=tls,
    ) as client:  # fmt: skip
        version = _wait(client, arguments)
        print(f"model {arguments.model} version {version} on {arguments.server}", file=sys.stderr)
        reading = reading_of(
            client.input_specs(), schema, name=arguments.input.name, sources=arguments.column,
            separators=arguments.list_separator, missing=arguments.missing, separator=SEPARATORS.get(arguments.separator),
        )  # fmt: skip
        score_file(client, arguments.input, arguments.output, reading, arguments.max_rejected_share)


def _wait(client, arguments: argparse.Namespace) -> int:
    """Waits for the model. Says so after a while: a wrong address would look like a command that hangs."""
    text = f"waiting for model {arguments.model} on {arguments.server}, at most {arguments.wait:g} s in all"
    note = threading.Timer(QUIET_SECONDS, print, (text,), {"file": sys.stderr, "flush": True})
    note.start()
    try:
        return client.wait_until_ready(arguments.wait)
    finally:
        note.cancel()


def _tls(arguments: argparse.Namespace) -> Tls | None:
    given = (arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    if not (arguments.tls or any(given)):
        return None
    tls = Tls(*given)
    tls.credentials()  # so that a wrong file is told at once
    return tls


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)
