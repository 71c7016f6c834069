"""Warm-up requests: what a server answers by itself before a version goes live.

They fill caches and, more important, prove that every signature works: without them TensorFlow Serving puts a version
with a missing variables folder or an unknown op on line and fails only when called.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2
from tensorflow_serving.apis.prediction_log_pb2 import ClassifyLog, PredictionLog, PredictLog, RegressLog

from serving.signature_defs import read_signature_defs
from serving.signatures import (
    CANDIDATE_COUNT_INPUT,
    CANDIDATES_SIGNATURE,
    CLASSIFY_SIGNATURE,
    DEFAULT_SIGNATURE,
    EXAMPLES_INPUT,
    EXPLAIN_SIGNATURE,
    NAMED_SIGNATURE,
    REGRESS_SIGNATURE,
    SHARED_FIELDS_INPUT,
    joinable,
    parse_raw_examples,
)

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TensorFlow Serving refuses to load a version with more.
BATCH_SIZES = (1, 10, 100)

Rows = Sequence[bytes]
Specs = Mapping[str, tf.TensorSpec]


def write_warmup(version_dir: Path, examples: Rows, specs: Specs) -> None:
    """Writes requests of 1, 10 and 100 real rows (as far as there are that many) for each signature that the SavedModel has.

    Args:
      version_dir: the SavedModel's folder.
      examples: serialized raw tf.Examples, at least one: a batch of no rows would hang a batching server.
      specs: the tensors of the signature with one a feature.

    Raises:
      ValueError: there are no rows, or the SavedModel has a signature of which it is not known what to ask.
    """
    if not examples:
        raise ValueError("warm-up needs at least one row")
    signatures = sorted(read_signature_defs(version_dir))
    unknown = set(signatures) - set(_REQUESTS)
    if unknown:
        raise ValueError(f"warm-up knows no requests for the signatures {sorted(unknown)}")
    (version_dir / WARMUP_FILE).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(version_dir / WARMUP_FILE)) as writer:
        for size in sorted({min(size, len(examples)) for size in BATCH_SIZES}):
            for signature in signatures:
                writer.write(_REQUESTS[signature](signature, examples[:size], specs).SerializeToString())


def _of_examples(signature: str, rows: Rows, specs: Specs) -> PredictionLog:
    return _predict_log(signature, {EXAMPLES_INPUT: tf.constant(list(rows))})


def _of_columns(signature: str, rows: Rows, specs: Specs) -> PredictionLog:
    return _predict_log(signature, _columns(rows, specs))


def _of_candidates(signature: str, rows: Rows, specs: Specs) -> PredictionLog:
    """Rows as the candidates of one request."""
    columns = {name: x[tf.newaxis] for name, x in _columns(rows, specs).items()}
    count, shared_fields = tf.constant([len(rows)], tf.int64), tf.constant([""])
    return _predict_log(signature, {**columns, CANDIDATE_COUNT_INPUT: count, SHARED_FIELDS_INPUT: shared_fields})


def _columns(rows: Rows, specs: Specs) -> dict[str, tf.Tensor]:
    return joinable(parse_raw_examples(tf.constant(list(rows)), specs))


def _predict_log(signature: str, inputs: Mapping[str, tf.Tensor]) -> PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy(), tensor.dtype))
    return PredictionLog(predict_log=PredictLog(request=request))


def _of_classify(signature: str, rows: Rows, specs: Specs) -> PredictionLog:
    request = _with_rows(classification_pb2.ClassificationRequest(), signature, rows)
    return PredictionLog(classify_log=ClassifyLog(request=request))


def _of_regress(signature: str, rows: Rows, specs: Specs) -> PredictionLog:
    request = _with_rows(regression_pb2.RegressionRequest(), signature, rows)
    return PredictionLog(regress_log=RegressLog(request=request))


def _with_rows(request, signature: str, rows: Rows):
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(map(tf.train.Example.FromString, rows))
    return request


_REQUESTS: Mapping[str, Callable[[str, Rows, Specs], PredictionLog]] = {
    DEFAULT_SIGNATURE: _of_examples,
    NAMED_SIGNATURE: _of_columns,
    EXPLAIN_SIGNATURE: _of_columns,
    CANDIDATES_SIGNATURE: _of_candidates,
    CLASSIFY_SIGNATURE: _of_classify,
    REGRESS_SIGNATURE: _of_regress,
}


def read_warmup(version_dir: Path) -> Iterator[PredictionLog]:
    """Yields the warm-up requests of a version; none where it has no such file.

    Raises:
      ValueError: the file is not an uncompressed TFRecord of at most 1000 PredictionLogs.
    """
    path = version_dir / WARMUP_FILE
    if not path.is_file():
        return
    try:
        for count, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1):
            if count > MAX_RECORDS:
                raise ValueError(f"{path} holds more than {MAX_RECORDS} warm-up records")
            yield PredictionLog.FromString(record)
    except (tf.errors.DataLossError, DecodeError) as error:
        raise ValueError(f"{path} is not an uncompressed TFRecord of PredictionLog: {error}") from error
