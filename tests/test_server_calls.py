"""Calls to the embedded server over gRPC: answers, and the status codes of TensorFlow Serving for mistakes and overload."""

import re
import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
import tiny_saved_models as tiny
from running_server import copy_in, refusal, running, served
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving.server.example_inference import CLASSIFY_METHOD, REGRESS_METHOD, serialized_examples
from serving.server.health import MAX_WATCHERS, NOT_SERVING, SERVICE_UNKNOWN, SERVING, HealthCheckRequest
from serving.server.model_server import OTHER_THREADS
from serving.server.servable import Servable
from serving.server.tensors import to_array

Code = grpc.StatusCode
INVALID, MISSING, PRECONDITION = Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION
MAX_BYTES = 4 * 2**20
SECONDS = 60


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("saved") / "version", bias=10.0)


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    base_path = tmp_path_factory.mktemp("calls")
    copy_in(saved, base_path, 3)
    with running(served(base_path), max_request_bytes=MAX_BYTES, max_concurrent_calls=4) as asked:
        yield asked


def answers(response):
    return {name: tf.make_ndarray(proto).tolist() for name, proto in response.outputs.items()}


def test_predict_answers_what_was_asked(server):
    response = server.prediction.Predict(tiny.predict_request((1.0, 2.5)), timeout=SECONDS)
    assert answers(response) == {"score": [11.0, 12.5], "name": [b"n1", b"n2.5"]}
    assert (response.model_spec.name, response.model_spec.version.value, response.model_spec.signature_name) == (
        "tiny",
        3,
        "predict",
    )


def test_numbers_lie_in_their_typed_fields_as_clients_in_other_languages_expect(server):
    proto = server.prediction.Predict(tiny.predict_request((1.0, 2.5)), timeout=SECONDS).outputs["score"]
    assert (list(proto.float_val), proto.tensor_content) == ([11.0, 12.5], b"")


def test_an_output_filter_is_heeded(server):
    request = tiny.predict_request()
    request.output_filter.append("score")
    assert list(server.prediction.Predict(request, timeout=SECONDS).outputs) == ["score"]


def test_no_rows_are_answered(server):
    assert answers(server.prediction.Predict(tiny.predict_request(()), timeout=SECONDS)) == {"score": [], "name": []}


def test_one_value_may_stand_for_many(server):
    request = tiny.predict_request((1.0, 1.0, 1.0))
    request.inputs["x"].ClearField("tensor_content")
    request.inputs["x"].float_val[:] = [1.0]
    assert answers(server.prediction.Predict(request, timeout=SECONDS))["score"] == [11.0, 11.0, 11.0]


def test_classify_answers_classes_with_scores(server):
    response = server.prediction.Classify(tiny.classify_request((0.5, 1.0)), timeout=SECONDS)
    found = [[(one.label, one.score) for one in row.classes] for row in response.result.classifications]
    assert found == [[("no", -10.5), ("yes", 10.5)], [("no", -11.0), ("yes", 11.0)]]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (3, "classify")


def test_regress_answers_values(server):
    response = server.prediction.Regress(tiny.regress_request((0.5, 1.0)), timeout=SECONDS)
    assert [one.value for one in response.result.regressions] == [10.5, 11.0]
    assert (response.model_spec.name, response.model_spec.signature_name) == ("tiny", "regress")


def test_a_context_is_part_of_every_example_and_an_example_overrides_it():
    request = tiny.classify_request(())
    request.input.example_list_with_context.context.CopyFrom(tiny.example(7.0))
    request.input.example_list_with_context.examples.extend([tf.train.Example(), tiny.example(1.0)])
    found = [
        tf.train.Example.FromString(row).features.feature["x"].float_list.value for row in serialized_examples(request.input)
    ]
    assert found == [[7.0], [1.0]]


REGRESS = ("tiny", "regress", REGRESS_METHOD)


