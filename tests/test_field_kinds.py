"""Training on a data folder with everything that a schema can ask for: lists, vectors, shared and hashed vocabularies,
weights, keys, time stamps, and rows without label."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_folders import UNLABELLED, schema_of, write_folder, write_folder_of_all_kinds

from preprocessing.schema import SPLITS
from trainer import task
from trainer.batch import decoded_row_bytes
from trainer.checkpoints import StageCheckpoints, load_trained, schema_differences
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.input import EvaluationSplit
from trainer.memory import predict
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer
from trainer.prediction import Predictor

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ["model.embedding_dim=4", "model.dcn.hidden_units=[16]", "pretrain.epochs=2", "pretrain.batch_size=64",
            "finetune.epochs=2", "finetune.batch_size=64", "finetune.learning_rate=0.01", "pretrain.learning_rate=0.01"]


def call(stage, data, model, *flags):
    return task.main([f"--stage={stage}", "--data_dir", str(data), "--model_dir", str(model), *flags])


def settings(*more):
    return [part for assignment in (*SETTINGS, *more) for part in ("--set", assignment)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder_of_all_kinds(tmp_path_factory.mktemp("data") / "kinds")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A model folder after all three stages, and what each printed."""
    model, printed = tmp_path_factory.mktemp("model") / "run", {}
    for stage, flags in (("pretrain", settings()), ("finetune", settings()), ("evaluate", [])):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert call(stage, data, model, *flags) == 0
        printed[stage] = output.getvalue()
    return model, printed


@pytest.fixture(scope="module")
def trained(run):
    return run[0]


# What a run says and counts.


@pytest.mark.parametrize(("stage", "use", "steps"), [
    ("pretrain", "are read with the label masked", "640 rows has 20 steps"), ("finetune", "are left out", "480 rows has 15 steps")])
def test_a_run_says_what_it_leaves_unread_and_unlabelled(run, stage, use, steps):
    printed = run[1][stage]
    assert printed.count(f"{stage}: fields image are left unread: models read no fields with a vector a row") == 1
    assert printed.count(f"{stage}: 160 of 640 training rows have no label and {use}") == 1
    assert f"so that an epoch of {steps}" in printed


