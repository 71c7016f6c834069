"""The signatures of an export: their tensors, what they answer to rows worked out by hand, and what they refuse."""

import numpy as np
import pytest
import served_kinds
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import parse_schema
from serving.export import served_model, verify
from serving.export.candidate_rows import NO_LOGIT
from serving.export.explain import can_explain
from serving.export.served_model import save_served_model
from serving.signature_defs import read_signature_defs
from serving.signatures import joinable, parse_raw_examples, raw_specs
from serving.warmup import MAX_RECORDS, WARMUP_FILE, read_warmup, write_warmup
from trainer.config import load_config
from trainer.metrics import Calibration
from trainer.models import build_model

FIELDS = ["user", "price", "item", "device", "history", "tags", "image"]
TOKENS = ["user", "price", "item", "device", "history", "tags"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("signatures") / "data"
    return data_dir, served_kinds.write_data_folder(data_dir)


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    data_dir, schema = data
    folder = tmp_path_factory.mktemp("saved") / "1"
    save_served_model(served_kinds.SumOfIds(schema), data_dir, folder)
    return folder


@pytest.fixture(scope="module")
def signatures(saved):
    return tf.saved_model.load(str(saved)).signatures


# ids        user       price       item        device       history           tags
# row 0      ann 2      0.5 2       i1 2        missing 0    i2 i3 3 + 4       x 2
# row 1      eve 1      20 4        i3 4        missing 0    -                 y ? x: two are kept, 3 + 1
# row 2      all missing: 0
COLUMNS = {
    "user": ["ann", "eve", None],
    "price": [0.5, 20.0, None],
    "item": ["i1", "i3", None],
    "device": [None, "", None],
    "history": [["i2", "i3"], [], None],
    "tags": [["x"], ["y", "?", "x"], None],
    "image": [[1.0, 2.0], None, None],
}
SUMS = np.array([[2, 2, 2, 0, 7, 2], [1, 4, 4, 0, 0, 4], [0, 0, 0, 0, 0, 0]], np.float32)
LOGITS = SUMS.sum(axis=1) / 100


def probability(logits):
    return 1 / (1 + np.exp(-np.asarray(logits)))


@pytest.fixture(scope="module")
def examples():
    return tf.constant(served_kinds.raw_examples(COLUMNS))


@pytest.fixture(scope="module")
def named(data, examples):
    return parse_raw_examples(examples, raw_specs(data[1]))


def test_every_tensor_has_the_batch_first(saved):
    definitions = read_signature_defs(saved)
    described = {
        name: ({key: len(info.tensor_shape.dim) for key, info in sorted(definition.inputs.items())}, sorted(definition.outputs))
        for name, definition in definitions.items()
    }
    one_by_one = {"user": 1, "price": 1, "item": 1, "device": 1, "history": 2, "tags": 2, "image": 2}
    several = {name: rank + 1 for name, rank in one_by_one.items()}
    assert described == {
        "serving_default": ({"examples": 1}, ["logit", "probability"]),
        "predict": (one_by_one, ["logit", "probability"]),
        "classify": ({"inputs": 1}, ["classes", "scores"]),
        "regress": ({"inputs": 1}, ["outputs"]),
        "candidates": ({**several, "candidate_count": 1, "shared_fields": 1}, ["logit", "probability"]),
        "explain": (one_by_one, ["contribution", "field", "logit", "probability"]),
    }
    tensors = [info for one in definitions.values() for info in (*one.inputs.values(), *one.outputs.values())]
    assert {info.tensor_shape.dim[0].size for info in tensors} == {-1}


def test_rows_are_answered_by_name_and_as_examples(signatures, examples, named):
    for outputs in (signatures["serving_default"](examples=examples), signatures["predict"](**named)):
        np.testing.assert_allclose(outputs["logit"], LOGITS, rtol=1e-6)
        np.testing.assert_allclose(outputs["probability"], probability(LOGITS), rtol=1e-6)


def test_a_feature_of_no_kind_is_missing(signatures):
    example = tf.train.Example()
    for name in FIELDS:
        example.features.feature[name].SetInParent()
    outputs = signatures["serving_default"](examples=tf.constant([example.SerializeToString()]))
    assert outputs["logit"].numpy().tolist() == [0]


def test_features_that_are_no_fields_are_not_read(signatures, examples):
    more = tf.train.Example.FromString(examples[0].numpy())
    more.features.feature["click"].int64_list.value.append(1)
    outputs = signatures["serving_default"](examples=tf.constant([more.SerializeToString()]))
    np.testing.assert_allclose(outputs["logit"], LOGITS[:1], rtol=1e-6)


def test_classes_and_values(signatures, examples):
    classified = signatures["classify"](inputs=examples)
    assert classified["classes"].numpy().tolist() == [[b"0", b"1"]] * 3
    clicks = probability(LOGITS)
    np.testing.assert_allclose(classified["scores"], np.stack([1 - clicks, clicks], axis=1), rtol=1e-6)
    np.testing.assert_allclose(signatures["regress"](inputs=examples)["outputs"], clicks, rtol=1e-6)


def test_a_server_may_ask_for_classes_and_values_at_once(saved, examples):
    """As TensorFlow Serving's MultiInference does: one tensor for both, in one run of the graph."""
    definitions = read_signature_defs(saved)
    classify, regress = definitions["classify"], definitions["regress"]
    assert (classify.method_name, regress.method_name) == ("tensorflow/serving/classify", "tensorflow/serving/regress")
    assert classify.inputs["inputs"].name == regress.inputs["inputs"].name
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(saved))
        scores, outputs = session.run([classify.outputs["scores"].name, regress.outputs["outputs"].name],
                                      {classify.inputs["inputs"].name: examples.numpy()})  # fmt: skip
    np.testing.assert_allclose(outputs, probability(LOGITS), rtol=1e-6)
    np.testing.assert_allclose(scores[:, 1], outputs, rtol=1e-6)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_keeps_its_dimension(signatures, examples, named, rows):
    few = {name: x[:rows] for name, x in named.items()}
    outputs = {
        **signatures["predict"](**few),
        **signatures["classify"](inputs=examples[:rows]),
        **signatures["regress"](inputs=examples[:rows]),
        **{f"explained {name}": x for name, x in signatures["explain"](**few).items()},
    }  # fmt: skip
    assert {name: x.shape.as_list() for name, x in outputs.items()} == {
        "logit": [rows], "probability": [rows], "outputs": [rows], "classes": [rows, 2], "scores": [rows, 2],
        "explained logit": [rows], "explained probability": [rows],
        "explained field": [rows, 6], "explained contribution": [rows, 6],
    }  # fmt: skip


