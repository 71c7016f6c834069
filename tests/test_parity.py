"""An export answers as the trainer predicts: 10,000 rows with every oddity, in this process and in one elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import served_kinds
import tensorflow as tf

from serving.export.candidate_rows import NO_LOGIT
from serving.export.served_model import save_served_model
from serving.signatures import joinable, parse_raw_examples
from trainer.config import load_config
from trainer.models import build_model

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = 10_000
TOLERANCE = 1e-5
LARGEST = float(np.finfo(np.float32).max)
ODD_TEXTS = [None, "", "NULL", "-7", "-7.0", "ANN", " ann", "ann ", "m\u00fcnchen", "mu\u0308nchen", "\u65e5\u672c", "\U0001f600",
             "a,b", "two\nlines", "tab\there", "nul\0byte", "x" * 10_000, "-1", "0", "nan", "i1|i2"]  # fmt: skip
ODD_NUMBERS = [None, float("nan"), float("inf"), -float("inf"), LARGEST, -LARGEST, 1e-45, -0.0, 0.0, -7.0, 1.0, 10.0, 9.999999,
               1e9]  # fmt: skip


def odd_columns(rows: int) -> dict[str, list]:
    rng = np.random.default_rng(3)

    def texts(*usual):
        return lambda: usual[rng.integers(len(usual))] if rng.random() < 0.7 else ODD_TEXTS[rng.integers(len(ODD_TEXTS))]

    def some(text, most):
        """Lists of every length, some of one value repeated, most of them short."""
        def draw():
            length = int(rng.integers(most)) if rng.random() < 0.95 else 40
            values = [text() or "" for _ in range(length)]
            return None if rng.random() < 0.05 else values[:1] * length if rng.random() < 0.1 else values
        return draw

    numbers = [*np.float32(rng.lognormal(1, 2, 50)).tolist(), *ODD_NUMBERS]
    images = [None, [float("nan")] * 2, [float("inf"), 1.0], [0.0, LARGEST], [0.5, -2.0]]
    draws = {
        "user": texts(*served_kinds.VOCABULARY["user"]), "item": texts(*served_kinds.VOCABULARY["item"]),
        "device": texts("d1", "d2", "d3"), "price": lambda: numbers[rng.integers(len(numbers))],
        "history": some(texts("i1", "i2", "i3"), 6), "tags": some(texts("x", "y"), 5),
        "image": lambda: images[rng.integers(len(images))],
    }  # fmt: skip
    return {name: [draw() for _ in range(rows)] for name, draw in draws.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("parity") / "data"
    return data_dir, served_kinds.write_data_folder(data_dir)


@pytest.fixture(scope="module")
def model(data):
    """A network whose logits differ from row to row, with attention over the history and unknown values masked."""
    tf.keras.utils.set_random_seed(1)
    settings = ["model.dcn.hidden_units=[8]", "model.embedding_init=1", "model.embedding_dim=4", "model.unknown=mask",
                "finetune.feature_mask_rate=0.1"]  # fmt: skip
    return build_model(data[1], load_config(None, settings))


@pytest.fixture(scope="module")
def columns():
    return odd_columns(ROWS)


@pytest.fixture(scope="module")
def examples(columns):
    return served_kinds.raw_examples(columns)


@pytest.fixture(scope="module")
def features(data, columns):
    return served_kinds.training_features(*data, columns)


@pytest.fixture(scope="module")
def logits(model, features):
    found = model.click_logits(features).numpy()
    assert found.std() > 0.1 and len(np.unique(found)) > 1000
    return found


@pytest.fixture(scope="module")
def saved(data, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "1"
    save_served_model(model, data[0], folder)
    return folder


@pytest.fixture(scope="module")
def signatures(saved):
    return tf.saved_model.load(str(saved)).signatures


@pytest.fixture(scope="module")
def named(signatures, examples):
    return parse_raw_examples(tf.constant(examples), signatures["predict"].structured_input_signature[1])


def assert_equal(outputs, logits):
    """Probabilities within 1e-5, logits relative to max(1, |logit|)."""
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(outputs["probability"], probabilities, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_less(np.abs(outputs["logit"] - logits) / np.maximum(1, np.abs(logits)), TOLERANCE)


def test_ten_thousand_odd_rows_in_another_process_folder_and_locale(saved, examples, logits, tmp_path):
    """`serving.export.verify` compares the other signatures and lists that are filled up with `predict`, and fails if they differ."""
    with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord")) as writer:
        for row in examples:
            writer.write(row)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "LANGUAGE", "PYTHONUTF8")}
    done = subprocess.run(
        [sys.executable, "-m", "serving.export.verify", "--model", saved, "--examples", tmp_path / "rows.tfrecord",
         "--output", "answers.npz"],
        cwd=elsewhere, env={**environment, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(elsewhere / "answers.npz") as answers:
        for signature in ("serving_default", "predict"):
            assert_equal({name: answers[f"{signature}/{name}"] for name in ("probability", "logit")}, logits)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_batches_of_any_size(signatures, examples, named, logits, size):
    starts = range(0, ROWS, size) if size == 1000 else range(0, 20 * size, size)
    for start in starts:
        rows = slice(start, start + size)
        assert_equal(signatures["serving_default"](examples=tf.constant(examples[rows])), logits[rows])
        assert_equal(signatures["predict"](**{name: x[rows] for name, x in named.items()}), logits[rows])


def test_lists_of_different_length_share_a_batch(signatures, named, logits):
    """As a server joins two requests: the shorter lists filled up with the first element of their tensor."""
    short = np.flatnonzero((named["history"][:, 3].numpy() == b"") & (named["tags"][:, 3].numpy() == b""))[:50]
    of_short = {name: tf.gather(x, short) for name, x in named.items()}
    request = joinable({name: x[:, :3] if name in ("history", "tags") else x for name, x in of_short.items()})
    wide = named["history"].shape[1] + 1
    joined = {
        name: tf.concat([_filled_up(request[name], wide) if name in ("history", "tags") else request[name], x[:50]], axis=0)
        for name, x in joinable(named).items()
    }
    assert_equal(signatures["predict"](**joined), np.concatenate([logits[short], logits[:50]]))


def _filled_up(x, length):
    return tf.pad(x, [[0, 0], [0, length - x.shape[1]]], constant_values=x[0, 0])


def test_candidates_that_share_a_user_and_its_history(signatures, named):
    """The answers to whole rows, although what the rows have in common was sent once."""
    counts, shared = [100, 7], ("user", "history", "price", "image")
    places = np.stack([np.arange(100), np.arange(100) + 100])  # the candidates of each request, with what fills up behind them
    sent = {name: tf.gather(x, places[:, :1] if name in shared else places) for name, x in named.items()}
    outputs = signatures["candidates"](
        **sent, candidate_count=tf.constant(counts, tf.int64), shared_fields=tf.constant([",".join(shared)] * 2)
    )
    for request, count in enumerate(counts):
        own, common = places[request, :count], np.repeat(places[request, :1], count)
        rows = {name: tf.gather(x, common if name in shared else own) for name, x in named.items()}
        whole = signatures["predict"](**rows)["logit"].numpy()
        assert_equal({name: outputs[name][request, :count].numpy() for name in ("probability", "logit")}, whole)
        assert np.all(outputs["logit"][request, count:] == NO_LOGIT)


def test_contributions_are_those_of_the_trained_model(signatures, model, named, features):
    rows = 20
    few = {name: x[:rows] for name, x in features.items()}
    outputs = signatures["explain"](**{name: x[:rows] for name, x in named.items()})
    tokens = [field.name for field in model.schema.token_fields]
    assert outputs["field"].numpy().tolist() == [[name.encode() for name in tokens]] * rows
    clean = model.click_logits(few)
    masks = [tf.constant([[name == masked for name in tokens]] * rows) for masked in tokens]
    expected = [clean - model.masked_click_logits(few, mask) for mask in masks]
    np.testing.assert_allclose(outputs["contribution"], np.stack(expected, axis=1), atol=1e-5)
    assert np.abs(outputs["contribution"]).max() > 0.1
    unknown = features["ids"][:rows, 0].numpy() == 1  # masked anyway, so masking it changes nothing
    assert unknown.any() and np.abs(outputs["contribution"].numpy()[unknown, 0]).max() < 1e-6
