"""Small SavedModels made by hand, of any signatures: what the server's tests serve."""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2, regression_pb2

from serving.signature_defs import finish_signature_defs
from serving.warmup import WARMUP_FILE


class Scorer(tf.Module):
    """score = bias + x; the named texts and lists come back, so that a test sees what arrived."""

    def __init__(self, bias: float):
        super().__init__()
        self.bias = tf.Variable(bias)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.string, "name")])
    def score(self, x, name):
        return {"score": self.bias + x, "name": name}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "words")])
    def join(self, words):
        return {"joined": tf.strings.reduce_join(words, axis=1, separator="+"), "text_bytes": words[:, 0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def parsed(self, examples):
        return self.bias + tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        scores = self.parsed(inputs)
        classes = tf.tile(tf.constant([["no", "yes"]]), [tf.size(scores), 1])
        return {"classes": classes, "scores": tf.stack([-scores, scores], axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self.parsed(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(self, x):
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "n")])
    def count(self, n):
        return {"double": 2 * n}


def save(folder: Path, bias: float = 0.0, *, warm: bool = True, one_input: bool = True) -> Path:
    """Writes a version; `serving_default` takes examples, each other signature has its method's name.

    `one_input`: classify and regress read one tensor of the graph, as those of exports do.
    """
    model = Scorer(bias)
    default = tf.function(lambda examples: {"score": model.parsed(examples)})
    signatures = {
        "serving_default": default.get_concrete_function(tf.TensorSpec([None], tf.string, "examples")),
        "predict": model.score, "join": model.join, "classify": model.classify, "regress": model.regress, "total": model.total,
        "count": model.count,
    }  # fmt: skip
    tf.saved_model.save(model, str(folder), signatures=signatures)
    if one_input:
        finish_signature_defs(folder)
    if warm:
        write_warmup(
            folder, prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=predict_request()))
        )
    return folder


def write_warmup(folder: Path, *records: prediction_log_pb2.PredictionLog) -> None:
    (folder / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for record in records:
            writer.write(record.SerializeToString())


def example(x: float) -> tf.train.Example:
    return tf.train.Example(features=tf.train.Features(feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=[x]))}))


def predict_request(xs=(1.0, 2.0), model: str = "tiny", signature: str = "predict", **spec) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    fill_spec(request.model_spec, model, signature, **spec)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(list(xs), tf.float32, shape=[len(xs)]))
    request.inputs["name"].CopyFrom(tf.make_tensor_proto([f"n{x:g}" for x in xs], tf.string, shape=[len(xs)]))
    return request


def classify_request(
    xs=(1.0, 2.0), model: str = "tiny", signature: str = "classify", **spec
) -> classification_pb2.ClassificationRequest:
    request = classification_pb2.ClassificationRequest()
    fill_spec(request.model_spec, model, signature, **spec)
    request.input.example_list.examples.extend(map(example, xs))
    return request


def regress_request(xs=(1.0, 2.0), model: str = "tiny", signature: str = "regress", **spec) -> regression_pb2.RegressionRequest:
    request = regression_pb2.RegressionRequest()
    fill_spec(request.model_spec, model, signature, **spec)
    request.input.example_list.examples.extend(map(example, xs))
    return request


def fill_spec(model_spec, model: str, signature: str = "", version: int | None = None, label: str = "") -> None:
    model_spec.name = model
    model_spec.signature_name = signature
    if version is not None:
        model_spec.version.value = version
    if label:
        model_spec.version_label = label
