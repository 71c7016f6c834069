"""A client in a process of its own: it asks over and over, for as long as each line of its input says.

    request   {"files": PredictRequests to ask by turns, "begin": when to begin to count, "end": when to stop,
               "stop": a file that stops it earlier, or null}
    answer    {"begins": [seconds], "milliseconds": [...] of the calls that were answered, "statuses": {"OK": 12}}

Times are `time.monotonic()`, which all processes of a machine share. It asks from the moment when it has read the line: what
begins before `begin` warms up. The first line it prints, before any request, is {"ready": true}.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import grpc

MAX_MESSAGE_BYTES = 2**31 - 1
DEADLINE_SECONDS = 60.0
OK = "OK"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
Call = Callable[[], str]  # returns the status


def bytes_way(options: argparse.Namespace) -> Callable[[bytes], Call]:
    """Sends requests as they lie in their files and does not read the answers: what a call takes is the server's.

    It imports neither TensorFlow nor the protocol's messages, so that many such processes fit beside a server.
    """
    limits = [(f"grpc.max_{direction}_message_length", MAX_MESSAGE_BYTES) for direction in ("send", "receive")]
    predict = grpc.insecure_channel(options.server, options=limits).unary_unary(PREDICT)

    def prepare(content: bytes) -> Call:
        def call() -> str:
            try:
                predict(content, timeout=DEADLINE_SECONDS)
            except grpc.RpcError as error:
                return error.code().name
            return OK

        return call

    return prepare


def client_way(options: argparse.Namespace) -> Callable[[bytes], Call]:
    """`serving.client.predict_client.PredictClient`, from columns of a program's values to arrays."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    from serving.client.predict_client import PredictClient, PredictError
    from serving.signatures import CANDIDATE_COUNT_INPUT, CANDIDATES_SIGNATURE, SHARED_FIELDS_INPUT

    clients = {}

    def prepare(content: bytes) -> Call:
        request = predict_pb2.PredictRequest.FromString(content)
        columns = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        name, signature = request.model_spec.name, request.model_spec.signature_name
        if name not in clients:
            clients[name] = PredictClient(options.server, name, deadline=DEADLINE_SECONDS, chunk_rows=2**20)
        if signature != CANDIDATES_SIGNATURE:
            return _told(lambda: clients[name].predict(columns))
        [names], _ = columns.pop(SHARED_FIELDS_INPUT), columns.pop(CANDIDATE_COUNT_INPUT)
        shared = {name: columns.pop(name)[0, 0] for name in names.decode().split(",")}
        candidates = {name: values[0] for name, values in columns.items()}
        return _told(lambda: clients[name].rank(shared, candidates))

    def _told(ask: Callable) -> Call:
        def call() -> str:
            try:
                ask()
            except PredictError as error:
                return error.code.name
            return OK

        return call

    return prepare


def function_way(options: argparse.Namespace) -> Callable[[bytes], Call]:
    """No server: calls of the loaded SavedModel's signature, from tensors to arrays."""
    import tensorflow as tf

    model = tf.saved_model.load(str(options.version))

    def prepare(content: bytes) -> Call:
        signature, arrays = inputs_of(content)
        function, tensors = model.signatures[signature], {name: tf.constant(array) for name, array in arrays.items()}
        return _answered(lambda: [output.numpy() for output in function(**tensors).values()])

    return prepare


def session_way(options: argparse.Namespace) -> Callable[[bytes], Call]:
    """No server: runs of the SavedModel's graph as our server and TensorFlow Serving load it, from arrays to arrays."""
    from serving.server.servable import Servable

    servable = Servable("benchmark", 0, options.version, max_bytes=MAX_MESSAGE_BYTES)

    def prepare(content: bytes) -> Call:
        signature, arrays = inputs_of(content)
        return _answered(lambda: servable.signatures[signature].run(arrays))

    return prepare


WAYS = {"bytes": bytes_way, "client": client_way, "function": function_way, "session": session_way}


def inputs_of(content: bytes) -> tuple[str, dict]:
    """Signature and arrays of a serialized PredictRequest."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest.FromString(content)
    return request.model_spec.signature_name, {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}


def _answered(run: Callable) -> Call:
    """A call whose failure ends the benchmark: there is no server that could have refused it."""

    def call() -> str:
        run()
        return OK

    return call


def measure(calls: Sequence[Call], begin: float, end: float, stop: str | None = None,
            clock: Callable[[], float] = time.monotonic) -> dict:  # fmt: skip
    """Makes the calls by turns until `end`, or until there is a file `stop`; counts those that begin after `begin`."""
    begins, milliseconds, statuses = [], [], Counter()
    for call in itertools.cycle(calls):
        began = clock()
        if began >= end or stop and os.path.exists(stop):
            break
        status = call()
        if began < begin:
            continue
        statuses[status] += 1
        if status == OK:
            begins.append(round(began, 6))
            milliseconds.append(round(1000 * (clock() - began), 4))
    return {"begins": begins, "milliseconds": milliseconds, "statuses": dict(statuses)}


def answers(prepare: Callable[[bytes], Call], lines: Iterable[str]) -> Iterator[dict]:
    prepared: dict[str, Call] = {}
    for line in lines:
        asked = json.loads(line)
        for file in asked["files"]:
            if file not in prepared:
                prepared[file] = prepare(Path(file).read_bytes())
        yield measure([prepared[file] for file in asked["files"]], asked["begin"], asked["end"], asked["stop"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.worker", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--way", choices=WAYS, required=True, help="what to ask, and how")
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC, for bytes and client")
    parser.add_argument("--version", type=Path, metavar="DIR", help="folder of a SavedModel, for function and session")
    options = parser.parse_args(argv)
    prepare = WAYS[options.way](options)
    print(json.dumps({"ready": True}), flush=True)
    for answer in answers(prepare, sys.stdin):
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
