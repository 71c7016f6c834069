"""Samples drawn from a model that has learnt a small known distribution, and the command that reports on them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_folders import SPLITS, tiny_schema, write_data_folder, write_folder, write_folder_of_all_kinds

from preprocessing.errors import UserError
from trainer.checkpoints import StageCheckpoints
from trainer.config import DiffusionConfig, load_config
from trainer.data_folder import DataFolder
from trainer.diffusion import sampler as sampler_module
from trainer.diffusion.sampler import NEVER, Sampler, unmasking_turns
from trainer.input import EvaluationSplit
from trainer.loop import train
from trainer.models import build_model
from trainer.optimizers import build_optimizer, cosine_learning_rate, set_learning_rate
from trainer.sample import comparison
from trainer.sample.command import sample
from trainer.sample.drawing import draw_samples, load_sampler, nearest_rows, open_pretrained
from trainer.sample.request import Given, Request
from trainer.sample.values import FieldValues

SEED = tf.constant([1, 2])
ROWS = 4096
STEPS = 300
# The known distribution: "color" has values 2..4, "size" is 2 + (color - 2) % 2 in nine rows of ten, a click follows from size.
COLORS, COPIED, CLICK_OF_SIZE = np.array([0.5, 0.3, 0.2]), 0.9, np.array([0.2, 0.7])
SIZE_OF_COLOR = np.array([COPIED, 1 - COPIED, COPIED])  # probability that size is 2
FIELD_ROWS = {"color": 6, "size": 5}  # values 5 of color and 4 of size are in no row


def known_rows(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    color = rng.choice(3, rows, p=COLORS)
    size = (rng.random(rows) >= SIZE_OF_COLOR[color]).astype(int)
    click = rng.random(rows) < CLICK_OF_SIZE[size]
    return np.stack([color, size], axis=1).astype(np.int32) + 2, click.astype(np.float32)


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt the known distribution, and the training counts."""
    ids, labels = known_rows(20_000, seed=0)
    counts = [np.bincount(ids[:, k], minlength=rows) for k, rows in enumerate(FIELD_ROWS.values())]
    tf.keras.utils.set_random_seed(1)
    config = load_config(None, ["model.embedding_dim=8", "model.dcn.hidden_units=[32]", "model.dcn.batch_norm=false",
                                "model.dcn.cross_layers=1"])
    model = build_model(tiny_schema(FIELD_ROWS), config, "pretrain", counts, labels.mean())
    model.optimizer = build_optimizer(model, 0.01, 0.0)
    step = tf.function(model.train_step)
    for number in range(STEPS):
        set_learning_rate(model.optimizer, cosine_learning_rate(0.01, number / STEPS))
        chosen = np.random.default_rng(number).integers(0, len(labels), 512)
        step({"ids": tf.constant(ids[chosen]), "label": tf.constant(labels[chosen]), "seed": tf.constant([1, number])})
    return model, counts


@pytest.fixture(scope="module")
def sampler(learnt) -> Sampler:
    return Sampler(*learnt)


def draw(sampler: Sampler, given=(False, False, False), ids=(0, 0), label=0.0, seed=SEED) -> tuple[np.ndarray, np.ndarray]:
    features = {"ids": tf.constant(np.tile(np.int32(ids), (ROWS, 1)))}
    drawn, labels = sampler.draw(features, tf.fill([ROWS], label), tf.constant(np.tile(given, (ROWS, 1))), seed)
    return drawn.numpy(), labels.numpy()


def require_known_distribution(ids: np.ndarray, labels: np.ndarray) -> None:
    assert np.bincount(ids[:, 0] - 2, minlength=3) / ROWS == pytest.approx(COLORS, abs=0.04)
    for color in range(3):
        assert (ids[ids[:, 0] == 2 + color, 1] == 2).mean() == pytest.approx(SIZE_OF_COLOR[color], abs=0.06)
    for size in range(2):
        assert labels[ids[:, 1] == 2 + size].mean() == pytest.approx(CLICK_OF_SIZE[size], abs=0.06)


# When tokens are drawn.