def test_lists_may_be_filled_up_anywhere(signatures, named):
    for lists in ([["", "i2", "", "i3"], [""] * 4, [""] * 4], [["i2", "i3", "", ""], [""] * 4, [""] * 4]):
        outputs = signatures["predict"](**{**named, "history": tf.constant(lists)})
        np.testing.assert_allclose(outputs["logit"], LOGITS, rtol=1e-6)


def test_joinable_lists_survive_a_server_that_fills_up(signatures, named):
    """TensorFlow Serving fills up with the first element of a request's tensor."""
    request = joinable(named)
    first = request["history"][0, 0].numpy()
    assert first == b""
    longer = tf.pad(request["history"], [[0, 0], [0, 5]], constant_values=first)
    np.testing.assert_allclose(signatures["predict"](**{**request, "history": longer})["logit"], LOGITS, rtol=1e-6)


# Many candidates of one request.


def candidates(shared_fields, counts, **columns):
    """The tensors of `candidates`; columns not given are missing and shared."""
    requests = len(counts)
    absent = {
        "user": np.full([requests, 1], ""), "price": np.full([requests, 1], np.nan), "item": np.full([requests, 1], ""),
        "device": np.full([requests, 1], ""), "history": np.full([requests, 1, 0], ""), "tags": np.full([requests, 1, 0], ""),
        "image": np.full([requests, 1, 2], np.nan),
    }  # fmt: skip
    sent_once = ",".join(name for name in absent if name not in columns)
    dtypes = {"price": tf.float32, "image": tf.float32}
    named = {name: tf.constant(x, dtypes.get(name, tf.string)) for name, x in {**absent, **columns}.items()}
    return {**named, "candidate_count": tf.constant(counts, tf.int64),
            "shared_fields": tf.constant([f"{sent_once},{one}" for one in shared_fields], tf.string)}  # fmt: skip


