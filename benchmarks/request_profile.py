"""Where the time of one scoring request goes, without network: `python -m benchmarks.request_profile --model BASE/VERSION`.

Requests are made of the version's own warm-up rows. The first table has, for each signature, the size of the request and the
medians of what a server does with it one after another: tensors from bytes, one run of the graph, bytes from tensors (in
Python, as `python -m serving.server` does; TensorFlow Serving does the first and the last in C++). The second has the run
alone under different thread settings, which take turns. The third has, by kind of operation, what the run consists of.
"""

import argparse
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError

if TYPE_CHECKING:
    from tensorflow.core.protobuf import config_pb2

# TensorFlow takes seconds to import: in the functions that need it.

WARM_UP_ROUNDS = 3
TRACED_RUNS = 20
ONE_THREAD = "inter 1, intra 1"
KINDS = 14
CONTAINERS = ("StatefulPartitionedCall", "PartitionedCall", "While", "If")  # what they run is traced by itself
_KIND = re.compile(r" = (\w+)\(")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_profile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported version, with warm-up requests")
    parser.add_argument("--candidates", type=int, default=100, help="rows of a request (default: %(default)s)")
    parser.add_argument("--shared", default="", metavar="FIELD,FIELD",
                        help="fields that `candidates` sends once, such as the user's (default: none)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=200, help="requests a median is of (default: %(default)s)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    if arguments.candidates < 1 or arguments.rounds < 1:
        parser.error(f"--candidates and --rounds must be at least 1, received {arguments.candidates} and {arguments.rounds}")
    return arguments


def _thread_settings() -> dict[str, "config_pb2.ConfigProto"]:
    """`inter` threads run operations beside one another, `intra` threads one operation."""
    from tensorflow.core.protobuf import config_pb2

    def config(inter: int = 0, intra: int = 0, executor: str = "") -> config_pb2.ConfigProto:
        found = config_pb2.ConfigProto(
            use_per_session_threads=True, inter_op_parallelism_threads=inter, intra_op_parallelism_threads=intra)
        found.experimental.executor_type = executor
        return found

    return {
        "default": config(),
        "inter 1": config(1),
        ONE_THREAD: config(1, 1),
        "single-threaded executor": config(1, 1, "SINGLE_THREADED_EXECUTOR"),
    }


class Requests:
    """One PredictRequest of each signature, of rows from a version's warm-up requests.

    Args:
      version_dir: the exported version.
      rows: how many rows.
      shared: names of the fields that the request of `candidates` shares.

    Raises:
      UserError: the version has no warm-up requests, or no such fields.
    """

    def __init__(self, version_dir: Path, rows: int, shared: Sequence[str]):
        import tensorflow as tf

        from serving.signatures import DEFAULT_SIGNATURE, EXAMPLES_INPUT, NAMED_SIGNATURE

        warmup = _warmup_inputs(version_dir)
        if not {DEFAULT_SIGNATURE, NAMED_SIGNATURE} <= set(warmup):
            raise UserError(f"{version_dir} has no warm-up requests of {DEFAULT_SIGNATURE} and {NAMED_SIGNATURE}, so there are "
                            "no rows to ask for: give the folder of a version that `python -m serving.export` wrote")
        known = warmup[NAMED_SIGNATURE]
        if unknown := sorted(set(shared) - set(known)):
            raise UserError(f"--shared names {unknown}, which {version_dir} does not have as fields: expected some of "
                            f"{sorted(known)}")
        places = [place % len(warmup[DEFAULT_SIGNATURE][EXAMPLES_INPUT]) for place in range(rows)]
        examples = tf.gather(warmup[DEFAULT_SIGNATURE][EXAMPLES_INPUT], places)
        self._shared, self._named, self._rows = list(shared), {name: tf.gather(x, places) for name, x in known.items()}, rows
        self.inputs = {name: make(examples) for name, make in self._makers().items() if name in warmup}

    def _makers(self) -> dict[str, Callable]:
        import tensorflow as tf

        from serving import signatures as names

        columns = {name: x[:1] if name in self._shared else x for name, x in self._named.items()}
        candidates = {
            **{name: x[tf.newaxis] for name, x in columns.items()},
            names.CANDIDATE_COUNT_INPUT: tf.constant([self._rows], tf.int64),
            names.SHARED_FIELDS_INPUT: tf.constant([",".join(self._shared)]),
        }
        return {
            names.DEFAULT_SIGNATURE: lambda examples: {names.EXAMPLES_INPUT: examples},
            names.NAMED_SIGNATURE: lambda examples: self._named,
            names.CANDIDATES_SIGNATURE: lambda examples: candidates,
            names.EXPLAIN_SIGNATURE: lambda examples: self._named,
        }

    def arrays(self, signature: str) -> dict:
        return {name: tensor.numpy() for name, tensor in self.inputs[signature].items()}

    def serialized(self, signature: str) -> bytes:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        for name, tensor in self.inputs[signature].items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy(), tensor.dtype))
        return request.SerializeToString()