def test_one_at_a_time_every_sample_has_an_order_of_its_own():
    turns = unmasking_turns(DiffusionConfig(), tf.zeros((6000, 3), tf.bool), None, SEED).numpy()
    assert (np.sort(turns, axis=1) == [0, 1, 2]).all()
    orders, counts = np.unique(turns, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts / 6000 == pytest.approx([1 / 6] * 6, abs=0.03)


def test_what_is_given_has_no_turn_and_takes_none():
    given = np.array([[True, False, False], [False, True, True]])
    turns = unmasking_turns(DiffusionConfig(), tf.constant(given), None, SEED).numpy()
    assert (turns == NEVER).tolist() == given.tolist()
    assert sorted(turns[0, 1:]) == [0, 1] and turns[1, 0] == 0


@pytest.mark.parametrize(("schedule", "shares"), [
    ("linear", [1 / 3, 1 / 3, 1 / 3]),
    # lambda(t) = 1 - cos(pi t / 2): 1 - lambda(2/3) = 1/2, lambda(2/3) - lambda(1/3) = cos(pi/6) - 1/2, lambda(1/3) the rest.
    ("cosine", [0.5, np.cos(np.pi / 6) - 0.5, 1 - np.cos(np.pi / 6)]),
])
def test_in_steps_tokens_are_drawn_as_the_schedule_unmasks_them(schedule, shares):
    turns = unmasking_turns(DiffusionConfig(schedule=schedule), tf.zeros((10_000, 2), tf.bool), 3, SEED).numpy()
    assert np.bincount(turns.ravel(), minlength=3) / 20_000 == pytest.approx(shares, abs=0.015)


def test_one_step_draws_everything_at_once():
    assert (unmasking_turns(DiffusionConfig(), tf.zeros((5, 3), tf.bool), 1, SEED).numpy() == 0).all()


# What is drawn.


def test_samples_are_distributed_as_the_training_rows(sampler):
    require_known_distribution(*draw(sampler))


def test_in_many_steps_they_are_too(learnt):
    require_known_distribution(*draw(Sampler(*learnt, steps=50)))


def test_in_one_step_marginals_are_right_and_the_dependence_is_lost(learnt):
    ids, _ = draw(Sampler(*learnt, 1))
    assert np.bincount(ids[:, 0] - 2, minlength=3) / ROWS == pytest.approx(COLORS, abs=0.04)
    marginal = (ids[:, 1] == 2).mean()
    assert marginal == pytest.approx(COLORS @ SIZE_OF_COLOR, abs=0.04)
    assert (ids[ids[:, 0] == 3, 1] == 2).mean() == pytest.approx(marginal, abs=0.05)


def test_large_fields_are_drawn_among_candidates(learnt, monkeypatch):
    model, counts = learnt
    monkeypatch.setattr(sampler_module, "FULL_ROWS", 2)
    small = model.run_config.model.scoring.model_copy(update={"full_softmax_rows": 2})
    monkeypatch.setattr(model, "run_config", model.run_config.model_copy(update={
        "model": model.run_config.model.model_copy(update={"scoring": small})}))
    require_known_distribution(*draw(Sampler(model, counts)))


def test_a_value_that_no_training_row_has_is_never_drawn(sampler):
    ids, labels = draw(sampler)
    assert set(ids[:, 0]) == {2, 3, 4} and set(ids[:, 1]) == {2, 3} and set(labels) == {0.0, 1.0}


def test_given_fields_are_kept_and_the_others_follow(sampler):
    ids, labels = draw(sampler, given=(True, False, False), ids=(3, 0))
    assert set(ids[:, 0]) == {3}
    assert (ids[:, 1] == 2).mean() == pytest.approx(SIZE_OF_COLOR[1], abs=0.05)
    assert labels.mean() == pytest.approx(np.array([SIZE_OF_COLOR[1], 1 - SIZE_OF_COLOR[1]]) @ CLICK_OF_SIZE, abs=0.05)


def test_a_given_label_is_kept_and_fields_follow_by_bayes(sampler):
    small = COLORS @ SIZE_OF_COLOR
    for label, clicks in ((1.0, CLICK_OF_SIZE), (0.0, 1 - CLICK_OF_SIZE)):
        ids, labels = draw(sampler, given=(False, False, True), label=label)
        assert set(labels) == {label}
        assert (ids[:, 1] == 2).mean() == pytest.approx(small * clicks[0] / np.dot([small, 1 - small], clicks), abs=0.05)


def test_everything_given_is_returned_as_it_is(sampler):
    ids, labels = draw(sampler, given=(True, True, True), ids=(4, 3), label=1.0)
    assert (ids == [4, 3]).all() and (labels == 1).all()


def test_what_is_not_given_is_not_read(sampler):
    np.testing.assert_array_equal(draw(sampler, ids=(0, 0))[0], draw(sampler, ids=(4, 3), label=1.0)[0])


def test_the_network_is_told_how_much_is_masked(learnt, monkeypatch):
    model, counts = learnt
    told, hidden = [], model.hidden
    monkeypatch.setattr(model, "hidden", lambda tokens, rates: told.append(rates) or hidden(tokens, rates=rates))
    features, every = {"ids": tf.constant([[2, 2], [3, 3]])}, tf.constant([[True, True, True], [False, True, True]])
    Sampler(model, counts)._unmask(features, tf.zeros(2), every, every, SEED)
    np.testing.assert_allclose(told[0], [1, 2 / 3])


def test_samples_are_a_function_of_the_seed(sampler):
    first, again, other = (draw(sampler, seed=tf.constant([1, number]))[0] for number in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("steps", [0, -1])
def test_too_few_steps_are_refused(learnt, steps):
    with pytest.raises(UserError, match=f"steps: expected at least 1, received {steps}; leave it out"):
        Sampler(*learnt, steps)


def test_steps_need_a_schedule_that_masks_everything(learnt, monkeypatch):
    model, counts = learnt
    monkeypatch.setattr(model, "run_config", model.run_config.model_copy(update={"diffusion": DiffusionConfig(schedule="fixed")}))
    with pytest.raises(UserError, match="pre-trained with `diffusion.schedule: fixed`.*leave steps out"):
        Sampler(model, counts, 4)
    require_known_distribution(*draw(Sampler(model, counts)))


# Measures.


def test_total_variation():
    # Shares (3/4, 1/4) and (1/4, 1/2, 1/4): half of 1/2 + 1/4 + 1/4.
    assert comparison.total_variation(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 2])) == pytest.approx(0.5)