def test_what_is_shared_is_sent_once(signatures):
    request = candidates(["user,history"], [3], user=[["ann"]], history=[[["i2", "i3"]]],
                         item=[["i1", "i3", "?"]], price=[[0.5, 2, np.nan]])  # fmt: skip
    outputs = signatures["candidates"](**request)
    logits = (2 + 7 + np.array([[2 + 2, 4 + 3, 1 + 0]])) / 100
    np.testing.assert_allclose(outputs["logit"], logits, rtol=1e-6)
    np.testing.assert_allclose(outputs["probability"], probability(logits), rtol=1e-6)


def test_any_field_may_be_shared_or_not(signatures):
    request = candidates(["item"], [2], item=[["i3"]], user=[["ann", "bob"]], tags=[[["x", ""], ["y", "x"]]],
                         history=[[["i1"], [""]]])  # fmt: skip
    expected = [[(4 + 2 + 2 + 2) / 100, (4 + 3 + 5 + 0) / 100]]
    np.testing.assert_allclose(signatures["candidates"](**request)["logit"], expected, rtol=1e-6)


def test_joined_requests_are_answered_each_by_itself(signatures):
    """What a server makes of three requests, of which one shares the user and one the item: columns filled up with the first."""
    request = candidates(["user", "item", ""], [3, 2, 1],
                         user=[["ann", "ann", "ann"], ["ann", "bob", "ann"], ["bob", "bob", "bob"]],
                         item=[["i1", "i2", "i3"], ["i3", "i3", "i3"], ["i2", "i2", "i2"]])  # fmt: skip
    outputs = signatures["candidates"](**request)
    expected = np.array([[2 + 2, 2 + 3, 2 + 4], [2 + 4, 3 + 4, 0], [3 + 3, 0, 0]]) / 100
    there = np.array([[True, True, True], [True, True, False], [True, False, False]])
    np.testing.assert_allclose(outputs["logit"], np.where(there, expected, NO_LOGIT), rtol=1e-6)
    np.testing.assert_allclose(outputs["probability"], np.where(there, probability(expected), 0), rtol=1e-6)


@pytest.mark.parametrize(("counts", "shape"), [([], [0, 0]), ([0], [1, 0]), ([0, 2], [2, 2])])
def test_requests_without_candidates(signatures, counts, shape):
    request = candidates([""] * len(counts), counts, item=np.full([len(counts), max([*counts, 0])], "i1"))
    assert signatures["candidates"](**request)["logit"].shape == shape