def multi_request(*tasks, xs=(0.5,)):
    request = inference_pb2.MultiInferenceRequest()
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        tiny.fill_spec(task.model_spec, model, signature)
    request.input.example_list.examples.extend(map(tiny.example, xs))
    return request


def test_multi_inference_answers_every_task_in_order(server):
    request = multi_request(REGRESS, ("tiny", "classify", CLASSIFY_METHOD))
    first, second = server.prediction.MultiInference(request, timeout=SECONDS).results
    assert [one.value for one in first.regression_result.regressions] == [10.5]
    assert [one.label for one in second.classification_result.classifications[0].classes] == ["no", "yes"]
    assert (second.model_spec.version.value, second.model_spec.signature_name) == (3, "classify")


def test_multi_inference_refuses_signatures_that_read_different_tensors(tmp_path):
    copy_in(tiny.save(tmp_path / "saved", one_input=False), tmp_path, 1)
    with running(served(tmp_path)) as asked:
        request = multi_request(REGRESS, ("tiny", "classify", CLASSIFY_METHOD))
        assert refusal(asked.prediction.MultiInference, request) == (INVALID, "Input tensor must be the same for all Signatures.")
        assert asked.prediction.MultiInference(multi_request(REGRESS), timeout=SECONDS).results[0].HasField("regression_result")


def test_metadata_describes_the_signatures(server):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    response = server.prediction.GetModelMetadata(request, timeout=SECONDS)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert sorted(signatures.signature_def) == ["classify", "count", "join", "predict", "regress", "serving_default", "total"]
    assert {name: info.dtype for name, info in signatures.signature_def["predict"].inputs.items()} == {
        "x": types_pb2.DT_FLOAT, "name": types_pb2.DT_STRING}  # fmt: skip
    assert (response.model_spec.name, response.model_spec.version.value) == ("tiny", 3)


def test_a_status_request_may_name_a_version(server):
    [entry] = server.model.GetModelStatus(status_request(version=3), timeout=SECONDS).model_version_status
    assert (entry.version, entry.state, entry.status.error_code) == (3, get_model_status_pb2.ModelVersionStatus.AVAILABLE, 0)


def status_request(name="tiny", version=None, label=""):
    request = get_model_status_pb2.GetModelStatusRequest()
    tiny.fill_spec(request.model_spec, name, version=version, label=label)
    return request


# Mistakes. Each is followed by a good request, which is answered.


def _without(name):
    request = tiny.predict_request()
    del request.inputs[name]
    return request


def _with(name, values, dtype):
    request = tiny.predict_request()
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
    return request


def _filtered(*names):
    request = tiny.predict_request()
    request.output_filter.extend(names)
    return request


def _tensor(**changes):
    """A request whose `x` has another content, and as many bytes as it takes."""
    request = tiny.predict_request()
    for name, value in changes.items():
        if name == "shape":
            del request.inputs["x"].tensor_shape.dim[:]
            for size in value:
                request.inputs["x"].tensor_shape.dim.add(size=size)
        elif name == "unknown_rank":
            request.inputs["x"].tensor_shape.unknown_rank = value
        else:
            setattr(request.inputs["x"], name, value)
    return request


