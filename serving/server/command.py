"""The embedded model server: TensorFlow Serving's gRPC and REST protocols for machines without its binary."""

import argparse
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from preprocessing.environment import start_tensorflow
from preprocessing.errors import run
from serving.server.config import (
    MAX_CONCURRENT_CALLS,
    MAX_REQUEST_BYTES,
    BatchingParameters,
    ModelConfig,
    read_batching_parameters,
    read_model_config,
)
from serving.server.ports import require_free
from serving.server.tls import ServerTls
from serving.versions.folders import require_base_path

FIRST_LOOK_SECONDS = 0.1  # between looks whether the first versions are there
THREADS_END_SECONDS = 1.0  # for threads that have nothing left to do

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  python -m serving.server --model_name clicks --model_base_path exports/clicks
  python -m serving.server --model_name clicks --model_base_path exports/clicks --port 0 --rest_api_port 8501
  python -m serving.server --model_config_file models.config --batching_parameters_file batching.config
  curl -d '{"instances": [{"user": "u1", "price": 2.0}], "signature_name": "predict"}' 127.0.0.1:8501/v1/models/clicks:predict

BASE/1, BASE/2, ... are versions; the highest one answers, unless `python -m serving.versions` pinned another. Publish one with
  python -m trainer.task --stage=export --data_dir DATA --model_dir MODEL --export_dir BASE
and a running server picks it up, after it has answered the version's own warm-up requests; until then, and if it fails, the
old one answers. When every model has a live version, one line for each is printed:  serving NAME version V on HOST:PORT
If V is not the version that should answer, because that one failed to load, the line goes on to say so and why.
SIGTERM or Ctrl-C stops the server after the calls in progress have been answered.

