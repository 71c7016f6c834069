"""MAP's two pre-trainings: what they hide, their losses by hand, and what is left of them for fine-tuning."""

import json

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema, write_data_folder, write_folder_of_all_kinds

from preprocessing.errors import UserError
from trainer import map_pretraining, task
from trainer.checkpoints import StageCheckpoints, load_trained
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.input import TrainingSplit
from trainer.map_pretraining import _chosen, _cumulated, _draw
from trainer.memory import predict
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer
from trainer.refusals import refuse_idle_start

SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "model.hstu.width=8"]
COUNTS = np.arange(1, 41)
OBJECTIVES = ("masked_features", "replaced_features")


def make(objective, *assignments, counts=COUNTS):
    tf.keras.utils.set_random_seed(1)
    config = load_config(None, [*SMALL, f"pretrain.objective={objective}", *assignments])
    return DGenCTR(tiny_schema(), config, "pretrain", table_counts(tiny_schema(), counts))


def batch_of(rows, seed=0):
    ids = tf.random.stateless_uniform((rows, 3), (seed, 1), 2, 6, tf.int32)
    return {"ids": ids, "label": tf.ones(rows), "seed": tf.constant([1, seed])}


def test_every_sample_hides_the_same_number_of_fields_and_every_field_as_often():
    chosen = _chosen(30_000, 5, 2, tf.constant([1, 2])).numpy()
    assert (chosen.sum(axis=1) == 2).all()
    assert chosen.mean(axis=0) == pytest.approx([0.4] * 5, abs=0.01)


def test_values_are_drawn_by_their_counts_and_never_one_without():
    drawn = _draw(_cumulated(np.array([0, 1, 0, 3, 0])), [40_000], tf.constant([1, 2])).numpy()
    assert drawn.dtype == np.int32
    assert np.bincount(drawn, minlength=5) / 40_000 == pytest.approx([0, 0.25, 0, 0.75, 0], abs=0.01)


def test_masked_features_by_hand():
    # Outputs of zero: s = -log 40 for every value; d(v) = -log 40 - log(2 q(v)) = -log 2 where all q are 1/40, so each of two
    # noise values costs log(1 + 1/2) and the value itself log(1 + 2).
    model = make("masked_features", "pretrain.map.noise_samples=2", counts=np.ones(40, np.int64))
    model.heads.outputs.assign(tf.zeros_like(model.heads.outputs))
    parts = model.loss_parts(batch_of(50), training=False)
    expected = np.log(3) + 2 * np.log(1.5)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        dict.fromkeys(("loss", "field/user", "field/item", "field/hour"), expected), rel=1e-5)


def test_the_bias_of_a_value_is_its_own():
    # As above, with a bias b for row 0 alone: nobody has it as a value, and as noise (q = 1, so d = b - log 40 - log 1) it costs
    # log(1 + exp(d)); the others have q = 1/80 (half a count of 40) and d = log 2.
    model = make("masked_features", "pretrain.map.noise_samples=1", counts=np.array([40, *[0] * 39]))
    outputs = np.zeros(model.heads.outputs.shape, np.float32)
    outputs[0, -1] = 2.0
    model.heads.outputs.assign(outputs)
    loss = float(model.loss_parts(batch_of(20), training=False)["loss"])
    assert loss == pytest.approx(np.log1p(0.5) + np.log1p(np.exp(2 - np.log(40))), rel=1e-5)


def test_replaced_features_by_hand(monkeypatch):
    # Logits of log 3 for user, 0 for the others: "replaced" costs log(1 + 1/3) or log(1 + 3), log 2.
    model = make("replaced_features")
    model.heads._logits.kernel.assign(tf.zeros_like(model.heads._logits.kernel))
    model.heads._logits.bias.assign([np.log(3.0), 0.0, 0.0])
    monkeypatch.setattr(map_pretraining, "_chosen", lambda rows, *_: tf.repeat([[True, False, False]], rows, axis=0))
    monkeypatch.setattr(map_pretraining, "_draw", lambda cumulated, shape, seed: tf.fill(shape, 3))
    batch = batch_of(4) | {"ids": tf.constant([[2, 2, 2], [3, 2, 2], [3, 2, 2], [3, 2, 2]])}  # the first becomes another
    parts = {name: float(value) for name, value in model.loss_parts(batch, training=False).items()}
    user = (np.log(4 / 3) + 3 * np.log(4)) / 4
    assert parts == pytest.approx({"loss": (user + 2 * np.log(2)) / 3, "field/user": user, "field/item": np.log(2),
                                   "field/hour": np.log(2)}, rel=1e-5)