def _examples(*texts):
    request = predict_pb2.PredictRequest()
    tiny.fill_spec(request.model_spec, "tiny")
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(list(texts), tf.string))
    return request


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        (predict_pb2.PredictRequest, INVALID, "Missing ModelSpec"),
        (lambda: tiny.predict_request(model=""), INVALID, "ModelSpec has no name specified."),
        (lambda: tiny.predict_request(model="other"), MISSING, "Servable not found for request: Latest(other)"),
        (lambda: tiny.predict_request(model="other", version=2), MISSING, "Servable not found for request: Specific(other, 2)"),
        (lambda: tiny.predict_request(version=2), MISSING, "Servable not found for request: Specific(tiny, 2)"),
        (lambda: tiny.predict_request(label="stable"), INVALID, "Unrecognized servable version label: stable"),
        (lambda: tiny.predict_request(signature="rank"), PRECONDITION, 'Serving signature key "rank" not found.'),
        (lambda: _without("x"), INVALID, "expected {name,x}, received {name}. Sent extra: {}. Missing but required: {x}."),
        (lambda: _with("label", [1.0, 0.0], tf.float32), INVALID, "Sent extra: {label}. Missing but required: {}."),
        (lambda: _with("x", [1.0, 2.0], tf.float64), INVALID, "input x: expected dtype float32, received float64"),
        (lambda: _tensor(dtype=0), INVALID, "input x: expected dtype float32, received number 0"),
        (lambda: _tensor(dtype=9999), INVALID, "input x: expected dtype float32, received number 9999"),
        (lambda: _tensor(tensor_content=b"abc"), INVALID, "tensor parsing error: x: buffer size"),
        (lambda: _tensor(shape=[3]), INVALID, "tensor parsing error: x: cannot reshape"),
        (lambda: _tensor(shape=[-1]), INVALID, "tensor parsing error: x: a tensor needs a known shape, received [-1]"),
        (lambda: _tensor(unknown_rank=True), INVALID, "a tensor needs a known shape"),
        (lambda: _tensor(shape=[2**40]), INVALID, "counts as 4398046511104 bytes, more than the"),
        (lambda: _filtered("rank"), INVALID, "output tensor alias not found in signature: {rank}"),
        (lambda: _filtered("score", "score"), INVALID, "duplicate output tensor alias"),
        (lambda: _examples(b"garbage"), INVALID, "Could not parse example input"),
        (lambda: _examples(tf.train.Example().SerializeToString()), INVALID, "x (data type: float) is required but"),
    ],
)  # fmt: skip
def test_a_wrong_predict_request_gets_its_status(server, request_of, code, message):
    received, details = refusal(server.prediction.Predict, request_of())
    assert received == code
    assert message in details
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs


@pytest.mark.parametrize(
    ("call", "request_of", "code", "message"),
    [
        ("Classify", lambda: tiny.classify_request(signature="rank"), INVALID, "No signature was found with the name: rank"),
        ("Classify", lambda: tiny.classify_request(signature="predict"), INVALID, "Expected one input Tensor."),
        ("Classify", lambda: tiny.classify_request(signature="join"), PRECONDITION, "No classification inputs found"),
        ("Classify", lambda: tiny.classify_request(signature="regress"), PRECONDITION, "contain at least one of"),
        ("Classify", lambda: tiny.classify_request(()), INVALID, "Input is empty."),
        ("Classify", lambda: tiny.classify_request(model="other"), MISSING, "Latest(other)"),
        ("Classify", classification_pb2.ClassificationRequest, INVALID, "Missing ModelSpec"),
        ("Regress", lambda: tiny.regress_request(signature="classify"), INVALID, "Expected one output Tensor."),
        ("Regress", lambda: tiny.regress_request(signature="count"), PRECONDITION, "No regression inputs found"),
        ("Regress", lambda: tiny.regress_request(()), INVALID, "Input is empty."),
        ("MultiInference", inference_pb2.MultiInferenceRequest, INVALID, "must have at least one task"),
        ("MultiInference", lambda: multi_request(("tiny", "regress", "tensorflow/serving/predict")), Code.UNIMPLEMENTED,
         "Unsupported signature method_name: tensorflow/serving/predict"),
        ("MultiInference", lambda: multi_request(REGRESS, REGRESS), INVALID,
         "Duplicate evaluation of signature: regress"),
        ("MultiInference", lambda: multi_request(REGRESS, ("other", "classify", CLASSIFY_METHOD)), INVALID,
         "must access the same model name"),
        ("MultiInference", lambda: multi_request(REGRESS, xs=()), INVALID, "Input is empty."),
    ],
)  # fmt: skip
def test_wrong_requests_for_examples_get_their_status(server, call, request_of, code, message):
    received, details = refusal(getattr(server.prediction, call), request_of())
    assert received == code and message in details
    assert server.prediction.Regress(tiny.regress_request(), timeout=SECONDS).result.regressions