The ports are open to this machine only; --host 0.0.0.0 opens them to all that can reach it. Whoever can reach them may ask for
scores and for another list of models: use --tls_client_ca, or a network that you trust.
"""


class StopRequest:
    """A request to stop, made by a signal at any moment, or by a call from any thread.

    Python runs a signal's handler when the main thread next executes bytecode, which one that has just begun to wait for a lock
    may never do. So signals are read from the descriptor that the interpreter writes to at once, whichever thread they interrupt.
    """

    def __init__(self):
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def on_signals(self, *numbers: int) -> None:
        """Lets these signals make the request; to be called in the main thread."""
        signal.set_wakeup_fd(self._writer.fileno())
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def make(self) -> None:
        self._writer.send(b"\0")

    def wait(self, seconds: float | None) -> bool:
        """Waits for at most `seconds` and returns whether the request has been made."""
        readable, _, _ = select.select([self._reader], [], [], seconds)  # what is there is not read, so it stays made
        return bool(readable)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_model_flags(parser)
    _add_port_flags(parser)
    parser.add_argument(
        "--batching_parameters_file",
        type=Path,
        metavar="FILE",
        help="join concurrent calls by this BatchingParameters file of TensorFlow Serving (default: no batching)",
    )
    parser.add_argument(
        "--tensorflow_intra_op_parallelism", type=int, default=0, metavar="N", help="threads of one op (default: one a core)"
    )
    parser.add_argument(
        "--tensorflow_inter_op_parallelism", type=int, default=0, metavar="N", help="ops at once (default: one a core)"
    )
    parser.add_argument(
        "--shutdown_delay_seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="after SIGTERM, fail health checks but answer on for so long, until balancers notice (default: %(default)s)",
    )
    parser.add_argument(
        "--drain_seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="then refuse new calls and wait so long for those in progress, and for a load under way (default: %(default)s)",
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of user errors too")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_name", help="name by which clients ask for the model")
    parser.add_argument("--model_base_path", type=Path, metavar="BASE", help="folder with the numeric version folders")
    parser.add_argument(
        "--model_config_file",
        type=Path,
        metavar="FILE",
        help="instead: models, version policies and labels, as a ModelServerConfig file of TensorFlow Serving",
    )
    parser.add_argument(
        "--model_config_file_poll_wait_seconds", type=float, default=0.0, metavar="S",
        help="pause between looks at --model_config_file: what it says after a change is served, without a restart, and what cannot "
             "be served is logged and changes nothing (default: 0, read once)",
    )  # fmt: skip
    parser.add_argument(
        "--poll_seconds", type=float, default=1.0, metavar="S", help="pause between looks for new versions (default: %(default)s)"
    )


def _add_port_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s; 0.0.0.0 for all)")
    parser.add_argument("--port", type=int, default=8500, help="gRPC port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--rest_api_port",
        type=int,
        metavar="PORT",
        help="port of REST and of /monitoring/prometheus/metrics, 0 for a free one (default: neither)",
    )
    parser.add_argument(
        "--max_request_bytes", type=int, default=MAX_REQUEST_BYTES, metavar="N", help="refuse larger requests (default: %(default)s)"
    )
    parser.add_argument(
        "--max_concurrent_calls",
        type=int,
        default=MAX_CONCURRENT_CALLS,
        metavar="N",
        help="inference calls at once; as --grpc_max_threads of TensorFlow Serving (default: %(default)s)",
    )
    parser.add_argument("--tls_cert", type=Path, metavar="PEM", help="the server's certificate: both ports speak TLS; read again when it is renewed")
    parser.add_argument("--tls_key", type=Path, metavar="PEM", help="its private key, without a passphrase")
    parser.add_argument(
        "--tls_client_ca", type=Path, metavar="PEM", help="admit only clients with a certificate of this authority (mutual TLS)"
    )


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    given = (arguments.model_name is not None, arguments.model_base_path is not None)
    if given != ((False, False) if arguments.model_config_file else (True, True)):
        parser.error("give --model_name and --model_base_path, or --model_config_file instead")
    for flag in ("port", "rest_api_port"):
        if not 0 <= (getattr(arguments, flag) or 0) <= 65535:
            parser.error(f"--{flag} must be 0 to 65535, received {getattr(arguments, flag)}")
    if arguments.poll_seconds <= 0:
        parser.error(f"--poll_seconds must be above 0, received {arguments.poll_seconds}")
    if arguments.model_config_file_poll_wait_seconds and not arguments.model_config_file:
        parser.error("--model_config_file_poll_wait_seconds needs a --model_config_file to look at")
    for flag in ("model_config_file_poll_wait_seconds", "shutdown_delay_seconds", "drain_seconds", "tensorflow_intra_op_parallelism",
                 "tensorflow_inter_op_parallelism"):  # fmt: skip
        if getattr(arguments, flag) < 0:
            parser.error(f"--{flag} must be at least 0, received {getattr(arguments, flag)}")
    for flag, highest in (("max_request_bytes", 2**31 - 1), ("max_concurrent_calls", 10_000)):
        if not 1 <= getattr(arguments, flag) <= highest:
            parser.error(f"--{flag} must be 1 to {highest}, received {getattr(arguments, flag)}")
    if (arguments.tls_cert is None) != (arguments.tls_key is None) or (arguments.tls_client_ca and not arguments.tls_cert):
        parser.error("--tls_cert and --tls_key belong together, and --tls_client_ca needs both")


def _configs(arguments: argparse.Namespace) -> list[ModelConfig]:
    if arguments.model_config_file:
        configs = read_model_config(arguments.model_config_file)
    else:
        configs = [ModelConfig(arguments.model_name, arguments.model_base_path)]
    for config in configs:
        require_base_path(config.base_path)
    return configs


def _tls(arguments: argparse.Namespace) -> ServerTls | None:
    if not arguments.tls_cert:
        return None
    tls = ServerTls(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)
    tls.ssl_context()  # says what is wrong before anything is loaded
    return tls


def _main(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    configs, tls = _configs(arguments), _tls(arguments)
    batching = read_batching_parameters(arguments.batching_parameters_file) if arguments.batching_parameters_file else None
    require_free(arguments.host, arguments.port, "--port")
    if arguments.rest_api_port is not None:
        require_free(arguments.host, arguments.rest_api_port, "--rest_api_port")

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = StopRequest()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    # TensorFlow takes seconds to import: only after everything that can be checked without it.
    start_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    gc.freeze()  # what the imports made stays; the collection after a swap need not look at it
    _serve(arguments, configs, tls, batching, stop)
    _end()


def _end() -> NoReturn:
    """Ends the process, with exit code 0. The interpreter's own end would wait for the threads of calls that have outlasted their
    time, and abort the process under one that still loads a version."""
    logging.shutdown()
    os._exit(0)


def _serve(arguments: argparse.Namespace, configs: list[ModelConfig], tls: ServerTls | None, batching: BatchingParameters | None,
           stop: StopRequest) -> None:  # fmt: skip
    from tensorflow.core.protobuf import config_pb2

    from serving.server.batching import BatchScheduler
    from serving.server.config_file import ModelConfigFile
    from serving.server.loading import Loader
    from serving.server.metrics import ServerMetrics
    from serving.server.model_server import Listening, ModelServer
    from serving.server.served_models import ServedModels

    metrics = ServerMetrics()
    scheduler = BatchScheduler(batching, metrics.batching) if batching else None
    session_config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=arguments.tensorflow_intra_op_parallelism,
        inter_op_parallelism_threads=arguments.tensorflow_inter_op_parallelism,
    )
    loader = Loader(arguments.max_request_bytes, scheduler.batched if scheduler else None, session_config)
    models = ServedModels(configs, loader, metrics)
    try:
        if not _have_first_versions(models, configs, stop, arguments.poll_seconds):
            log.info("stopped before every model had a version")
            return
        listening = Listening(
            host=arguments.host, port=arguments.port, rest_port=arguments.rest_api_port, tls=tls,
            max_request_bytes=arguments.max_request_bytes, max_concurrent_calls=arguments.max_concurrent_calls,
        )  # fmt: skip
        server = ModelServer(models, metrics, listening)
        say_ready(server, models, listening)
        server.every(arguments.poll_seconds, models.poll, "looking for new versions")
        if arguments.model_config_file_poll_wait_seconds:
            file = ModelConfigFile(arguments.model_config_file, configs, models)
            server.every(arguments.model_config_file_poll_wait_seconds, file.look, "looking at --model_config_file")
        stop.wait(None)
        _stop(server, arguments.shutdown_delay_seconds, arguments.drain_seconds)
    finally:
        if scheduler:
            scheduler.stop(THREADS_END_SECONDS)


def _have_first_versions(models, configs: list[ModelConfig], stop: StopRequest, poll_seconds: float) -> bool:
    """Waits until every model has a live version; returns False as soon as a stop is asked for, even in the middle of a load."""
    from serving.server.model_server import in_background, wait_for_first_versions

    first = in_background(lambda: wait_for_first_versions(models, configs, lambda: stop.wait(poll_seconds)), "first versions")
    while not stop.wait(FIRST_LOOK_SECONDS):
        if first.done():
            return first.result()
    return False


def say_ready(server, models, listening) -> None:
    """Prints which version of each model answers where, and which should but failed to load."""
    for name, model in models.models.items():
        print(f"serving {name} version {model.live_version} on {listening.host}:{server.port}{_though_failed(model)}", flush=True)
    if server.rest_port is not None:
        scheme = "https" if listening.tls else "http"
        print(f"REST and metrics on {scheme}://{listening.host}:{server.rest_port}", flush=True)


def _though_failed(model) -> str:
    failure = model.failed_above_live()
    if failure is None:
        return ""
    version, error = failure
    return f" (NOT version {version}, which failed to load: {error.code.name}: {' '.join(str(error).split())})"


def _stop(server, delay_seconds: float, drain_seconds: float) -> None:
    server.announce_stop()
    if delay_seconds:
        log.info("stopping in %g s: calls are answered, health checks say NOT_SERVING", delay_seconds)
        time.sleep(delay_seconds)
    log.info("stopping: new calls are refused, those in progress have %g s", drain_seconds)
    server.stop(drain_seconds)
    log.info("stopped")


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)