def test_mutual_information_of_a_copy_is_the_entropy_and_of_noise_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (2, 20_000))
    matrix = comparison.pairwise_mutual_information(np.column_stack([x, x, y]), seed=1)
    assert matrix[1, 0] == matrix[0, 1] == pytest.approx(np.log(4), abs=0.01)
    assert matrix[2, 0] == pytest.approx(0, abs=0.003)
    assert np.isnan(np.diag(matrix)).all()


def test_many_rare_values_do_not_seem_related():
    # By shares alone, two columns of which hardly a pair comes twice would have several nats.
    x, y = np.random.default_rng(0).integers(0, 1000, (2, 2000))
    assert comparison.mutual_information(x, y, np.random.default_rng(1)) == pytest.approx(0, abs=0.02)


def test_label_rates_of_slices_with_enough_rows():
    # Value 2 has 100 rows of 120 everywhere; value 3 has 20, too few.
    def table(clicks: int) -> np.ndarray:
        return np.column_stack([np.repeat([2, 3], [100, 20]), np.repeat([1, 0], [clicks, 120 - clicks])])

    tables = comparison.Tables(("color", "click"), generated=table(40), real=table(30), other=table(25))
    slices = comparison.label_rates(tables)
    assert (slices.field.tolist(), slices.value.tolist(), slices.rows.tolist()) == ([0], [2], [100])
    assert [slices.generated[0], slices.real[0], slices.other[0]] == pytest.approx([0.4, 0.3, 0.25])
    assert comparison.distance_of_rates(slices, slices.generated) == pytest.approx(0.1)


def test_the_discriminator_tells_apart_what_differs_only():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 1000, 2))
    assert comparison.discriminator_auc(a, b, seed=1) == pytest.approx(0.5, abs=0.06)
    assert comparison.discriminator_auc(np.column_stack([a[:, 0], a[:, 0]]), b, seed=1) > 0.7