def metadata_request(fields, name="tiny"):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return request


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        (lambda: metadata_request([]), INVALID, "must specify at least one metadata_field"),
        (lambda: metadata_request(["signature"]), INVALID, "Metadata field signature is not supported"),
        (lambda: metadata_request(["signature_def"], "other"), MISSING, "Servable not found for request: Latest(other)"),
    ],
)
def test_a_wrong_metadata_request_gets_its_status(server, request_of, code, message):
    received, details = refusal(server.prediction.GetModelMetadata, request_of())
    assert received == code and message in details


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        (get_model_status_pb2.GetModelStatusRequest, INVALID, "Missing ModelSpec"),
        (lambda: status_request("other"), MISSING, "Could not find any versions of model other"),
        (lambda: status_request(version=99), MISSING, "Could not find version 99 of model tiny"),
        (lambda: status_request(label="stable"), INVALID, "Unrecognized servable version label: stable"),
    ],
)
def test_a_wrong_status_request_gets_its_status(server, request_of, code, message):
    received, details = refusal(server.model.GetModelStatus, request_of())
    assert received == code and message in details


def test_a_reload_without_a_list_of_models_is_refused(server):
    received, details = refusal(server.model.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())
    assert received == INVALID and "Only ModelConfigList is currently supported" in details