def test_rows_are_the_candidates_of_a_request_that_shares_nothing(signatures, named):
    request = {name: x[tf.newaxis] for name, x in named.items()}
    outputs = signatures["candidates"](**request, candidate_count=tf.constant([3], tf.int64), shared_fields=tf.constant([""]))
    np.testing.assert_allclose(outputs["logit"], LOGITS[np.newaxis], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_fields": ["user,click"]}, r"shared_fields names what is no field:\] \[click \] .* \[user price item"),
        ({"shared_fields": ["history,tags,image,device,price"]}, r"fields with fewer values than .*:\] \[user \]"),
        ({"candidate_count": [3], "price": [[0.5, 2, 20]]}, r"fields with fewer values than candidate_count .*:\] \[item \]"),
        ({"candidate_count": [-1]}, r"candidate_count must be from 0 to the number of values .* \[-1\]"),
        ({"candidate_count": [3]}, r"candidate_count must be from 0 to .* \[2\] .* \[3\]"),
        ({"candidate_count": [2**40], "shared_fields": [",".join(FIELDS)]}, r"candidate_count must be from 0 .* \[1099511627776"),
        ({"candidate_count": [2, 2]}, "the first dimension of every input must be the number of requests"),
        ({"shared_fields": ["", ""]}, "the first dimension of every input must be the number of requests"),
        ({"user": [["ann"], ["bob"]]}, "the first dimension of every input must be the number of requests"),
    ],
)
def test_wrong_candidates_are_refused(signatures, changes, message):
    request = candidates(["user"], [2], user=[["ann"]], item=[["i1", "i2"]])
    request |= {name: tf.constant(x, request[name].dtype) for name, x in changes.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["candidates"](**request)


# What a field contributes.


def test_a_contribution_is_what_masking_loses(signatures, named):
    outputs = signatures["explain"](**named)
    assert outputs["field"].numpy().tolist() == [[name.encode() for name in TOKENS]] * 3
    np.testing.assert_allclose(outputs["logit"], LOGITS, rtol=1e-6)
    np.testing.assert_allclose(outputs["probability"], probability(LOGITS), rtol=1e-6)
    np.testing.assert_allclose(outputs["contribution"], (SUMS - served_kinds.MASKED) / 100, atol=1e-6)


def test_only_a_model_that_knows_masks_is_explained(data):
    _, schema = data
    changed = served_kinds.SumOfIds(schema)
    assert can_explain(changed)
    changed.knows_masks = False
    assert not can_explain(changed)
    assert not can_explain(build_model(schema, load_config(None, ["model.kind=lr"])))


@pytest.mark.parametrize(
    ("settings", "at_start", "knows"),
    [
        ([], False, False),
        ([], True, True),
        (["finetune.feature_mask_rate=0.1"], False, True),
        (["finetune.auxiliary_diffusion=0.1"], False, True),
    ],
)
def test_masks_are_known_after_training_with_them(data, settings, at_start, knows):
    model = build_model(data[1], load_config(None, ["model.dcn.hidden_units=[4]", *settings]))
    model.masks_known_at_start = at_start
    assert model.knows_masks == knows


@pytest.mark.parametrize("mask_embedding", ["field", "shared", "zero"])
def test_masked_logits_are_calibrated_logits(data, mask_embedding):
    data_dir, schema = data
    features = served_kinds.training_features(data_dir, schema, COLUMNS)
    settings = ["model.dcn.hidden_units=[4]", "model.embedding_init=1", f"model.mask_embedding={mask_embedding}"]
    model = build_model(schema, load_config(None, settings))
    masked, none = tf.constant([[True, *[False] * 5]] * 3), tf.zeros([3, 6], tf.bool)
    loss = model.click_logits(features) - model.masked_click_logits(features, masked)
    model.calibration = Calibration(slope=2.0, intercept=1.0)
    np.testing.assert_allclose(model.masked_click_logits(features, none), model.click_logits(features), rtol=1e-5)
    calibrated_loss = model.click_logits(features) - model.masked_click_logits(features, masked)
    np.testing.assert_allclose(calibrated_loss, 2 * loss, rtol=1e-4, atol=1e-6)
    assert np.abs(loss).max() > 1e-3


def test_fields_that_the_model_ignores_are_sent_and_not_read(data, examples, named, tmp_path):
    data_dir, schema = data
    save_served_model(served_kinds.SumOfIds(schema.without(["price", "tags"])), data_dir, tmp_path / "1")
    answers = verify.answers(tmp_path / "1", examples.numpy())  # compares all signatures
    np.testing.assert_allclose(answers["predict/logit"], SUMS[:, [0, 2, 3, 4]].sum(axis=1) / 100, rtol=1e-6)
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert signatures["explain"](**named)["field"].numpy()[0].tolist() == [b"user", b"item", b"device", b"history"]
    request = candidates(["user"], [2], user=[["ann"]], item=[["i1", "i3"]], price=[[0.5, 20]], history=[[["i2"], ["i1"]]])
    np.testing.assert_allclose(signatures["candidates"](**request)["logit"], [[(2 + 2 + 3) / 100, (2 + 4 + 2) / 100]], rtol=1e-6)


# Warm-up and verification.


def test_warm_up_covers_every_signature_with_real_rows(data, saved, examples, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((saved / "saved_model.pb").read_bytes())
    rows = [*examples.numpy()] * 4
    write_warmup(tmp_path, rows, raw_specs(data[1]))
    sizes = {}
    for log in read_warmup(tmp_path):
        request = getattr(log, log.WhichOneof("log_type")).request
        name = request.model_spec.signature_name
        if name in ("classify", "regress"):
            assert log.WhichOneof("log_type") == f"{name}_log"
            size = len(request.input.example_list.examples)
        elif name == "candidates":
            [size] = tf.make_ndarray(request.inputs["candidate_count"]).tolist()
            assert request.inputs["user"].tensor_shape.dim[1].size == size
        else:
            [size] = {tensor.tensor_shape.dim[0].size for tensor in request.inputs.values()}
        sizes.setdefault(name, []).append(size)
    assert sizes == {name: [1, 10, 12] for name in ("candidates", "classify", "explain", "predict", "regress", "serving_default")}


def test_no_warm_up_tensor_is_without_elements(data, saved, examples, tmp_path):
    """A server that fills up refuses those."""
    (tmp_path / "saved_model.pb").write_bytes((saved / "saved_model.pb").read_bytes())
    write_warmup(tmp_path, [examples[2].numpy()], raw_specs(data[1]))
    logs = [log.predict_log.request.inputs for log in read_warmup(tmp_path) if log.HasField("predict_log")]
    assert len(logs) == 4
    assert all(tf.make_ndarray(tensor).size for inputs in logs for tensor in inputs.values())


def test_warm_up_needs_rows(saved):
    with pytest.raises(ValueError, match="warm-up needs at least one row"):
        write_warmup(saved, [], {})


def test_warm_up_of_an_unknown_signature_is_refused(tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path), signatures={"double": module.double})
    with pytest.raises(ValueError, match=r"warm-up knows no requests for the signatures \['double'\]"):
        write_warmup(tmp_path, [b""], {})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"garbage" * 10, "is not an uncompressed TFRecord"), (None, f"more than {MAX_RECORDS} warm-up records")],
)
def test_a_wrong_warm_up_file_is_refused(tmp_path, content, message):
    path = tmp_path / WARMUP_FILE
    path.parent.mkdir()
    if content is None:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(MAX_RECORDS + 1):
                writer.write(b"")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_warmup(tmp_path))