def test_values_that_are_read_as_masked_are_never_drawn():
    # Of color the value 4 is rare; the unknown row, 1, occurs, too.
    counts = [np.array([0, 50, 500, 300, 9, 0]), np.array([0, 0, 500, 359, 0])]
    config = load_config(None, ["model.embedding_dim=4", "model.dcn.hidden_units=[4]", "model.unknown=mask", "model.rare_count=10"])
    sampler = Sampler(build_model(tiny_schema(FIELD_ROWS), config, "pretrain", counts, 0.3), counts)
    ids, _ = draw(sampler)
    assert set(ids[:, 0]) == {2, 3} and set(ids[:, 1]) == {2, 3}
    assert sampler.knows(np.array([[2, 2], [4, 2], [1, 2], [3, 3]], np.int32)).tolist() == [True, False, False, True]


def untrained(counts: list[np.ndarray], *assignments: str) -> Sampler:
    config = load_config(None, ["model.embedding_dim=4", "model.dcn.hidden_units=[4]", "model.unknown=mask", *assignments])
    return Sampler(build_model(tiny_schema(FIELD_ROWS), config, "pretrain", counts, 0.3), counts)


def test_candidates_are_taken_from_values_that_can_be_drawn(monkeypatch):
    # Of color the values 2 and 4 are rare, in four rows of five: a single candidate would mostly be one of them.
    monkeypatch.setattr(sampler_module, "CANDIDATES", 1)
    counts = [np.array([0, 0, 90, 100, 90, 0]), np.array([0, 200, 100, 100, 0])]
    sampler = untrained(counts, "model.rare_count=95", "model.scoring.candidates=batch", "model.scoring.sampled_candidates=1")
    for seed in range(5):
        ids, _ = draw(sampler, seed=tf.constant([seed, 0]))
        assert set(ids[:, 0]) == {3} and set(ids[:, 1]) <= {2, 3}


@pytest.mark.parametrize(("color", "size", "settings", "message"), [
    ([0, 0, 10, 20, 20, 0], [0, 0, 50, 0, 0], ["model.rare_count=30"],
     r"no value of color can be drawn: .*\(`model.unknown: mask`, `model.rare_count: 30`\); .* or a smaller `model.rare_count`, or without"),
    ([0, 50, 0, 0, 0, 0], [0, 50, 0, 0, 0], [],
     r"no value of color, size can be drawn: .* as masked \(`model.unknown: mask`\); pre-train with `model.unknown: row`, or without"),
    ([0, 10, 20, 20, 0, 0], [0, 0, 50, 0, 0], ["model.rare_count=30", "model.scoring.candidates=batch"], "no value of color can be drawn"),
])
def test_a_field_without_a_value_that_can_be_drawn_is_refused(color, size, settings, message):
    with pytest.raises(UserError, match=message):
        untrained([np.array(color), np.array(size)], *settings)


def test_a_field_that_is_always_missing_is_drawn_as_missing():
    sampler = untrained([np.array([50, 0, 0, 0, 0, 0]), np.array([0, 0, 30, 20, 0])])
    assert set(draw(sampler)[0][:, 0]) == {0}


