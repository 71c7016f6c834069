"""The model as a whole: its two objectives, what a click is predicted from, and its input."""

import json

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema, write_data_folder

from preprocessing.errors import UserError
from preprocessing.schema import train_checksum
from trainer.click_model import OBSERVED_EVERY
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.input import EvaluationSplit, fitting_batch_size
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer

SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "model.hstu.width=8", "finetune.dropout=0"]
IDS = tf.constant([[2, 3, 4], [5, 1, 0], [0, 0, 1]])


EQUAL_FREQUENCIES = np.full(40, 10**6)


def make(stage="finetune", *assignments, frequencies=EQUAL_FREQUENCIES):
    tf.keras.utils.set_random_seed(1)
    counts = None if frequencies is None else table_counts(tiny_schema(), frequencies)
    return DGenCTR(tiny_schema(), load_config(None, [*SMALL, *assignments]), stage, counts)


def batch_for(seed=0):
    return {"ids": IDS, "label": tf.constant([1.0, 0.0, 1.0]), "seed": tf.constant([1, seed])}


@pytest.mark.parametrize("backbone", ["dcn", "hstu", "transformer", "mlp"])
def test_a_click_is_predicted_without_its_label(backbone):
    model = make("finetune", f"model.backbone={backbone}")
    before = model.click_logits({"ids": IDS}).numpy()
    direction = model.embedding.label_embeddings[1] - model.embedding.label_embeddings[0]
    # Moving both label embeddings alike keeps e(1) - e(0): only a visible label token could change the logit.
    model.embedding.label_embeddings.assign_add(tf.ones_like(model.embedding.label_embeddings))
    np.testing.assert_allclose(model.embedding.label_embeddings[1] - model.embedding.label_embeddings[0], direction, atol=1e-6)
    np.testing.assert_allclose(model.click_logits({"ids": IDS}).numpy(), before, atol=1e-5)


@pytest.mark.parametrize("backbone", ["dcn", "hstu", "transformer", "mlp"])
def test_a_batch_of_one_and_of_none(backbone):
    model = make("finetune", f"model.backbone={backbone}")
    np.testing.assert_allclose(model.click_logits({"ids": IDS[:1]}), model.click_logits({"ids": IDS})[:1], rtol=1e-4, atol=1e-6)
    assert model.click_logits({"ids": IDS[:0]}).shape == (0,)


def test_call_is_the_probability():
    model = make()
    np.testing.assert_allclose(model({"ids": IDS}), tf.sigmoid(model.click_logits({"ids": IDS})))


def test_finetuning_loss_is_the_binary_cross_entropy():
    model, batch = make(), batch_for()
    expected = tf.nn.sigmoid_cross_entropy_with_logits(batch["label"], model.click_logits({"ids": IDS}))
    assert float(model.compute_loss(batch)) == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)


def test_pretraining_loss_sums_the_masked_tokens_of_a_sample():
    # Dot scores against a zero table: a field of V rows costs log V whenever it is masked, a label of logit 0 log 2.
    model = make("pretrain", "model.scoring.similarity=dot", "diffusion.schedule=fixed", "diffusion.fixed_rate=0.999999")
    model.embedding.table.assign(tf.zeros_like(model.embedding.table))
    model.label_scoring.scale.assign(0.0)
    parts = model.loss_parts(batch_for(), training=False)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx({
        "loss": np.log(12) + np.log(22) + np.log(6) + np.log(2),
        "field/user": np.log(12), "field/item": np.log(22), "field/hour": np.log(6), "label": np.log(2)}, rel=1e-5)


def test_sampled_fields_cost_no_more_than_their_candidates():
    # As above, but the item is scored against itself and the two other values of the batch: 0 draws are uncorrected.
    model = make("pretrain", "model.scoring.similarity=dot", "model.scoring.full_softmax_rows=12", "diffusion.schedule=fixed",
                 "diffusion.fixed_rate=0.999999")
    model.embedding.table.assign(tf.zeros_like(model.embedding.table))
    # Three draws among 22 equally frequent values: all log q are equal, so 3 candidates cost log 3.
    assert float(model.loss_parts(batch_for(), training=False)["field/item"]) == pytest.approx(np.log(3), rel=1e-4)


def test_with_the_frequency_prior_an_untrained_field_costs_its_entropy():
    # A third of the batch each: items 3 (half of all training rows), 1 and 0 (a quarter each), users and hours alike.
    frequencies = np.zeros(40)
    frequencies[[2, 5, 0]] = frequencies[[15, 13, 12]] = frequencies[[38, 34, 35]] = [2, 1, 1]
    model = make("pretrain", "model.scoring.similarity=dot", "diffusion.schedule=fixed", "diffusion.fixed_rate=0.999999",
                 frequencies=frequencies * 10**9)
    model.embedding.table.assign(tf.zeros_like(model.embedding.table))
    parts = model.loss_parts(batch_for(), training=False)
    assert float(parts["field/item"]) == pytest.approx((np.log(2) + 2 * np.log(4)) / 3, rel=1e-5)


def test_pretraining_needs_frequencies():
    with pytest.raises(UserError, match="needs the training frequencies"):
        make("pretrain", frequencies=None)


def test_both_stages_own_the_same_variables():
    first, second = make("pretrain", "pretrain.dropout=0.3").named_variables(), make("finetune").named_variables()
    assert {name: v.shape for name, v in first.items()} == {name: v.shape for name, v in second.items()}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("backbone", ["dcn", "hstu", "transformer", "mlp"])
