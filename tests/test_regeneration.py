"""Rows whose fields are drawn anew: from rows of the same label, and by a frozen generator."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema, write_data_folder

from preprocessing.errors import UserError
from trainer import task
from trainer.clicked import ClickedCombinations
from trainer.config import RegenerationConfig, load_config
from trainer.data_folder import DataFolder
from trainer.input import EvaluationSplit
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer
from trainer.regeneration import Regenerator

# Users 2, 3, .. and hours are all different, so that it shows where a row's fields come from; items tell the label.
ROWS = 200
IDS = np.stack([np.arange(ROWS) % 12, 2 + (np.arange(ROWS) * 7) % 20, np.arange(ROWS) % 6], axis=1).astype(np.int32)
LABELS = (np.arange(ROWS) % 3 == 0).astype(np.float32)
BATCH = {"ids": tf.constant(IDS), "label": tf.constant(LABELS)}
SEED = tf.constant([1, 2])


def regenerated(generator=None, seed=SEED, batch=BATCH, clicked=None, **settings):
    config = RegenerationConfig(**{"share": 1.0, "fields": ("item",), **settings})
    return Regenerator(tiny_schema(), config, generator, clicked)(batch, seed)["ids"].numpy()


@pytest.mark.parametrize(("labels", "touched"), [("non_clicks", [0.0]), ("clicks", [1.0]), ("both", [0.0, 1.0])])
def test_only_the_named_fields_of_rows_with_the_label_change(labels, touched):
    ids = regenerated(labels=labels)
    np.testing.assert_array_equal(ids[:, [0, 2]], IDS[:, [0, 2]])
    changed = ids[:, 1] != IDS[:, 1]
    assert set(LABELS[changed]) == set(touched)
    for label in touched:
        assert set(ids[LABELS == label, 1]) <= set(IDS[LABELS == label, 1])


def test_rows_of_the_same_label_are_drawn_uniformly():
    # Of two non-clicks with items 5 and 6, either is drawn with probability 1/2; the click's item 9 never is.
    batch = {"ids": tf.constant([[0, 5, 0], [1, 9, 0], [2, 6, 0]]), "label": tf.constant([0.0, 1.0, 0.0])}
    drawn = np.concatenate([regenerated(seed=tf.constant([1, n]), batch=batch)[[0, 2], 1] for n in range(400)])
    assert set(drawn) == {5, 6}
    assert np.mean(drawn == 5) == pytest.approx(0.5, abs=0.08)  # 4.5 standard deviations


def test_fields_drawn_together_come_from_one_row():
    ids = regenerated(fields=("item", "hour"), labels="both")
    pairs = {tuple(pair) for pair in IDS[:, 1:]}
    assert {tuple(pair) for pair in ids[:, 1:]} <= pairs
    np.testing.assert_array_equal(ids[:, 0], IDS[:, 0])


def test_a_share_of_the_rows_is_concerned():
    changed = [np.mean(regenerated(labels="both", share=0.25, seed=tf.constant([1, n]))[:, 1] != IDS[:, 1]) for n in range(20)]
    assert np.mean(changed) == pytest.approx(0.25 * 0.95, abs=0.04)  # one draw in twenty is the same item


def test_a_batch_without_rows_of_the_label_stays():
    batch = {"ids": tf.constant(IDS[:3]), "label": tf.ones(3)}
    np.testing.assert_array_equal(regenerated(batch=batch), IDS[:3])


def test_what_was_clicked_is_no_non_click():
    # Users 0 and 1 with items 5 and 6, none clicked; user 0 has clicked item 6 at another hour, so it keeps item 5.
    clicked = ClickedCombinations(tiny_schema(), ("user", "item"), np.array([[0, 6, 3], [1, 9, 0]]))
    batch = {"ids": tf.constant([[0, 5, 0], [1, 6, 0]]), "label": tf.zeros(2)}
    drawn = [regenerated(batch=batch, clicked=clicked, seed=tf.constant([1, n]))[:, 1] for n in range(40)]
    assert {item for item, _ in drawn} == {5}
    assert {item for _, item in drawn} == {5, 6}


def test_a_click_may_become_what_another_click_is():
    clicked = ClickedCombinations(tiny_schema(), ("user", "item"), np.array([[0, 5, 0], [0, 6, 0], [1, 5, 0], [1, 6, 0]]))
    batch = {"ids": tf.constant([[0, 5, 0], [1, 6, 0]]), "label": tf.ones(2)}
    drawn = [regenerated(batch=batch, clicked=clicked, labels="both", seed=tf.constant([1, n]))[0, 1] for n in range(40)]
    assert set(drawn) == {5, 6}


def test_clicked_combinations_are_those_of_all_the_named_fields():
    clicked = ClickedCombinations(tiny_schema(), ("item", "hour"), np.array([[0, 5, 1], [3, 6, 2]]))
    ids = tf.constant([[7, 5, 1], [7, 5, 2], [7, 6, 1], [7, 6, 2], [7, 21, 5]])
    assert clicked.holds(ids).numpy().tolist() == [True, False, False, True, False]


def test_without_a_click_nothing_was_clicked():
    clicked = ClickedCombinations(tiny_schema(), ("user", "item"), np.zeros((0, 3), np.int32))
    assert clicked.holds(tf.constant([[0, 5, 1], [0, 0, 0]])).numpy().tolist() == [False, False]


def test_clicked_combinations_of_a_data_folder(tmp_path):
    data = DataFolder.open(write_data_folder(tmp_path / "data"))
    config = load_config(None, ["finetune.regeneration={share: 1, fields: [item], unless_clicked: [user, item]}"])
    rows = next(EvaluationSplit(data, "train", 10**6).batches(10**6))
    ids, clicks = rows["ids"].numpy(), rows["label"].numpy() > 0.5
    pairs = {tuple(pair) for pair in ids[clicks, :2]}
    assert ClickedCombinations.of_training(data, config).holds(rows["ids"]).numpy().tolist() == [tuple(pair) in pairs for pair in ids[:, :2]]


def generator(*assignments):
    tf.keras.utils.set_random_seed(1)
    config = load_config(None, ["model.embedding_dim=8", "model.dcn.hidden_units=[32]", "pretrain.learning_rate=0.02",
                                "model.scoring.similarity=dot", "model.embedding_init=0.1", *assignments])
    model = DGenCTR(tiny_schema(), config, "pretrain", table_counts(tiny_schema(), np.full(40, 10**4)))
    model.optimizer = build_optimizer(model, 0.02, 0.0)
    return model


def test_a_generator_draws_what_goes_with_the_rest():
    # Item = user + 2 in every row: a trained generator gives each user its own item back, whatever the batch holds.
    users = np.arange(240) % 12
    ids = np.stack([users, users + 2, users % 6], axis=1).astype(np.int32)
    model, step = generator(), None
    batch = {"ids": tf.constant(ids), "label": tf.constant((users % 2).astype(np.float32))}
    step = tf.function(model.train_step)
    for number in range(150):
        step(batch | {"seed": tf.constant([1, number])})
    wrong = ids.copy()
    wrong[:, 1] = np.roll(ids[:, 1], 1)
    drawn = regenerated(model, batch=batch | {"ids": tf.constant(wrong)}, labels="both", source="generator")
    assert np.mean(drawn[:, 1] == users + 2) > 0.95
    np.testing.assert_array_equal(drawn[:, [0, 2]], wrong[:, [0, 2]])


def test_only_training_sees_regenerated_rows_and_only_through_the_click_loss():
    config = load_config(None, ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "finetune.dropout=0",
                                "finetune.regeneration={share: 1.0, fields: [item], labels: both}"])
    model = DGenCTR(tiny_schema(), config)
    model.embedding.table.assign(tf.random.stateless_normal(model.embedding.table.shape, [1, 2]))  # so that ids matter
    batch, untouched = BATCH | {"seed": SEED}, model.get_weights()
    plain = [float(model.compute_loss(batch, training)) for training in (False, True)]  # training moves the moments
    regenerated = DGenCTR(tiny_schema(), config)
    regenerated.set_weights(untouched)
    regenerated.regenerator = Regenerator(tiny_schema(), config.finetune.regeneration)
    mixed = [float(regenerated.compute_loss(batch, training)) for training in (False, True)]
    assert mixed[0] == plain[0]
    assert mixed[1] != plain[1]


@pytest.mark.parametrize("fields", [("itm",), ("user", "colour")])
def test_fields_that_the_model_does_not_read(fields):
    with pytest.raises(UserError, match=r"finetune.regeneration.fields: expected fields that the model reads \(user, item, hour\)"):
        regenerated(fields=fields)


def test_clicked_fields_that_the_model_does_not_read():
    with pytest.raises(UserError, match=r"unless_clicked: expected fields with one value a row that the model reads \(user, item, hour\); received usr"):
        ClickedCombinations(tiny_schema(), ("usr", "item"), IDS)


def test_more_combinations_than_numbers():
    with pytest.raises(UserError, match="expected fewer than 9.2e\\+18: name fewer fields"):
        ClickedCombinations(tiny_schema(), ("user",) * 40, IDS)


def test_a_refusal_that_does_not_depend_on_the_draw():
    with pytest.raises(UserError, match=r"expected at least one of `fields` \(item\) in it; received user"):
        load_config(None, ["finetune.regeneration={share: 1, fields: [item], unless_clicked: [user]}"])


def test_clicks_are_never_refused():
    with pytest.raises(UserError, match="with `labels: clicks` there are none"):
        load_config(None, ["finetune.regeneration={share: 1, fields: [item], labels: clicks, unless_clicked: [user, item]}"])


def test_regeneration_needs_fields():
    with pytest.raises(UserError, match="regeneration needs `fields`"):
        load_config(None, ["finetune.regeneration.share=0.5"])


def test_settings_without_a_share():
    with pytest.raises(UserError, match="with `share: 0`"):
        load_config(None, ["finetune.regeneration.fields=[item]"])


def test_a_generator_is_a_diffusion_model():
    with pytest.raises(UserError, match="draws from a model of `pretrain.objective: diffusion`"):
        load_config(None, ["finetune.regeneration={share: 1, fields: [item], source: generator}", "pretrain.objective=masked_features"])


def test_a_generator_has_to_be_there(tmp_path, capsys):
    data = write_data_folder(tmp_path / "data", rows=160)
    assert task.main(["--stage=finetune", "--from_scratch", "--data_dir", str(data), "--model_dir", str(tmp_path / "model"), "--set",
                      "finetune.regeneration={share: 1, fields: [item], source: generator}"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "source: generator draws from the pre-training in" in message and "or set it to batch" in message


GENERATED = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "finetune.regeneration={share: 1, fields: [item], source: generator}"]


def call(stage, data, model, *assignments):
    scratch = ["--from_scratch"] if stage == "finetune" else []
    return task.main([f"--stage={stage}", *scratch, "--data_dir", str(data), "--model_dir", str(model), "--set", *GENERATED, *assignments])


def test_a_run_goes_on_with_its_generator_alone(tmp_path, capsys):
    data, model = write_data_folder(tmp_path / "data", rows=160), tmp_path / "model"
    assert call("pretrain", data, model, "pretrain.epochs=1") == 0
    assert call("finetune", data, model, "finetune.epochs=1") == 0
    assert call("pretrain", data, model, "pretrain.epochs=2", "pretrain.learning_rate=0.001", "--allow_changes") == 0
    assert call("finetune", data, model, "finetune.epochs=2") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "holds a run whose rows were drawn by pretrain" in message and "and its pre-training went on and is pretrain" in message


def test_a_generator_has_seen_labels(tmp_path, capsys):
    data, model = write_data_folder(tmp_path / "data", rows=160), tmp_path / "model"
    of_pretraining = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "pretrain.epochs=1", "diffusion.label=absent"]
    assert task.main(["--stage=pretrain", "--data_dir", str(data), "--model_dir", str(model), "--set", *of_pretraining]) == 0
    assert call("finetune", data, model, "finetune.epochs=1") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "source: generator draws features that fit the label, and the pre-training in" in message and "has seen none: pre-train with" in message


def test_a_baseline_has_no_generator():
    with pytest.raises(UserError, match="which has no generator"):
        load_config(None, ["finetune.regeneration={share: 1, fields: [item], source: generator}", "model.kind=lr", "model.dcn={}"])