# The command.


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A data folder of 1280 training and 640 validation rows, and a model that is pre-trained on it for two epochs."""
    folder = tmp_path_factory.mktemp("sampling")
    data, model = write_data_folder(folder / "data", rows=1280), folder / "model"
    train("pretrain", load_config(None, ["pretrain.epochs=2", "model.dcn.hidden_units=[16]"]), data, model)
    return data, model


def all_known(ids: np.ndarray) -> np.ndarray:
    return np.ones(len(ids), bool)


def test_the_command_writes_samples_and_a_report(folders):
    data, model = folders
    command = [sys.executable, "-m", "trainer.sample", "--data_dir", str(data), "--model_dir", str(model), "--samples", "300"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sample: 300 drawn in" in done.stdout and "sample: comparing 300 samples with 300 rows of the valid split" in done.stdout

    folder = model / "report" / "samples"
    with open(folder / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert {row["user"] for row in rows} <= {f"user{value}" for value in range(2, 12)}
    assert {row["click"] for row in rows} == {"0", "1"}
    measures = json.loads((folder / "metrics.json").read_text())["comparison"]
    assert measures["rows"] == 300 and set(measures["total_variation"]) == {"user", "item", "hour", "click"}
    report = (folder / "REPORT.md").read_text()
    assert "which the model was not trained on" in report and "| Discriminator AUC |" in report and "| item and hour |" in report
    for image in ("marginals.png", "mutual_information.png", "label_rates.png"):
        assert (folder / image).stat().st_size > 1000 and f"({image})" in report


def test_fewer_samples_are_the_first_of_more(folders):
    data, config, checkpoint = open_pretrained(*folders)
    sampler, (real, _) = load_sampler(data, config, checkpoint, steps=None), nearest_rows(
        data, config.input, "valid", Given({}), 10, 1, all_known)
    many, few = (draw_samples(sampler, data.schema, Given({}), real, samples, seed=3).table for samples in (1500, 50))
    np.testing.assert_array_equal(many[:50], few)


def test_fewer_real_rows_are_the_first_of_more_and_all_different(folders):
    data, config, _ = open_pretrained(*folders)
    (many, _), (few, _) = (nearest_rows(data, config.input, "valid", Given({"hour": 3}), rows, 1, all_known) for rows in (1000, 20))
    many = many.table
    np.testing.assert_array_equal(many[:20], few.table)
    valid = np.concatenate([np.column_stack([batch["ids"], batch["label"]]) for batch in EvaluationSplit(data, "valid", 1000).batches()])
    np.testing.assert_array_equal(np.sort(many, axis=0), np.sort(valid[valid[:, 2] == 3], axis=0))


def test_what_is_given_stands_in_every_sample_and_in_the_real_rows(folders):
    data, model = folders
    result = sample(data, model, Request(samples=50, given=("hour=hour3",), label=1, split="train"))
    with open(model / "report" / "samples" / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["hour"], row["click"]) for row in rows} == {("hour3", "1")}
    report = (model / "report" / "samples" / "REPORT.md").read_text()
    assert "with hour=hour3, label 1 given" in report
    assert result["comparison"] is None and "They are not compared with real rows" in report
    assert not list((model / "report" / "samples").glob("*.png"))


def test_rows_with_values_that_are_read_as_masked_are_not_compared(tmp_path):
    data, model = write_data_folder(tmp_path / "data", rows=1280), tmp_path / "model"
    config = load_config(None, ["pretrain.epochs=1", "model.dcn.hidden_units=[16]", "model.unknown=mask", "model.rare_count=130",
                                "model.ignored_fields=[item]"])
    train("pretrain", config, data, model)  # each of ten users has about 128 rows, each item 64
    result = sample(data, model, Request(samples=20, split="train"))
    assert "The model reads unknown and rare values as masked" in (model / "report" / "samples" / "REPORT.md").read_text()
    with open(model / "report" / "samples" / "samples.csv", newline="") as file:
        drawn = {row["user"] for row in csv.DictReader(file)}
    users = np.bincount(np.concatenate([batch["ids"][:, 0] for batch in EvaluationSplit(DataFolder.open(data), "train", 2000).batches()]))
    assert 0 < (users >= 130).sum() < 10 and {int(user.removeprefix("user")) for user in drawn} <= set(np.flatnonzero(users >= 130))
    assert result["comparison"] is None
    rare = np.flatnonzero((users > 0) & (users < 130))[0]
    with pytest.raises(UserError, match="--given fixes user to a value that the model reads as masked .*: give a more frequent value"):
        sample(data, model, Request(samples=20, given=(f"user=user{rare}",)))


def test_with_the_label_given_no_click_rates_are_compared(folders):
    data, model = folders
    measures = sample(data, model, Request(samples=100, label=0, split="train"))["comparison"]
    assert measures["total_variation"]["click"] == {"generated": 0.0, "chance": 0.0}
    assert "label_rate" not in measures
    assert "which the model was trained on, that have what is given" in (model / "report" / "samples" / "REPORT.md").read_text()


@pytest.mark.parametrize(("request_", "message"), [
    (Request(samples=0), "--samples: expected at least 1, received 0"),
    (Request(seed=-1), "--seed: expected 0 or more, received -1"),
    (Request(given=("hour",)), "--given hour: expected FIELD=VALUE, for example --given user=VALUE"),
    (Request(given=("city=Rome",)), "--given city=Rome: 'city' is no field that the model reads; expected one of user, item, hour"),
    (Request(given=("hour=hour2", "hour=hour3")), "--given fixes hour twice: give one value"),
    (Request(given=("hour=noon",)), "--given hour=noon: no training row has this value, .*vocabularies/hour.txt: the most frequent are"),
    (Request(given=("hour=",)), "--given hour=: no training row has this value"),
])
def test_requests_that_cannot_be_met(folders, request_, message):
    with pytest.raises(UserError, match=message):
        sample(*folders, request_)


def test_a_model_folder_without_pre_training_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="has no pre-trained checkpoint, from which samples are drawn: run `python -m trainer.task --stage=pretrain"):
        sample(folders[0], tmp_path, Request(10))


def test_other_data_than_the_model_has_seen_are_refused(folders, tmp_path):
    other = write_data_folder(tmp_path / "other", rows=64)
    with pytest.raises(UserError, match="was pre-trained on other data than .*other.*: give the data folder that it was pre-trained on"):
        sample(other, folders[1], Request(10))


def test_a_pre_training_that_learns_no_distribution_is_refused(folders, monkeypatch):
    monkeypatch.setattr(StageCheckpoints, "config", lambda self, checkpoint: load_config(None, ["pretrain.objective=masked_features"]))
    with pytest.raises(UserError, match="pre-trained with `pretrain.objective: masked_features`, which does not learn the distribution"):
        sample(*folders, Request(10))


@pytest.fixture(scope="module")
def folders_with_lists(tmp_path_factory) -> tuple[Path, Path]:
    """Rows with a sequence, and a model that knows no label and does not read one of the fields."""
    folder = tmp_path_factory.mktemp("lists")
    data, model = write_folder_of_all_kinds(folder / "data"), folder / "model"
    train("pretrain", load_config(None, ["pretrain.epochs=1", "model.dcn.hidden_units=[8]", "diffusion.label=absent",
                                         "model.ignored_fields=[device]", "model.time_input=sinusoidal"]), data, model)
    return data, model


def test_lists_are_those_of_real_rows_and_a_label_that_the_model_does_not_know_is_left_out(folders_with_lists):
    data, model = folders_with_lists
    measures = sample(data, model, Request(samples=100))["comparison"]
    assert set(measures["total_variation"]) == {"user", "item", "last", "price"}
    with open(model / "report" / "samples" / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["user", "item", "last", "price", "history"]
    opened, config, _ = open_pretrained(data, model)
    real = nearest_rows(opened, config.input, "valid", Given({}), 100, 1, all_known)[0].lists["history"]
    assert [row["history"] for row in rows] == ["|".join(f"item{value}" for value in values[values >= 0]) for values in real]
    report = (model / "report" / "samples" / "REPORT.md").read_text()
    assert "Lists are not drawn: history is taken from those rows of the valid split (100) that have what is given." in report


@pytest.mark.parametrize(("request_", "message"), [
    (Request(given=("device=phone",)), "'device' is no field that the model reads; expected one of user, item, last, price, history"),
    (Request(given=("image=1|2",)), "'image' is no field that the model reads"),
    (Request(given=("history=item2|nothing",)), "--given history=nothing: no training row has this value, .*vocabularies/history.txt: the most"),
    (Request(given=("history=item2", "history=item3")), "--given fixes history twice"),
    (Request(label=1), "--given_label: the model was pre-trained with `diffusion.label: absent`.* leave the flag out"),
])
def test_requests_that_this_model_cannot_meet(folders_with_lists, request_, message):
    with pytest.raises(UserError, match=message):
        sample(*folders_with_lists, request_)


def test_a_given_list_stands_in_every_sample(folders_with_lists, capsys):
    sample(*folders_with_lists, Request(samples=30, given=("history=item2|item9", "user=user3")))
    rows = samples_of(folders_with_lists[1])
    assert len(rows) == 30 and {(row["history"], row["user"]) for row in rows} == {("item2|item9", "user3")}
    report = (folders_with_lists[1] / "report" / "samples" / "REPORT.md").read_text()
    assert "with history=item2|item9, user=user3 given" in report
    assert "are not drawn" not in report + capsys.readouterr().out


def test_a_given_list_is_read_by_the_network(folders_with_lists):
    tables = []
    for given in ("history=item2|item9", "history="):
        sample(*folders_with_lists, Request(samples=200, given=(given,)))
        tables.append([(row["user"], row["item"], row["last"], row["price"]) for row in samples_of(folders_with_lists[1])])
    assert tables[0] != tables[1]


def test_without_a_real_row_that_has_what_is_given_lists_are_those_of_the_closest(folders_with_lists, capsys):
    data, model = folders_with_lists
    given = ("user=user3", "item=item4", "last=item5", "price=1.5")
    assert sample(data, model, Request(samples=20, given=given))["comparison"] is None
    rows = samples_of(model)
    assert {(row["user"], row["item"], row["last"]) for row in rows} == {("user3", "item4", "item5")}

    valid, _, _ = open_pretrained(data, model)
    batches = list(EvaluationSplit(valid, "valid", 1000).batches())
    ids, history = (np.concatenate([batch[name] for batch in batches]) for name in ("ids", "history"))
    agreeing = (ids == [3, 4, 5, 3]).sum(axis=1)
    assert agreeing.max() < 4
    closest = {"|".join(f"item{value}" for value in values if value >= 0) for values in history[agreeing == agreeing.max()]}
    assert {row["history"] for row in rows} <= closest

    rows_used = min((agreeing == agreeing.max()).sum(), 20)
    said = (f"ists are not drawn: history is taken from those rows of the valid split ({rows_used}) that come closest to what is given, as "
            "none to compare with has all of it")
    assert f"sample: l{said}" in capsys.readouterr().out
    assert f"L{said}" in (model / "report" / "samples" / "REPORT.md").read_text()


def samples_of(model: Path) -> list[dict[str, str]]:
    with open(model / "report" / "samples" / "samples.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def three_lists(tmp_path_factory) -> DataFolder:
    """Rows of user, tags (a set) and history (a sequence); every split has the same three."""
    rows = (np.array([[2], [2], [3]]), np.array([0, 1, 0]), {"tags": [[2, 3], [3], [2]], "history": [[2, 3], [3, 2], np.empty(0, int)]})
    meanings = {"user": ["a", "b"], "tags": ["x", "y", "z"], "history": ["p", "q"]}
    fields = {"user": {}, "tags": {"kind": "multivalued", "max_length": 2, "separator": ";"},
              "history": {"kind": "sequence", "max_length": 2}}
    folder = tmp_path_factory.mktemp("three") / "data"
    return DataFolder.open(write_folder(folder, meanings, dict.fromkeys(SPLITS, rows), files=1, fields=fields))


@pytest.mark.parametrize(("given", "label", "expected", "comparable"), [
    ([], None, [0, 1, 2], True),
    (["user=a"], None, [0, 1], True),
    (["tags=y;x"], None, [0], True),  # a set
    (["history=q|p"], None, [1], True),  # a sequence
    (["history="], None, [2], True),
    (["user=b", "history=p|q"], None, [0, 2], False),  # each has one of both
    (["user=b", "tags=x"], 1, [2], False),  # two of three
])
def test_rows_that_have_most_of_what_is_given(three_lists, given, label, expected, comparable):
    parsed = Given.parse(given, label, three_lists, FieldValues(three_lists.schema, three_lists.path))
    rows, exact = nearest_rows(three_lists, load_config(None, []).input, "valid", parsed, 10, 1, all_known)
    whole = [([2, 0], [2, 3], [2, 3]), ([2, 1], [3, -1], [3, 2]), ([3, 0], [2, -1], [-1, -1])]
    found = sorted(whole.index((table, tags, history)) for table, tags, history in zip(
        rows.table.tolist(), rows.lists["tags"].tolist(), rows.lists["history"].tolist(), strict=True))
    assert (found, exact) == (expected, comparable)


def test_rows_that_the_model_reads_as_masked_are_the_last_choice(three_lists):
    def knows(ids: np.ndarray) -> np.ndarray:
        return ids[:, 0] != 3

    for given, users, comparable in ((Given({}), {2}, True), (Given({"user": 3}), {3}, False)):
        rows, exact = nearest_rows(three_lists, load_config(None, []).input, "valid", given, 10, 1, knows)
        assert set(rows.table[:, 0]) == users and exact == comparable


@pytest.mark.parametrize(("name", "text", "ids"), [
    ("tags", "x;y", [2, 3]),
    ("tags", "", [-1, -1]),
    ("tags", ";y;", [3, -1]),  # missing values are left out
    ("tags", "x;y;nowhere", [2, 3]),  # of a set the first are kept, as the log's are
    ("history", "nowhere|p|q", [2, 3]),  # of a sequence the last
])
def test_lists_as_the_user_types_them(three_lists, name, text, ids):
    given = Given.parse([f"{name}={text}"], None, three_lists, FieldValues(three_lists.schema, three_lists.path))
    assert given.ids == {} and given.lists[name].tolist() == ids


def test_a_value_that_no_list_of_a_training_row_has_is_refused(three_lists):
    with pytest.raises(UserError, match="--given tags=z: no training row has this value.*/tags.txt: the most frequent are 'x', 'y'"):
        Given.parse(["tags=x;z"], None, three_lists, FieldValues(three_lists.schema, three_lists.path))


# Values.


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory) -> DataFolder:
    """Fields user and item (texts), price (boundaries 1 and 2) and device (five hash buckets)."""
    return DataFolder.open(write_folder_of_all_kinds(tmp_path_factory.mktemp("kinds") / "data"))


@pytest.mark.parametrize(("name", "texts"), [
    ("item", ["", "(unknown)", "item2", "item21"]),  # its vocabulary is that of history
    ("price", ["", "(unknown)", "< 1", "[1, 2)", ">= 2"]),
    ("device", ["", "(unknown)", "(hash bucket 0)", "(hash bucket 4)"]),
])
def test_ids_as_the_user_knows_them(all_kinds, name, texts):
    field = next(field for field in all_kinds.schema.id_fields if field.name == name)
    ids = {"item": [0, 1, 2, 21], "price": [0, 1, 2, 3, 4], "device": [0, 1, 2, 6]}[name]
    assert FieldValues(all_kinds.schema, all_kinds.path).texts(field, np.array([*ids, ids[2]])).tolist() == [*texts, texts[2]]


@pytest.mark.parametrize(("name", "text", "value"), [
    ("item", "item5", 5), ("last", "", 0), ("price", "0.5", 2), ("price", "1", 3), ("price", "7e3", 4), ("device", "phone", None)])
def test_ids_of_what_the_user_types(all_kinds, name, text, value):
    fields = {field.name: (field, counts) for field, counts in zip(all_kinds.schema.id_fields, all_kinds.field_frequencies, strict=False)}
    if value is None:
        value = 2 + int(tf.strings.to_hash_bucket_fast(text, 5))
    assert FieldValues(all_kinds.schema, all_kinds.path).id_of(fields[name][0], text, fields[name][1]) == value


def test_a_number_is_expected_of_a_numeric_field(all_kinds):
    price = all_kinds.schema.numeric_fields[0]
    with pytest.raises(UserError, match="--given price=cheap: expected a number, as the field is numeric"):
        FieldValues(all_kinds.schema, all_kinds.path).id_of(price, "cheap", np.ones(5))


def test_a_value_that_only_another_field_has_is_refused(all_kinds):
    last = next(field for field in all_kinds.schema.id_fields if field.name == "last")
    counts = np.eye(22, dtype=int)[3]
    with pytest.raises(UserError, match="--given last=item2: no training row has this value.*vocabularies/history.txt: the most frequent "
                                        "are 'item3'"):
        FieldValues(all_kinds.schema, all_kinds.path).id_of(last, "item2", counts)