def test_stages_take_the_steps_of_their_rows(trained):
    steps = {stage: StageCheckpoints(trained, stage).history()[-1]["step"] for stage in ("pretrain", "finetune")}
    assert steps == {"pretrain": 2 * 640 // 32, "finetune": 2 * (480 // 32)}


def test_the_report_is_of_the_labelled_rows_and_says_that_it_is_weighted(data, trained):
    metrics = json.loads((trained / "report" / "metrics.json").read_text())
    rows = next(EvaluationSplit(DataFolder.open(data), "test", 1000).batches())
    labels, weights = rows["label"].numpy(), rows["weight"].numpy()
    assert (metrics["weighted_by"], metrics["rows"], metrics["positives"]) == ("importance", 240, labels.sum())
    assert metrics["click_rate"] == pytest.approx(np.average(labels, weights=weights)) != pytest.approx(labels.mean())
    report = (trained / "report" / "REPORT.md").read_text()
    assert "a row counts as often as its `importance` says: scikit-learn's `sample_weight`" in report
    assert f"Of 240 rows, {int(labels.sum())} " in report and "| train | 640 | 480 |" in report and "(field_losses.png)" in report


def test_a_model_of_shared_rows_predicts_the_same_in_a_new_process(data, trained):
    here = Predictor(load_trained(trained), DataFolder.open(data)).predict("test").logits
    script = ("import sys, trainer; import numpy as np; from trainer.prediction import Predictor; from trainer.checkpoints import load_trained;"
              "from trainer.data_folder import DataFolder; np.save(sys.argv[3], Predictor(load_trained(sys.argv[1]),"
              "DataFolder.open(sys.argv[2])).predict('test').logits)")
    output = trained / "logits.npy"
    subprocess.run([sys.executable, "-c", script, str(trained), str(data), str(output)], cwd=ROOT, check=True, timeout=300,
                   capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    np.testing.assert_allclose(np.load(output), here, atol=1e-6)


def test_a_folder_without_labels_can_be_pretrained_on_only(tmp_path, capsys):
    ids, labels = np.full((64, 1), 2), np.arange(64) % 2
    splits = {split: (ids, np.full(64, UNLABELLED) if split == "train" else labels) for split in SPLITS}
    data = write_folder(tmp_path / "data", {"user": ["a", "b"]}, splits)
    assert DataFolder.open(data).click_rate == 0.5
    assert call("pretrain", data, tmp_path / "model", *settings("pretrain.epochs=1")) == 0
    record = StageCheckpoints(tmp_path / "model", "pretrain").history()[-1]
    assert record["train"]["label"] == 0 and record["train"]["loss"] > 0 and record["valid"]["label"] > 0
    capsys.readouterr()
    assert call("finetune", data, tmp_path / "model", *settings()) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "none of the 64 training rows has a label, and fine-tuning learns from labels: correct `label`" in message
    assert not (tmp_path / "model" / "finetune").exists()


def test_a_validation_without_labels_is_refused_before_training(tmp_path, capsys):
    ids, labels = np.full((64, 1), 2), np.arange(64) % 2
    splits = {split: (ids, np.full(64, UNLABELLED) if split == "valid" else labels) for split in SPLITS}
    data = write_folder(tmp_path / "data", {"user": ["a", "b"]}, splits)
    assert call("pretrain", data, tmp_path / "model", *settings()) == 2
    assert "the validation split has no rows with a label, which every epoch is judged by" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "model").exists()


def test_fields_may_be_called_as_a_loss_or_a_metric(tmp_path):
    meanings = {"loss": ["a", "b"], "auc": ["c"], "rows": ["d"]}
    splits = {split: (np.array([[2, 2, 2], [3, 2, 0]] * 32), np.array([0, 1] * 32)) for split in SPLITS}
    data = write_folder(tmp_path / "data", meanings, splits)
    assert call("pretrain", data, tmp_path / "model", *settings("pretrain.epochs=1")) == 0
    record = StageCheckpoints(tmp_path / "model", "pretrain").history()[-1]
    assert {"loss", "field/loss", "field/auc", "field/rows", "label"} <= record["train"].keys()
    assert record["valid"]["rows"] == 64 and record["valid"]["loss"] > record["valid"]["field/loss"] > 0


# Rows of the table that several fields use.


def test_each_field_has_its_own_counts_of_shared_values(tmp_path):
    # Values 2, 3, 4 in `item`: 2, 1, 0 times; in `last`: 0, 1, 1 and missing once; in `history`: 1, 2, 1.
    ids = np.array([[2, 3], [2, 4], [3, 0]])
    rows = ids, np.array([0, 1, 0]), {"history": [[2, 3], [3, 4], []]}
    fields = {"item": {}, "last": {"vocabulary": "item"}, "history": {"kind": "sequence", "vocabulary": "item"}}
    data = DataFolder.open(write_folder(tmp_path / "data", {"item": ["a", "b", "c"]}, dict.fromkeys(SPLITS, rows), 1, fields))
    assert data.frequencies.tolist() == [1, 0, 3, 4, 2]
    assert [counts.tolist() for counts in data.field_frequencies] == [[0, 0, 2, 1, 0], [1, 0, 0, 1, 1], [0, 0, 1, 2, 1]]


FIELDS = {"history": {"kind": "sequence"}, "item": {"vocabulary": "history"}, "last": {"vocabulary": "history"}, "hour": {"kind": "categorical"}}
SHARED = schema_of({name: {"kind": "categorical", **more} for name, more in FIELDS.items()}, {"history": 6, "hour": 4}).without(["history"])
COUNTS = [np.array([0, 0, 2, 1, 1, 0]) * 10**6, np.array([2, 0, 0, 1, 0, 1]) * 10**6, np.array([0, 0, 2, 2]) * 10**6]
IDS = tf.constant([[2, 3, 2], [3, 0, 3], [4, 5, 2], [2, 0, 3]])


def make(stage, *assignments, **batch):
    tf.keras.utils.set_random_seed(1)
    assignments = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "finetune.dropout=0", "runtime.matmul=float32",
                   "diffusion.schedule=fixed", "diffusion.fixed_rate=0.999999", *assignments]
    model = DGenCTR(SHARED, load_config(None, assignments), stage, COUNTS)
    return model, {"ids": IDS, "label": tf.constant([1.0, 0.0, 0.0, 1.0]), "seed": tf.constant([1, 2]), **batch}