def _warmup_inputs(version_dir: Path) -> dict:
    """The inputs of the largest warm-up request of each signature that is asked by Predict."""
    import tensorflow as tf

    from serving.warmup import read_warmup

    requests = [log.predict_log.request for log in read_warmup(version_dir) if log.HasField("predict_log")]
    return {request.model_spec.signature_name: {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            for request in sorted(requests, key=lambda request: request.ByteSize())}  # fmt: skip


class Profiled:
    """A version in a session of its own, as TensorFlow Serving loads it."""

    def __init__(self, version_dir: Path, config: "config_pb2.ConfigProto"):
        import tensorflow as tf

        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(version_dir))
        self._signatures = loaded.signature_def

    def runner(self, signature: str) -> Callable[[dict], list]:
        """Runs a signature on arrays by name."""
        inputs, fetches = self._tensors(signature)
        call = self._session.make_callable(fetches, list(inputs.values()))
        return lambda arrays: call(*(arrays[name] for name in inputs))

    def kinds(self, signature: str, arrays: dict) -> tuple[Counter, Counter]:
        """Microseconds (the median of some runs) and number of operations by kind."""
        import tensorflow as tf

        inputs, fetches = self._tensors(signature)
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        feed = {inputs[name]: array for name, array in arrays.items()}
        runs = []
        for _ in range(TRACED_RUNS):
            trace = tf.compat.v1.RunMetadata()
            self._session.run(fetches, feed, options=options, run_metadata=trace)
            microseconds, numbers = Counter(), Counter()
            for node in (node for device in trace.step_stats.dev_stats for node in device.node_stats):
                match = _KIND.search(node.timeline_label)
                if match and match[1] not in CONTAINERS:
                    microseconds[match[1]] += (node.op_end_rel_nanos - node.op_start_rel_nanos) / 1000
                    numbers[match[1]] += 1
            runs.append(microseconds)
        return Counter({kind: statistics.median(run[kind] for run in runs) for kind in numbers}), numbers

    def _tensors(self, signature: str) -> tuple[dict, list]:
        graph, definition = self._session.graph, self._signatures[signature]
        inputs, outputs = ({name: graph.get_tensor_by_name(info.name) for name, info in sorted(tensors.items())}
                           for tensors in (definition.inputs, definition.outputs))  # fmt: skip
        return inputs, list(outputs.values())


def _milliseconds(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Medians of calls that take turns, each warmed up before."""
    seconds = [[] for _ in calls]
    for number in range(WARM_UP_ROUNDS + rounds):
        for each, call in zip(seconds, calls, strict=True):
            began = time.perf_counter()
            call()
            if number >= WARM_UP_ROUNDS:
                each.append(time.perf_counter() - began)
    return [1000 * statistics.median(each) for each in seconds]


def _run(argv: Sequence[str]) -> None:
    arguments = _parse(argv)
    start_tensorflow()
    from serving.signatures import EXPLAIN_SIGNATURE
    from trainer.progress import print_table

    requests = Requests(arguments.model, arguments.candidates, [name for name in arguments.shared.split(",") if name])
    profiled = {name: Profiled(arguments.model, config) for name, config in _thread_settings().items()}
    whole, alone = [], []
    for signature in requests.inputs:
        rounds = max(1, arguments.rounds // 10) if signature == EXPLAIN_SIGNATURE else arguments.rounds
        size, parts, by_setting = _measured(signature, requests, profiled, rounds)
        whole.append((signature, f"{size:,}", *(f"{part:.3f}" for part in parts), f"{sum(parts):.3f}"))
        alone.append((signature, *(f"{milliseconds:.3f}" for milliseconds in by_setting)))
    print_table(f"a request of {arguments.candidates} candidates, milliseconds", whole,
                ("signature", "bytes", "from bytes", "run", "to bytes", "sum"))  # fmt: skip
    print_table("the run alone, milliseconds", alone, ("signature", *profiled))
    for signature in requests.inputs:
        _print_kinds(signature, *profiled[ONE_THREAD].kinds(signature, requests.arrays(signature)))


def _measured(signature: str, requests: Requests, profiled: dict[str, Profiled],
              rounds: int) -> tuple[int, list[float], list[float]]:
    """Bytes of a request; milliseconds from bytes, of a run, to bytes; milliseconds of a run by setting."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    sent, arrays = requests.serialized(signature), requests.arrays(signature)
    runs = {name: version.runner(signature) for name, version in profiled.items()}
    answer = runs["default"](arrays)
    parts = _milliseconds([
        lambda: [tf.make_ndarray(proto) for proto in predict_pb2.PredictRequest.FromString(sent).inputs.values()],
        lambda: runs["default"](arrays),
        lambda: [tf.make_tensor_proto(values).SerializeToString() for values in answer],
    ], rounds)  # fmt: skip
    return len(sent), parts, _milliseconds([lambda run=run: run(arrays) for run in runs.values()], rounds)


def _print_kinds(signature: str, microseconds: Counter, numbers: Counter) -> None:
    from trainer.progress import print_table

    total, shown = sum(microseconds.values()), dict(microseconds.most_common(KINDS))
    rows = [(kind, f"{numbers[kind]:.0f}", f"{time:.0f}", f"{time / total:.0%}") for kind, time in shown.items()]
    rest, number = total - sum(shown.values()), numbers.total() - sum(numbers[kind] for kind in shown)
    rows.append(("others", f"{number:.0f}", f"{rest:.0f}", f"{rest / total:.0%}"))
    print_table(f"{signature}: operations of one run, on one thread", rows, ("kind", "number", "microseconds", "share"))


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(_run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