def test_bytes_that_are_no_request_harm_nobody(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert refusal(call, b"\xff" * 1000)[0] in (Code.INTERNAL, Code.UNKNOWN)
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs


def test_a_request_beyond_the_limit_of_size_is_refused(server):
    received, details = refusal(server.prediction.Predict, tiny.predict_request([1.0] * (MAX_BYTES // 4)))
    assert received == Code.RESOURCE_EXHAUSTED and f"vs. {MAX_BYTES}" in details
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs


@pytest.mark.parametrize(("letter", "sent_bytes"), [("y", 1), ("%", 3), ("\n", 3), ("\u00e9", 6), ("\ufffd", 9), ("\U0001f600", 12)])
def test_long_details_are_cut_so_that_they_arrive(server, letter, sent_bytes):
    received, details = refusal(server.prediction.Predict, _with(letter * 100_000, [1.0], tf.float32))
    before = details.index(letter)
    assert received == INVALID and details[before:] == letter * ((4000 - before) // sent_bytes)


def test_long_details_of_the_health_service_are_cut_too(server):
    with pytest.raises(grpc.RpcError, match="unknown service") as caught:
        server.health("\ufffd" * 100_000)
    assert caught.value.code() == Code.NOT_FOUND


def test_a_defect_of_the_server_is_internal_and_logged(server, monkeypatch, caplog):
    monkeypatch.setattr(Servable, "predict", lambda *_: 1 / 0)
    received, details = refusal(server.prediction.Predict, tiny.predict_request())
    assert (received, details) == (Code.INTERNAL, "the server failed (ZeroDivisionError); see its log")
    assert "Predict failed in the server itself" in caplog.text


def test_an_array_of_a_request_is_its_own():
    proto = tf.make_tensor_proto([1.0, 2.0], tf.float32)
    array = to_array("x", proto, MAX_BYTES)
    array[0] = 5.0
    np.testing.assert_array_equal(tf.make_ndarray(proto), [1.0, 2.0])


# Overload.


class Gate:
    """Holds inference calls until it is opened."""

    def __init__(self, monkeypatch):
        self.entered, self._open = threading.Semaphore(0), threading.Event()
        answer = Servable.predict

        def held(servable, request):
            self.entered.release()
            assert self._open.wait(SECONDS)
            return answer(servable, request)

        monkeypatch.setattr(Servable, "predict", held)

    def wait_for(self, calls):
        for _ in range(calls):
            assert self.entered.acquire(timeout=SECONDS)

    def open(self):
        self._open.set()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


def test_calls_beyond_the_limit_are_refused_and_the_others_answered(server, gate):
    held = [server.prediction.Predict.future(tiny.predict_request(), timeout=SECONDS) for _ in range(4)]
    gate.wait_for(4)
    received, details = refusal(server.prediction.Predict, tiny.predict_request())
    assert received == Code.RESOURCE_EXHAUSTED and "4 calls are under way; try again later" in details
    assert server.health() == SERVING and server.get("/v1/models/tiny")[0] == 200
    assert server.post("/v1/models/tiny:predict", {"signature_name": "count", "instances": [1]})[0] == 503
    gate.open()
    assert all(call.result().outputs for call in held)
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs
    assert 'dgenctr_serving_refused_total{API="Predict"}' in server.get("/monitoring/prometheus/metrics")[1]


def test_a_thousand_calls_at_once_are_answered_or_refused(server):
    calls = [server.prediction.Predict.future(tiny.predict_request(), timeout=SECONDS) for _ in range(1000)]
    codes = {call.code() for call in calls}
    assert Code.OK in codes and codes <= {Code.OK, Code.RESOURCE_EXHAUSTED}
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs


# Health.


@pytest.mark.parametrize("service", ["", "tensorflow.serving.PredictionService", "tiny"])
def test_health_is_serving(server, service):
    assert server.health(service) == SERVING


def test_a_model_without_a_version_is_not_serving(saved, tmp_path):
    version = copy_in(saved, tmp_path, 1)
    with running(served(tmp_path)) as asked:
        watch = asked.watch(HealthCheckRequest(service="tiny"), timeout=SECONDS)
        assert next(watch).status == SERVING
        shutil.rmtree(version)
        asked.models.poll()
        assert (asked.health("tiny"), asked.health()) == (NOT_SERVING, SERVING)
        assert next(watch).status == NOT_SERVING


def test_the_health_of_another_service_is_unknown(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.health("other")
    assert caught.value.code() == MISSING
    watch = server.watch(HealthCheckRequest(service="other"), timeout=SECONDS)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


def test_watchers_learn_of_the_stop_and_are_limited(saved, tmp_path):
    copy_in(saved, tmp_path, 1)
    with running(served(tmp_path)) as asked:
        watches = [asked.watch(HealthCheckRequest(), timeout=SECONDS) for _ in range(MAX_WATCHERS)]
        assert [next(watch).status for watch in watches] == [SERVING] * MAX_WATCHERS
        with pytest.raises(grpc.RpcError) as caught:
            next(asked.watch(HealthCheckRequest(), timeout=SECONDS))
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
        asked.server.announce_stop()
        assert [next(watch).status for watch in watches] == [NOT_SERVING] * MAX_WATCHERS
        assert asked.health() == NOT_SERVING
        assert asked.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs, "calls are answered until the stop"
        asked.server.stop(SECONDS)
        assert list(watches[0]) == []


def test_watchers_leave_threads_to_others():
    assert MAX_WATCHERS < OTHER_THREADS


# Stop.


def test_a_stop_answers_what_is_in_progress_and_refuses_the_rest(saved, tmp_path, monkeypatch):
    copy_in(saved, tmp_path, 1)
    with running(served(tmp_path)) as asked:
        gate, by_rest = Gate(monkeypatch), {}
        body = {"signature_name": "predict", "instances": [{"x": 1, "name": "a"}]}
        thread = threading.Thread(target=lambda: by_rest.update(answer=asked.post("/v1/models/tiny:predict", body)))
        stop = threading.Thread(target=asked.server.stop, args=(SECONDS,))
        try:
            thread.start()
            call = asked.prediction.Predict.future(tiny.predict_request(), timeout=SECONDS)
            gate.wait_for(2)
            stop.start()
            while refusal(asked.prediction.Predict, tiny.predict_request(), timeout=0.5)[0] != Code.UNAVAILABLE:
                pass  # the stop has not begun yet, and the gate held the call until its deadline
        finally:
            gate.open()
        assert call.result().model_spec.version.value == 1
        stop.join(SECONDS)
        thread.join(SECONDS)
        assert by_rest["answer"][0] == 200 and not stop.is_alive()


def test_a_stop_gives_a_look_under_way_no_more_than_its_seconds(saved, tmp_path):
    copy_in(saved, tmp_path, 1)
    looking, end = threading.Event(), threading.Event()
    with running(served(tmp_path)) as asked:
        asked.server.every(0.01, lambda: (looking.set(), end.wait(SECONDS)), "looking")
        stop = threading.Thread(target=asked.server.stop, args=(0.2,))
        try:
            assert looking.wait(SECONDS)
            stop.start()
            stop.join(SECONDS / 4)
            assert not stop.is_alive() and not end.is_set()
        finally:
            end.set()


def test_a_stop_gives_a_call_under_way_no_more_than_its_seconds(saved, tmp_path, monkeypatch):
    copy_in(saved, tmp_path, 1)
    with running(served(tmp_path)) as asked:
        gate = Gate(monkeypatch)
        call = asked.prediction.Predict.future(tiny.predict_request(), timeout=SECONDS)
        try:
            gate.wait_for(1)
            asked.server.stop(0.2)
        finally:
            gate.open()
        assert call.code() in (Code.CANCELLED, Code.UNAVAILABLE)


# Metrics.


def test_requests_are_counted_by_model_and_status(server):
    def count(status, model="tiny"):
        text = server.get("/monitoring/prometheus/metrics")[1]
        found = re.search(
            rf'^:tensorflow:serving:request_count{{model_name="{model}",status="{status}"}} (\d+)$', text, re.MULTILINE
        )
        return int(found[1]) if found else 0

    before = count("OK"), count("INVALID_ARGUMENT"), count("NOT_FOUND", "")
    server.prediction.Predict(tiny.predict_request(), timeout=SECONDS)
    refusal(server.prediction.Predict, _without("x"))
    refusal(server.prediction.Predict, tiny.predict_request(model="invented"))
    assert (count("OK"), count("INVALID_ARGUMENT"), count("NOT_FOUND", "")) == tuple(number + 1 for number in before)
    text = server.get("/monitoring/prometheus/metrics")[1]
    assert "invented" not in text
    assert 'request_latency_count{model_name="tiny",API="Predict",entrypoint="GRPC",status="OK"}' in text
    assert (
        'dgenctr_serving_live_version{model_name="tiny"} 3' in text
        and 'dgenctr_serving_load_seconds_count{model_name="tiny"} 1' in text
    )


# Anything.


def test_mutilated_requests_get_a_status_and_harm_nobody(server):
    random = np.random.default_rng(0)
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    whole = tiny.predict_request().SerializeToString(deterministic=True)
    codes = set()
    for _ in range(300):
        spoilt = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(len(spoilt), size=random.integers(1, 4))
        spoilt[places] = random.integers(256, size=len(places))
        future = call.future(spoilt[: random.integers(1, len(spoilt) + 1)].tobytes(), timeout=SECONDS)
        codes.add(future.code())
    assert codes <= {Code.OK, INVALID, MISSING, PRECONDITION, Code.INTERNAL, Code.UNKNOWN}
    assert INVALID in codes and server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs


def test_tensors_of_any_shape_get_a_status_and_harm_nobody(server):
    random = np.random.default_rng(0)
    inputs = {"join": ("words", tf.string), "serving_default": ("examples", tf.string), "total": ("x", tf.float32)}
    for signature in random.choice(list(inputs), size=100):
        name, dtype = inputs[signature]
        shape = random.integers(0, 4, size=random.integers(0, 6)).tolist()
        values = np.full(shape, b"\xff" if dtype == tf.string else -1, dtype.as_numpy_dtype)
        request = predict_pb2.PredictRequest()
        tiny.fill_spec(request.model_spec, "tiny", signature)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype, shape=shape))
        code = server.prediction.Predict.future(request, timeout=SECONDS).code()
        assert code in (Code.OK, INVALID, Code.OUT_OF_RANGE)  # of `join`, the operation that fails first says which
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs
