"""All signatures of an export over the embedded server and its client, joined with other calls and filled up."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import served_kinds
import tensorflow as tf
from running_server import SECONDS, running, served
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from serving.client.predict_client import PredictClient
from serving.export.served_model import save_served_model
from serving.server.config import BatchingParameters

CALLS = 3
JOINED = BatchingParameters(  # a batch runs when it is full, and not before
    max_batch_size=CALLS, batch_timeout_micros=1_000_000 * SECONDS, num_batch_threads=1, pad_variable_length_inputs=True)
NOTHING = {"user": "", "price": np.nan, "item": "", "device": "", "history": [], "tags": [], "image": [np.nan, np.nan]}
ROWS = {"user": ["ann", "bob", None], "price": [0.5, 20.0, None], "item": ["i1", None, None], "device": [None] * 3,
        "history": [["i2", "i3"], None, None], "tags": [None] * 3, "image": [None] * 3}  # fmt: skip
LOGITS = np.array([2 + 2 + 2 + 7, 3 + 4, 0]) / 100


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Without warm-up requests, which would be too many rows for such small batches."""
    folder = tmp_path_factory.mktemp("joined")
    schema = served_kinds.write_data_folder(folder / "data")
    save_served_model(served_kinds.SumOfIds(schema), folder / "data", folder / "models" / "1")
    with running(served(folder / "models", "kinds"), JOINED) as asked:
        yield asked


@pytest.fixture(scope="module")
def client(server):
    with PredictClient(f"127.0.0.1:{server.server.port}", "kinds", deadline=SECONDS) as opened:
        yield opened


def at_once(call, arguments):
    with ThreadPoolExecutor(CALLS) as threads:
        return list(threads.map(lambda one: call(*one), arguments))


def test_callers_that_share_different_fields_share_a_batch(client):
    asked = [
        ({"user": "ann", "history": ["i2", "i3"]}, {"item": ["i1", "i3", "i2"]}),
        ({"item": "i3"}, {"user": ["ann", "bob"], "tags": [["x"], ["y", "x"]]}),
        ({"user": "bob", "history": ["i1"]}, {"item": ["i2"]}),
    ]
    whole = [({name: value for name, value in {**NOTHING, **shared}.items() if name not in own}, own) for shared, own in asked]
    answers = at_once(client.rank, whole)
    for answer, sums in zip(answers, ([11, 13, 12], [4 + 2 + 2, 4 + 3 + 5], [3 + 2 + 3]), strict=True):
        np.testing.assert_allclose(answer["logit"], np.array(sums) / 100, rtol=1e-6)


def test_rows_with_lists_of_different_length_share_a_batch(client):
    lists = [["i1"], [], ["i1", "", "i2", "i3"]]
    columns = [({name: [value] for name, value in {**NOTHING, "history": history}.items()},) for history in lists]
    answers = at_once(client.predict, columns)
    np.testing.assert_allclose([answer["logit"][0] for answer in answers], [0.02, 0, 0.09], rtol=1e-6)


def test_classes_and_values_alone_and_at_once(server):
    rows = [tf.train.Example.FromString(row) for row in served_kinds.raw_examples(ROWS)]
    clicks = 1 / (1 + np.exp(-LOGITS))

    def request_of(kind, **spec):
        request = kind()
        request.input.example_list.examples.extend(rows)
        for field, value in spec.items():
            setattr(request.model_spec, field, value)
        return request

    classify = request_of(classification_pb2.ClassificationRequest, name="kinds", signature_name="classify")
    classified = server.prediction.Classify(classify, timeout=SECONDS).result.classifications
    assert [[one.label for one in row.classes] for row in classified] == [["0", "1"]] * 3
    scores = [[one.score for one in row.classes] for row in classified]
    np.testing.assert_allclose(scores, np.stack([1 - clicks, clicks], axis=1), rtol=1e-6)
    regress = request_of(regression_pb2.RegressionRequest, name="kinds", signature_name="regress")
    values = server.prediction.Regress(regress, timeout=SECONDS).result.regressions
    np.testing.assert_allclose([one.value for one in values], clicks, rtol=1e-6)

    both = request_of(inference_pb2.MultiInferenceRequest)
    for name in ("classify", "regress"):
        task = both.tasks.add(method_name=f"tensorflow/serving/{name}")
        task.model_spec.name, task.model_spec.signature_name = "kinds", name
    first, second = server.prediction.MultiInference(both, timeout=SECONDS).results
    scores = [row.classes[1].score for row in first.classification_result.classifications]
    np.testing.assert_allclose(scores, clicks, rtol=1e-6)
    np.testing.assert_allclose([one.value for one in second.regression_result.regressions], clicks, rtol=1e-6)


def test_contributions_over_rest(server):
    row = {**NOTHING, "user": "bob", "price": 20.0, "history": ["", "i2"], "tags": [""], "image": [0.0, 0.0]}
    status, content = server.post("/v1/models/kinds:predict", {"signature_name": "explain", "instances": [row] * CALLS})
    assert status == 200, content
    for answer in content["predictions"]:
        assert answer["field"] == ["user", "price", "item", "device", "history", "tags"]
        np.testing.assert_allclose(answer["contribution"], (np.array([3, 4, 0, 0, 3, 0]) - served_kinds.MASKED) / 100, atol=1e-6)
        assert answer["logit"] == pytest.approx(0.10)