def test_verification_finds_a_signature_that_disagrees(data, examples, tmp_path, monkeypatch):
    data_dir, schema = data
    graph = served_model._ServedGraph
    monkeypatch.setattr(graph, "_regress", lambda self, examples: {"outputs": self._logits_of_examples(examples)})
    save_served_model(served_kinds.SumOfIds(schema), data_dir, tmp_path / "1")
    with pytest.raises(ValueError, match="regress answers other probabilities than predict .* expected at most 1e-05"):
        verify.answers(tmp_path / "1", examples.numpy())


@pytest.mark.parametrize("name", ["candidate_count", "shared_fields"])
def test_names_of_further_inputs_are_reserved(name):
    content = {"name": "tiny", "label": {"column": "click"}, "split": {"by": "hash", "key": ["a"]},
               "fields": [{"name": name, "kind": "categorical"}]}  # fmt: skip
    with pytest.raises(UserError, match=f"field name '{name}' is reserved .* choose another name and give `column: {name}`"):
        parse_schema(content, "the test")


def test_the_rows_by_hand_are_those_of_training(data):
    """The table of ids above, recomputed by preprocessing."""
    data_dir, schema = data
    features = served_kinds.training_features(data_dir, schema, COLUMNS)
    np.testing.assert_array_equal(served_kinds.SumOfIds(schema)._sums(features), SUMS)
    assert [field.name for field in schema.fields] == FIELDS
    assert [field.name for field in schema.token_fields] == TOKENS