@pytest.mark.parametrize("backbone", ["dcn", "hstu"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_labels_do_not_matter_and_nothing_idle_is_trained(objective, backbone):
    model, batch = make(objective, f"model.backbone={backbone}"), batch_of(30)
    loss = float(model.loss_parts(batch, training=True)["loss"])
    assert loss == float(model.loss_parts(batch | {"label": tf.fill(30, -1.0)}, training=True)["loss"])
    with tf.GradientTape() as tape:
        value = model.compute_loss(batch, training=True)
    gradients = tape.gradient(value, model.stage_variables)
    assert [v.name for v, g in zip(model.stage_variables, gradients, strict=True) if g is None] == []
    trained = {id(variable) for variable in model.stage_variables}
    idle = [*model.field_scoring.variables, *model.label_scoring.variables, model.embedding.label_embeddings]
    assert not any(id(variable) in trained for variable in idle)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_lower_the_loss_and_are_functions_of_their_seeds(objective):
    model, batch = make(objective), batch_of(30, 5)
    assert float(model.loss_parts(batch, True)["loss"]) == float(make(objective).loss_parts(batch, True)["loss"])
    model.optimizer = build_optimizer(model, 0.02, 0.0)
    step = tf.function(model.train_step)
    losses = [float(step(batch_of(64) | {"seed": tf.constant([1, number])})["loss"]) for number in range(60)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_a_step_moves_only_the_output_rows_it_draws_or_masks():
    model = make("masked_features", "pretrain.map.noise_samples=1")
    model.optimizer = build_optimizer(model, 0.02, 0.1)
    before = model.heads.outputs.numpy()
    model.train_step(batch_of(2))
    assert 2 <= (model.heads.outputs.numpy() != before).any(axis=1).sum() <= 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_list_fields_are_visible_and_not_scored(objective, tmp_path):
    data = DataFolder.open(write_folder_of_all_kinds(tmp_path / "data", rows=40))
    config = load_config(None, [*SMALL, f"pretrain.objective={objective}"])
    model = DGenCTR(data.schema, config, "pretrain", data.field_frequencies)
    split = TrainingSplit(data, 40, 1, 1000)
    parts = model.loss_parts(next(iter(split.epoch(0))) | {"seed": tf.constant([1, 1])}, training=True)
    assert set(parts) == {"loss", *(f"field/{field.name}" for field in data.schema.id_fields)}
    assert all(np.isfinite(float(value)) for value in parts.values())


def test_unknown_values_are_not_scored():
    model = make("masked_features", "model.unknown=mask", "pretrain.map.rate=0.99")
    batch = batch_of(20)
    ids = batch["ids"].numpy()
    ids[:, 1] = 1
    parts = model.loss_parts(batch | {"ids": tf.constant(ids)}, training=False)
    assert float(parts["field/item"]) == 0 < float(parts["field/user"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_heads_are_counted_in_memory(objective):
    def parts(stage, *assignments):
        rows = {"train": 1000, "valid": 100, "test": 9}
        return dict(predict(stage, load_config(None, [*SMALL, *assignments]), tiny_schema(), rows).parts)

    head = sum(variable.shape.num_elements() for variable in make(objective).heads.variables)
    assert parts("pretrain", f"pretrain.objective={objective}")["heads, their moments and gradients"] == 5 * 4 * head
    assert not any(name.startswith("heads") for name in {**parts("pretrain"), **parts("finetune", f"pretrain.objective={objective}")})


RUN = [*SMALL, "pretrain.epochs=2", "pretrain.batch_size=80", "pretrain.min_steps=4", "finetune.epochs=1",
       "finetune.batch_size=64", "finetune.min_steps=4"]


def call(data, model, objective, *flags, stage="all"):
    settings = [part for assignment in (*RUN, f"pretrain.objective={objective}") for part in ("--set", assignment)]
    return task.main([f"--stage={stage}", "--data_dir", str(data), "--model_dir", str(model), *settings, *flags])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fine_tuning_takes_over_embeddings_and_backbone_alone(objective, tmp_path, capsys):
    data, model_dir = write_data_folder(tmp_path / "data", rows=320, unlabelled_every=5), tmp_path / "model"
    assert call(data, model_dir, objective, stage="pretrain") == 0
    pretraining = StageCheckpoints(model_dir, "pretrain")
    assert "label" not in pretraining.history()[0]["train"] and "field/item" in pretraining.history()[0]["valid"]
    assert call(data, model_dir, "diffusion", "--set", "finetune.learning_rate=1e-9", stage="finetune") == 0
    table = capsys.readouterr().out
    assert "transferred all" not in table and "0 of " in table
    stored = tf.train.load_checkpoint(str(pretraining.best() / "model"))
    names = {key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for key in stored.get_variable_to_shape_map()}
    assert any(name.startswith("map_heads:") for name in names)
    trained = load_trained(model_dir)
    assert trained.knows_masks == (objective == "masked_features")  # by what it started from, whatever this call's settings say
    assert trained.heads is None and not any(name.startswith("map_heads") for name in trained.named_variables())
    table = stored.get_tensor("embedding:00:table/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_allclose(trained.embedding.table.numpy(), table, atol=1e-6)
    assert task.main(["--stage=evaluate", "--data_dir", str(data), "--model_dir", str(model_dir)]) == 0
    assert not (model_dir / "report" / "field_losses.png").exists()
    assert json.loads((model_dir / "report" / "metrics.json").read_text())["rows"] > 0


@pytest.mark.parametrize(("assignments", "message"), [
    (["pretrain.map.rate=0.2"], "`map` has no effect with `objective: diffusion`"),
    (["pretrain.objective=replaced_features", "pretrain.map.noise_samples=4"],
     "`noise_samples` has no effect with `objective: replaced_features`"),
    (["pretrain.objective=masked_features", "diffusion.schedule=cosine"],
     "`diffusion` has no effect with `pretrain.objective: masked_features`"),
])
def test_idle_settings_are_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        load_config(None, assignments)


def test_a_section_that_a_file_fills_can_be_emptied(tmp_path):
    (tmp_path / "run.yaml").write_text("diffusion: {schedule: cosine}\n")
    config = load_config(tmp_path / "run.yaml", ["pretrain.objective=masked_features", "diffusion={}"])
    assert config.diffusion.schedule == "linear"
    assert load_config(tmp_path / "run.yaml", ["pretrain.objective=masked_features", "finetune.auxiliary_diffusion=0.1"])


def test_heads_are_not_carried_over_to_other_data():
    config = load_config(None, ["pretrain.objective=masked_features"])
    with pytest.raises(UserError, match="--init_from earlier with .*masked_features: its heads have rows of their own"):
        refuse_idle_start("pretrain", config, False, "earlier")