def test_fields_that_share_a_vocabulary_read_the_same_rows():
    assert SHARED.table_rows == 10 and make("finetune")[0].embedding.table.shape == (10, 4)
    assert make("finetune")[0].embedding.table_rows(IDS[:2]).numpy().tolist() == [[2, 3, 8], [3, 0, 9]]


@pytest.mark.parametrize("full_softmax_rows", [4096, 2])
def test_shared_rows_are_scored_with_each_fields_own_prior(full_softmax_rows):
    # Dot scores against a zero table: a value costs what its share among the candidates says.
    model, batch = make("pretrain", "model.scoring.similarity=dot", f"model.scoring.full_softmax_rows={full_softmax_rows}")
    model.embedding.table.assign(tf.zeros_like(model.embedding.table))
    parts = {name: float(value) for name, value in model.loss_parts(batch, training=False).items()}
    if full_softmax_rows == 4096:
        assert parts["field/item"] == pytest.approx((2 * np.log(2) + 2 * np.log(4)) / 4, rel=1e-4)
        assert parts["field/last"] == pytest.approx((2 * np.log(2) + 2 * np.log(4)) / 4, rel=1e-4)
    else:  # four draws among the values of the field: exp(s') = p / q, q = 1 - (1 - p)^4
        weight = {share: share / (1 - (1 - share) ** 4) for share in (0.5, 0.25)}
        total = weight[0.5] + 2 * weight[0.25]
        expected = np.mean([np.log(total / weight[share]) for share in (0.5, 0.25, 0.25, 0.5)])
        assert parts["field/item"] == pytest.approx(expected, rel=1e-4) and parts["field/last"] == pytest.approx(expected, rel=1e-4)


