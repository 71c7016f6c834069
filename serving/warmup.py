"""Warm-up requests: what a server answers by itself before a version goes live.

They fill caches and, more important, prove that every signature works: without them TensorFlow Serving puts a version
with a missing variables folder or an unknown op on line and fails only when called.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.signatures import DEFAULT_SIGNATURE, EXAMPLES_INPUT, NAMED_SIGNATURE, parse_raw_examples

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TensorFlow Serving refuses to load a version with more.
BATCH_SIZES = (1, 10, 100)


def _predict_log(signature: str, inputs: Mapping[str, tf.Tensor]) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy(), tensor.dtype))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def write_warmup(version_dir: Path, examples: Sequence[bytes], specs: Mapping[str, tf.TensorSpec]) -> None:
    """Writes requests of 1, 10 and 100 real rows (as far as there are that many) for each signature.

    Args:
      version_dir: the SavedModel's folder.
      examples: serialized raw tf.Examples, at least one: a batch of no rows would hang a batching server.
      specs: the tensors of the signature with one a feature.
    """
    if not examples:
        raise ValueError("warm-up needs at least one row")
    (version_dir / WARMUP_FILE).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(version_dir / WARMUP_FILE)) as writer:
        for size in sorted({min(size, len(examples)) for size in BATCH_SIZES}):
            batch = tf.constant(list(examples[:size]))
            writer.write(_predict_log(DEFAULT_SIGNATURE, {EXAMPLES_INPUT: batch}).SerializeToString())
            writer.write(_predict_log(NAMED_SIGNATURE, parse_raw_examples(batch, specs)).SerializeToString())


def read_warmup(version_dir: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
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
            yield prediction_log_pb2.PredictionLog.FromString(record)
    except (tf.errors.DataLossError, DecodeError) as error:
        raise ValueError(f"{path} is not an uncompressed TFRecord of PredictionLog: {error}") from error