def test_every_stage_variable_has_a_gradient_and_the_table_a_sparse_one(stage, backbone):
    model = make(stage, f"model.backbone={backbone}")
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch_for(), training=True)
    gradients = tape.gradient(loss, model.stage_variables)
    assert [v.name for v, g in zip(model.stage_variables, gradients, strict=True) if g is None] == []
    table = [g for v, g in zip(model.stage_variables, gradients, strict=True) if v is model.embedding.table]
    assert isinstance(table[0], tf.IndexedSlices)


def test_finetuning_touches_looked_up_rows_only():
    model = make()
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.1)
    before = model.embedding.table.numpy()
    model.train_step(batch_for())
    rows = sorted(set(np.flatnonzero((model.embedding.table.numpy() != before).any(axis=1))))
    offsets = np.array([0, 12, 34])
    assert rows == sorted(set((IDS.numpy() + offsets).ravel()))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_steps_lower_the_loss_of_a_batch(stage):
    model = make(stage)
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.0)
    losses = [float(model.train_step(batch_for())["loss"]) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_step_is_a_function_of_its_seed(stage):
    def loss(seed):
        tf.keras.utils.set_random_seed(1)
        model = make(stage, f"{stage}.dropout=0.5", "model.dcn.hidden_units=[64]")
        return float(model.loss_parts(batch_for() | {"seed": tf.constant([1, seed])}, training=True)["loss"])

    assert loss(5) == loss(5) != loss(6)


def test_a_gradient_that_is_not_finite_leaves_the_parameters_finite():
    model = make()
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.0)
    model.train_step(batch_for() | {"label": tf.constant([np.nan, 0.0, 1.0])})
    assert all(np.isfinite(variable).all() for variable in model.named_variables().values())


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_update_norms_are_those_of_the_parameters(stage):
    model = make(stage)
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.0)
    step = tf.function(model.train_step)
    scalars = {}
    for number in range(OBSERVED_EVERY):
        before = {id(variable): variable.numpy() for variable in model.stage_variables}
        scalars = step(batch_for(number))
        observed = number == OBSERVED_EVERY - 1
        assert (float(scalars["update_norm/table"]) > 0) == observed
    change = {id(variable): np.sum((variable.numpy() - before[id(variable)]) ** 2) for variable in model.stage_variables}
    table = change.pop(id(model.embedding.table))
    assert float(scalars["update_norm/table"]) == pytest.approx(np.sqrt(table), rel=1e-5)
    assert float(scalars["update_norm/dense"]) == pytest.approx(np.sqrt(sum(change.values())), rel=1e-5)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_broken_row_is_traced_to_its_field(stage):
    model = make(stage)
    assert model.explain_non_finite(batch_for()) == []
    model.embedding.table[12 + 3].assign([np.nan] * 4)  # the item of the first sample
    found = model.explain_non_finite(batch_for())
    assert "loss part loss" in found
    assert "gradient of field item" in found


@pytest.mark.parametrize(("rows", "batch"), [(10_000, 500), (2_000, 100), (500, 32), (20, 20), (100_000, 512)])
def test_small_splits_get_smaller_batches(rows, batch):
    # At least 20 steps, at least 32 rows, at most the 512 asked for.
    assert fitting_batch_size(rows, 512, min_steps=20) == batch


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="absent does not exist: write it with `python -m preprocessing.task"):
        DataFolder.open(tmp_path / "absent")


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no manifest.json, so it is unfinished"):
        DataFolder.open(tmp_path)


@pytest.mark.parametrize(("content", "reason"), [
    (b'{"splits": {', "Expecting"), (b"\xff", "utf-8"), (b"[]", "list"), (b'{"splits": {}}', "it has no 'train'"),
    (b'{"splits": {"train": {"rows": 1, "positives": 0, "files": 7}}}', "'int' object is not iterable")])
def test_a_damaged_manifest_is_named(tmp_path, content, reason):
    folder = write_data_folder(tmp_path / "data", rows=10)
    (folder / "manifest.json").write_bytes(content)
    for read in (DataFolder.open, train_checksum):
        with pytest.raises(UserError, match=f"manifest.json is damaged .*{reason}.*: restore it from a copy, or remove {folder} and write it"):
            read(folder)


def test_a_lost_file_is_named(tmp_path):
    folder = write_data_folder(tmp_path / "data", rows=10)
    (folder / "valid" / "part-00001-of-00002.tfrecord").unlink()
    with pytest.raises(UserError, match="valid/part-00001-of-00002.tfrecord is in manifest.json but not on disk"):
        DataFolder.open(folder)


def test_an_empty_split_is_refused(tmp_path):
    folder = write_data_folder(tmp_path / "data", rows=10)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["test"] |= {"rows": 0, "files": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="split 'test' has no rows"):
        EvaluationSplit(DataFolder.open(folder), "test", window_rows=100)


def test_masked_features_change_the_training_loss_only():
    batch = {"ids": tf.repeat(IDS, 50, axis=0), "label": tf.zeros(150), "seed": tf.constant([1, 0])}
    plain, masked = make(), make("finetune", "finetune.feature_mask_rate=0.999999", "model.dcn.batch_norm=false")
    # With everything masked all rows look alike: the loss is that of one logit for all.
    logit = masked.label_scoring(masked.backbone(masked.embedding({"ids": IDS[:1]}, tf.zeros(1), tf.ones((1, 4), tf.bool))),
                                 masked.embedding.label_embeddings)
    assert float(masked.loss_parts(batch, training=True)["loss"]) == pytest.approx(float(tf.nn.softplus(logit)[0]), rel=1e-4)
    np.testing.assert_allclose(make("finetune", "finetune.feature_mask_rate=0.5").click_logits({"ids": IDS}), plain.click_logits({"ids": IDS}))
