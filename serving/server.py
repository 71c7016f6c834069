"""The embedded model server: TensorFlow Serving's gRPC protocol for machines without its binary."""

import argparse
import logging
import queue
import signal
import sys
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError, run
from serving.versions import SAVED_MODEL_FILE

if TYPE_CHECKING:
    from serving.models import ServedVersions

MAX_MESSAGE_BYTES = 2**31 - 1
DRAIN_SECONDS = 30
THREADS = 16

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  python -m serving.server --model_name clicks --model_base_path exports/clicks
  python -m serving.server --model_name clicks --model_base_path exports/clicks --port 0 --poll_seconds 5

BASE/1, BASE/2, ... are versions; the highest one answers. Publish a version with
  python -m trainer.task --stage=export --data_dir DATA --model_dir MODEL --export_dir BASE
and a running server picks it up; delete the highest folder and it rolls back to the next. When the first version
is ready, one line is printed:  serving NAME version V on HOST:PORT
SIGTERM or Ctrl-C stops it after the calls in progress have been answered.
"""


class StopRequest:
    """A request to stop that a signal handler may make at any moment (an Event's lock is not re-entrant)."""

    def __init__(self):
        self._requests = queue.SimpleQueue()
        self.made = False

    def make(self, *_) -> None:
        self._requests.put(True)

    def wait(self, seconds: float) -> bool:
        """Waits for at most `seconds` and returns whether the request has been made."""
        try:
            self.made = self.made or self._requests.get(timeout=seconds)
        except queue.Empty:
            pass
        return self.made


def serve(model: "ServedVersions", host: str, port: int, poll_seconds: float, stop: StopRequest) -> None:
    """Waits for a first version, answers until asked to stop, then lets the calls in progress end.

    Raises:
      UserError: the first version does not load, or the port cannot be had.
    """
    _wait_for_first_version(model, poll_seconds, stop)
    if stop.made:
        return
    server, port = _start(model, host, port)
    print(f"serving {model.name} version {model.live_version} on {host}:{port}", flush=True)
    while not stop.wait(poll_seconds):
        _poll(model)
    log.info("stopping: new calls are refused, calls in progress have %d s", DRAIN_SECONDS)
    server.stop(DRAIN_SECONDS).wait()


def _check_base_path(base_path: Path) -> None:
    if base_path.exists() and not base_path.is_dir():
        raise UserError(f"model base path {base_path} is a file: give the folder that holds the version folders 1, 2, ...")
    if (base_path / SAVED_MODEL_FILE).is_file():
        raise UserError(f"model base path {base_path} is a version itself (it has a {SAVED_MODEL_FILE}): give its parent folder")


def _wait_for_first_version(model: "ServedVersions", poll_seconds: float, stop: StopRequest) -> None:
    model.poll()
    if model.live_version is None and model.failure() is None:
        lack = "holds no version folder" if model.base_path.is_dir() else "does not exist yet"
        log.warning("%s %s; waiting for a version to be published there", model.base_path, lack)
    while model.live_version is None and not stop.made:
        if model.failure():
            version, error = model.failure()
            raise UserError(
                f"model {model.name} version {version} failed to load ({error.code.name}): {error}; export the model again, "
                "or delete that version's folder to serve the one before"
            )
        stop.wait(poll_seconds)
        model.poll()


def _start(model: "ServedVersions", host: str, port: int) -> tuple[grpc.Server, int]:
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    from serving.services import ModelService, PredictionService

    limits = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
    options = [*limits, ("grpc.so_reuseport", 0)]  # a second server on the port is an error, not a silent sharer
    server = grpc.server(futures.ThreadPoolExecutor(THREADS, thread_name_prefix="predict"), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(model), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(model), server)
    try:
        port = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: the port is in use or the address is not this machine's; choose another --port, "
            "or --port 0 for a free one"
        ) from error
    server.start()
    return server, port


def _poll(model: "ServedVersions") -> None:
    try:
        model.poll()
    except OSError:  # the base path may be out of reach for a while; the live version keeps answering
        log.exception("cannot read %s", model.base_path)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model_name", required=True, help="name by which clients ask for the model")
    parser.add_argument("--model_base_path", type=Path, required=True, help="folder with the numeric version folders")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s; 0.0.0.0 for all)")
    parser.add_argument("--port", type=int, default=8500, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--poll_seconds", type=float, default=1.0, help="pause between looks for new versions (default: %(default)s)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of user errors too")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port must be 0 to 65535, received {arguments.port}")
    if arguments.poll_seconds <= 0:
        parser.error(f"--poll_seconds must be above 0, received {arguments.poll_seconds}")
    return arguments


def _main(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    _check_base_path(arguments.model_base_path)

    # TensorFlow takes seconds to import: only after everything that can be checked without it.
    start_tensorflow()
    from serving.models import ServedVersions

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.make)
    model = ServedVersions(arguments.model_name, arguments.model_base_path)
    serve(model, arguments.host, arguments.port, arguments.poll_seconds, stop)


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