def test_a_step_moves_a_shared_row_by_all_fields_that_read_it():
    model, batch = make("finetune")
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.embedding.table)).numpy()
    assert (np.abs(gradient[[0, 2, 3, 4, 5, 8, 9]]).max(axis=1) > 0).all()  # `last` alone reads rows 0 and 5
    assert not gradient[[1, 6, 7]].any()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_steps_on_shared_rows_lower_the_loss(stage):
    model, batch = make(stage)
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.1)
    losses = [float(model.train_step(batch)["loss"]) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_broken_shared_row_is_traced_to_its_owner():
    model, batch = make("finetune")
    model.embedding.table[5].assign([np.nan] * 4)
    assert "gradient of field history" in model.explain_non_finite(batch)


def test_memory_counts_shared_rows_once_and_decoded_weights():
    rows = {"train": 1000, "valid": 100, "test": 100}
    config = load_config(None, ["model.embedding_dim=8"])
    finetune, pretrain = (dict(predict(stage, config, SHARED, rows).parts) for stage in ("finetune", "pretrain"))
    assert finetune["embedding table, 10 rows x 8"] == 10 * 8 * 4
    # Counts of 10 rows; of `item` and `last` their own and what they leave to `history`; logarithms of 6 + 6 + 4 values.
    assert finetune["training frequencies"] == 8 * 10 + 2 * 8 * (6 + 6)
    assert pretrain["training frequencies"] == finetune["training frequencies"] + 4 * (6 + 6 + 4) + 2 * 8 * 6
    weighted = schema_of(FIELDS | {"item": {"kind": "categorical", "vocabulary": "history"}, "last": {"kind": "categorical"}},
                         {"history": 6, "last": 6, "hour": 4}, weight="importance").without(["history"])
    assert decoded_row_bytes(weighted) == 4 * 3 + 4 + 8 + 4 == decoded_row_bytes(SHARED) + 4


def test_schemas_differ_in_lists_too():
    fewer = schema_of({"item": {"kind": "categorical"}}, {"item": 6})
    assert schema_differences(SHARED, fewer)[:2] == ["field 'history' is gone", "field 'last' is gone"]


# Rows without label and weights in the losses. Everything is masked, scores are zero: a field of V equally frequent rows
# costs log V, a label log 2.


def zeroed(*assignments, **batch):
    model, batch = make("pretrain", "model.scoring.similarity=dot", "model.scoring.prior=none", *assignments, **batch)
    model.embedding.table.assign(tf.zeros_like(model.embedding.table))
    model.label_scoring.scale.assign(0.0)
    return model, batch


def test_a_row_without_label_has_no_share_in_the_labels_loss():
    model, batch = zeroed(label=tf.constant([1.0, UNLABELLED, 0.0, UNLABELLED]))
    model.label_scoring.bias.assign(np.log(3.0))  # p = 3/4: the click costs log 4/3, the other row log 4
    parts = {name: float(value) for name, value in model.loss_parts(batch, training=False).items()}
    label = np.log(4 / 3) + np.log(4)
    assert parts["label"] == pytest.approx(label / 2, rel=1e-5)
    assert parts["loss"] == pytest.approx(2 * np.log(6) + np.log(4) + label / 4, rel=1e-5)


def test_a_label_that_is_not_there_is_never_seen():
    model, batch = make("pretrain", "diffusion.fixed_rate=1e-6", label=tf.fill([4], float(UNLABELLED)))
    model.embedding.label_embeddings.assign(np.full((2, 4), np.nan))
    parts = model.loss_parts(batch, training=True)
    assert float(parts["label"]) == 0 and np.isfinite(parts["loss"]) and float(parts["loss"]) > 0


def test_pretraining_weighs_the_label_and_nothing_else():
    model, batch = zeroed(label=tf.constant([1.0, UNLABELLED, 0.0, 0.0]), weight=tf.constant([6.0, 100.0, 1.0, 1.0]))
    model.label_scoring.bias.assign(np.log(3.0))
    parts = {name: float(value) for name, value in model.loss_parts(batch, training=False).items()}
    label = (6 * np.log(4 / 3) + 2 * np.log(4)) / 8
    assert parts["label"] == pytest.approx(label, rel=1e-5) and parts["field/item"] == pytest.approx(np.log(6), rel=1e-5)
    assert parts["loss"] == pytest.approx(2 * np.log(6) + np.log(4) + 3 * label / 4, rel=1e-5)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_equal_weights_are_none(stage):
    plain, batch = make(stage)
    weighted, _ = make(stage)
    losses = [model.loss_parts(one, training=True) for model, one in ((plain, batch), (weighted, batch | {"weight": tf.fill([4], 7.0)}))]
    assert {name: float(value) for name, value in losses[1].items()} == pytest.approx(
        {name: float(value) for name, value in losses[0].items()}, rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_finetuning_takes_the_weighted_mean(training):
    model, batch = make("finetune", "model.dcn.batch_norm=false", weight=tf.constant([3.0, 0.0, 0.5, 1.0]))
    losses = tf.nn.sigmoid_cross_entropy_with_logits(batch["label"], model.click_logits({"ids": IDS})).numpy()
    expected = (3 * losses[0] + 0.5 * losses[2] + losses[3]) / 4.5
    assert float(model.loss_parts(batch, training)["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_batch_without_weight_moves_nothing_by_its_labels(stage):
    model, batch = make(stage, weight=tf.zeros(4))
    with tf.GradientTape() as tape:
        parts = model.loss_parts(batch, training=True)
    gradient = tape.gradient(parts["label" if stage == "pretrain" else "loss"], model.label_scoring.bias)
    assert float(parts["label" if stage == "pretrain" else "loss"]) == 0 and float(gradient) == 0 and np.isfinite(parts["loss"])
