"""A model of yesterday on the data of today: rows go to their places by value, and a new item becomes predictable."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from data_folders import write_folder

from preprocessing.errors import UserError
from preprocessing.schema import SPLITS
from trainer import carry_over as carry_over_module
from trainer import task
from trainer.carry_over import NEW, EarlierModel, carry_over, categorical_sources, numeric_sources
from trainer.checkpoints import StageCheckpoints, TrainingState, load_trained
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.metrics import auc
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer
from trainer.prediction import Predictor
from trainer.vocabularies import keep_vocabularies, kept_folder, read_vocabulary

NETWORK = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]"]
USERS, OLD_ITEMS, NEW_ITEMS = 40, 20, 6


def vocabulary(*values: str) -> pa.Array:
    return pa.array([f"{value}\n".encode() for value in values], pa.large_binary())


# Matching values and buckets.


def test_rows_of_a_grown_and_reordered_vocabulary_come_from_the_rows_of_their_values():
    rows = categorical_sources(vocabulary("a", "b", "c", "d"), vocabulary("x", "c", "a", "aa", "b"))
    assert rows.source.tolist() == [0, 1, NEW, 4, 2, NEW, 3]
    assert rows.left == 1 and rows.left_values == ("d",) and rows.new == 2


def test_values_behind_a_common_beginning_are_looked_up():
    rows = categorical_sources(vocabulary("a", "b", "c", "d", "e"), vocabulary("a", "c", "b", "d", "x", "y"))
    assert rows.source.tolist() == [0, 1, 2, 4, 3, 5, NEW, NEW]
    assert rows.left == 1 and rows.left_values == ("e",)


def test_the_most_frequent_of_the_values_that_left_are_named():
    rows = categorical_sources(vocabulary(*"abcdefgh"), vocabulary("b"))
    assert rows.left == 7 and rows.left_values == ("a", "c", "d", "e", "f")


def test_vocabularies_may_be_empty():
    assert categorical_sources(vocabulary(), vocabulary("a")).source.tolist() == [0, 1, NEW]
    assert categorical_sources(vocabulary("a"), vocabulary()).source.tolist() == [0, 1]


def test_equal_boundaries_carry_every_bucket():
    rows = numeric_sources(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert rows.source.tolist() == [0, 1, 2, 3, 4] and not rows.remark


def test_a_moved_bucket_comes_from_the_one_that_holds_its_midpoint():
    # Buckets before: below 10, 10 to 20, above. Now: below 4, 4 to 8, 8 to 14, 14 to 40, above; midpoints 6, 11, 27.
    rows = numeric_sources(np.array([10.0, 20.0]), np.array([4.0, 8.0, 14.0, 40.0]))
    assert rows.source.tolist() == [0, 1, 2, 2, 3, 4, 4] and "moved" in rows.remark and rows.new == 0


def test_a_midpoint_on_a_boundary_lies_above_it():
    assert numeric_sources(np.array([10.0]), np.array([5.0, 15.0])).source.tolist() == [0, 1, 2, 3, 3]


# Variables at their places.


def draw(sizes: list[int], seed: int, rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size + 2, rows) for size in sizes], axis=1), rng.integers(0, 2, rows)


def folder_of(path, meanings, fields=None) -> DataFolder:
    """A data folder of these vocabularies and boundaries; see `write_folder` for `fields`. Lists are empty."""
    sizes = {name: len(values) + (not isinstance(values[0], str)) for name, values in meanings.items()}
    fields = fields or {name: {} for name in meanings}
    lists = [name for name, field in fields.items() if field.get("kind") == "sequence"]
    drawn = [field.get("hash_buckets") or sizes[field.get("vocabulary", name)] for name, field in fields.items() if name not in lists]
    splits = {split: (*draw(drawn, seed), {name: [np.zeros(0, int)] * 64 for name in lists}) for seed, split in enumerate(SPLITS)}
    return DataFolder.open(write_folder(path, meanings, splits, fields=fields))


def saved_model(model_dir, data: DataFolder, stage="finetune", assignments=()) -> DGenCTR:
    """A model folder with one checkpoint, of a model in which every number differs from every other."""
    config = load_config(None, [*NETWORK, *assignments])
    model = DGenCTR(data.schema, config, stage, data.field_frequencies)
    first = 0
    for variable in model.named_variables().values():
        size = int(tf.size(variable))
        variable.assign(np.arange(first, first + size).reshape(variable.shape).astype(variable.dtype.as_numpy_dtype))
        first += size
    checkpoints = StageCheckpoints(model_dir, stage)
    keep_vocabularies(data, model_dir)
    state = TrainingState("the test", data.checksum, learning_rate=0.01, epoch=1, best_epoch=1)
    checkpoints.save(model, build_optimizer(model, 0.01, 0.0), state, config)
    return model


def carried_model(model_dir, data: DataFolder, stage="finetune", assignments=()) -> DGenCTR:
    config = load_config(None, [*NETWORK, *assignments])
    model = DGenCTR(data.schema, config, stage, data.field_frequencies)
    carry_over(model, EarlierModel(model_dir, stage), config, data)
    return model


def rows_of(model: DGenCTR, name: str) -> np.ndarray:
    """The embeddings of a field's values, its owner's where it shares them."""
    field = next(field for field in model.schema.fields if field.name == name)
    return model.embedding.table.numpy()[field.offset:field.offset + field.rows]


BEFORE = {"item": ["a", "b", "c"], "price": [1.0, 2.0], "user": ["u", "v"]}
GROWN = {"item": ["n", "c", "a", "m"], "price": [1.0, 2.0], "user": ["v", "u", "w"]}
REORDERED = {"user": ["v", "u", "w"], "hour": ["noon"], "item": ["n", "c", "a", "m"]}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("before") / "data", BEFORE)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("grown") / "data", GROWN)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, before):
    """A model folder and the model that was saved there."""
    model_dir = tmp_path_factory.mktemp("earlier")
    return model_dir, saved_model(model_dir, before)


@pytest.mark.parametrize("start", ["mask", "unknown"])
def test_rows_are_bit_equal_at_their_new_places(earlier, grown, start, monkeypatch):
    monkeypatch.setattr(carry_over_module, "BLOCK_ROWS", 2)
    model_dir, old = earlier
    new = carried_model(model_dir, grown, assignments=[f"finetune.new_rows={start}"])
    masks = old.embedding.mask_embeddings.numpy()
    item, user = rows_of(old, "item"), rows_of(old, "user")
    new_item, new_user = (masks[0], masks[2]) if start == "mask" else (item[1], user[1])
    np.testing.assert_array_equal(rows_of(new, "item"), [item[0], item[1], new_item, item[4], item[2], new_item])
    np.testing.assert_array_equal(rows_of(new, "price"), rows_of(old, "price"))
    np.testing.assert_array_equal(rows_of(new, "user"), [user[0], user[1], user[3], user[2], new_user])


@pytest.mark.parametrize("mask_embedding", ["shared", "zero"])
def test_new_rows_start_from_what_masks_their_token(tmp_path, before, grown, mask_embedding):
    settings = [f"model.mask_embedding={mask_embedding}"]
    old = saved_model(tmp_path / "old", before, assignments=settings)
    new = carried_model(tmp_path / "old", grown, assignments=settings)
    for row in (rows_of(new, "item")[2], rows_of(new, "user")[4]):
        np.testing.assert_array_equal(row, old.embedding.mask_embeddings[0])


def test_rare_values_are_counted_in_the_new_data(tmp_path, before, grown):
    settings = ["model.unknown=mask", "model.rare_count=12"]
    saved_model(tmp_path / "old", before, assignments=settings)  # in which every row but the first is rare
    new = carried_model(tmp_path / "old", grown, assignments=settings)
    rare = grown.frequencies < 12
    assert 3 < rare.sum() < len(rare) - 3
    np.testing.assert_array_equal(new.embedding.rare_rows, rare)


def test_every_other_variable_is_taken_over(earlier, grown):
    model_dir, old = earlier
    variables = carried_model(model_dir, grown).named_variables()
    for name, variable in old.named_variables().items():
        if variable is not old.embedding.table:
            np.testing.assert_array_equal(variables[name], variable, err_msg=name)


def test_moved_buckets_are_carried_and_said(earlier, tmp_path, capsys):
    data = folder_of(tmp_path / "data", {**BEFORE, "price": [0.5, 1.8, 5.0]})
    old, new = rows_of(earlier[1], "price"), rows_of(carried_model(earlier[0], data), "price")
    np.testing.assert_array_equal(new, old[[0, 1, 2, 3, 4, 4]])
    assert "price: its bucket boundaries moved" in capsys.readouterr().out


def test_a_person_sees_what_was_carried_and_what_is_gone(earlier, grown, capsys):
    carried_model(earlier[0], grown)
    printed = capsys.readouterr().out
    assert "item: 1 values left the vocabulary: b" in printed
    line = next(line for line in printed.splitlines() if "item" in line)
    assert [word for word in line.split() if word.isdigit()] == ["5", "6", "4", "2", "1"]


def test_a_set_backbone_follows_its_fields_by_name(tmp_path, before, capsys):
    old = saved_model(tmp_path / "old", before, "pretrain", ["model.backbone=hstu"])
    data = folder_of(tmp_path / "data", REORDERED)
    fresh = DGenCTR(data.schema, load_config(None, [*NETWORK, "model.backbone=hstu"]), "pretrain", data.field_frequencies)
    new = carried_model(tmp_path / "old", data, "pretrain", ["model.backbone=hstu"])
    user, mask = rows_of(old, "user"), old.embedding.mask_embeddings.numpy()[2]
    np.testing.assert_array_equal(rows_of(new, "user"), [user[0], user[1], user[3], user[2], mask])
    for part, name in (("embedding", "mask_embeddings"), ("embedding", "field_embeddings"),
                       ("field_scoring", "kernel"), ("field_scoring", "bias")):
        was, now = (getattr(getattr(model, part), name).numpy() for model in (old, new))
        np.testing.assert_array_equal(now[[0, 2]], was[[2, 0]], err_msg=name)
        if part == "embedding":
            np.testing.assert_array_equal(now[3], was[3], err_msg=f"{name} of the label")
        assert now.shape == getattr(getattr(fresh, part), name).shape and abs(now[1]).max() < 1, name
    assert 0 < abs(rows_of(new, "hour")).max() < 1
    printed = capsys.readouterr().out
    assert "hour: the earlier model did not have this field" in printed and "price: the data no longer have this field" in printed


def test_a_grown_vocabulary_keeps_its_rows_and_adds_new_ones_behind(earlier, tmp_path, capsys):
    old, masks = earlier[1], earlier[1].embedding.mask_embeddings.numpy()
    new = carried_model(earlier[0], folder_of(tmp_path / "data", {**BEFORE, "item": ["a", "b", "c", "n", "m"]}))
    np.testing.assert_array_equal(rows_of(new, "item"), [*rows_of(old, "item"), masks[0], masks[0]])
    for name in ("price", "user"):  # behind it in the table
        np.testing.assert_array_equal(rows_of(new, name), rows_of(old, name))
    assert "left the vocabulary" not in capsys.readouterr().out


HASHED = {"item": {}, "device": {"hash_buckets": 3}, "user": {}}
ITEMS_AND_USERS = {"item": ["a", "b"], "user": ["u"]}


@pytest.fixture(scope="module")
def hashed(tmp_path_factory):
    data = folder_of(tmp_path_factory.mktemp("hashed") / "data", ITEMS_AND_USERS, HASHED)
    model_dir = tmp_path_factory.mktemp("hashed") / "model"
    return model_dir, saved_model(model_dir, data)


def test_a_hashed_field_is_carried_bucket_by_bucket(hashed, tmp_path):
    model_dir, old = hashed
    new = carried_model(model_dir, folder_of(tmp_path / "data", {**ITEMS_AND_USERS, "item": ["n", "b", "a"]}, HASHED))
    np.testing.assert_array_equal(rows_of(new, "device"), rows_of(old, "device"))
    np.testing.assert_array_equal(rows_of(new, "item")[3:], rows_of(old, "item")[[3, 2]])


@pytest.mark.parametrize(("device", "meanings", "said"), [
    ({"hash_buckets": 4}, {}, "device: it had 3 hash buckets and has 4 hash buckets now, so every value starts anew"),
    ({}, {"device": ["x", "y", "z", "q"]}, "device: it had 3 hash buckets and has a vocabulary now, so every value starts anew")])
def test_buckets_of_another_number_start_anew(hashed, tmp_path, capsys, device, meanings, said):
    model_dir, old = hashed
    new = carried_model(model_dir, folder_of(tmp_path / "data", {**ITEMS_AND_USERS, **meanings}, {**HASHED, "device": device}))
    rows, mask = rows_of(old, "device"), old.embedding.mask_embeddings.numpy()[1]
    np.testing.assert_array_equal(rows_of(new, "device"), [rows[0], rows[1], mask, mask, mask, mask])
    np.testing.assert_array_equal(rows_of(new, "user"), rows_of(old, "user"))
    assert said in capsys.readouterr().out


SHARING = {"history": {"kind": "sequence"}, "item": {"vocabulary": "history"}, "user": {}, "last": {"vocabulary": "history"}}
SHARED = {"history": ["a", "b", "c"], "user": ["u", "v"]}


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    data = folder_of(tmp_path_factory.mktemp("sharing") / "data", SHARED, SHARING)
    model_dir = tmp_path_factory.mktemp("sharing") / "model"
    return model_dir, saved_model(model_dir, data)


def test_shared_rows_are_carried_once_for_all_their_fields(sharing, tmp_path):
    model_dir, old = sharing
    data = folder_of(tmp_path / "data", {"history": ["n", "c", "a"], "user": ["v", "u"]}, SHARING)
    new, table = carried_model(model_dir, data), rows_of(old, "history")
    # A list has no token, so the new item starts from the mask embedding of `item`, the first token.
    expected = [table[0], table[1], old.embedding.mask_embeddings.numpy()[0], table[4], table[2]]
    for name in ("history", "item", "last"):
        np.testing.assert_array_equal(rows_of(new, name), expected)
    np.testing.assert_array_equal(rows_of(new, "user"), rows_of(old, "user")[[0, 1, 3, 2]])


def test_vocabularies_of_owners_are_kept(sharing):
    kept = next(sharing[0].glob("trained_on/*/vocabularies"))
    assert sorted(path.name for path in kept.iterdir()) == ["history.txt", "user.txt"]


def test_a_new_owner_takes_the_rows_of_the_field_that_was_there(before, tmp_path, capsys):
    # Items had rows of their own; now they share those of a list that is new, and that the model does not read.
    old = saved_model(tmp_path / "old", before)
    fields = {"history": {"kind": "sequence"}, "item": {"vocabulary": "history"}, "price": {}, "user": {}}
    meanings = {"history": ["b", "n"], "price": BEFORE["price"], "user": BEFORE["user"]}
    data = folder_of(tmp_path / "data", meanings, fields).without(["history"])
    new = carried_model(tmp_path / "old", data, assignments=["model.ignored_fields=[history]"])
    item = rows_of(old, "item")
    np.testing.assert_array_equal(rows_of(new, "history"), [item[0], item[1], item[3], old.embedding.mask_embeddings.numpy()[0]])
    assert "history: the earlier model did not have this field" in capsys.readouterr().out


def test_rows_that_two_fields_had_and_one_vocabulary_has_now(before, tmp_path, capsys):
    old = saved_model(tmp_path / "old", before)
    fields = {"item": {}, "price": {}, "user": {"vocabulary": "item"}}
    new = carried_model(tmp_path / "old", folder_of(tmp_path / "data", {"item": ["a", "u"], "price": BEFORE["price"]}, fields))
    np.testing.assert_array_equal(rows_of(new, "user")[:3], rows_of(old, "item")[:3])
    assert "item: user uses these rows now; those it had of its own were left behind" in capsys.readouterr().out


@pytest.mark.parametrize("start", ["mask", "unknown"])
def test_rows_that_only_a_list_uses_start_from_the_unknown_row(tmp_path, start):
    fields = {"user": {}, "history": {"kind": "sequence"}}
    saved = saved_model(tmp_path / "old", folder_of(tmp_path / "before", SHARED, fields))
    data = folder_of(tmp_path / "data", {**SHARED, "history": ["a", "b", "c", "n"]}, fields)
    history = rows_of(saved, "history")
    new = carried_model(tmp_path / "old", data, assignments=[f"finetune.new_rows={start}"])
    np.testing.assert_array_equal(rows_of(new, "history"), [*history, history[1]])


# What is refused.


def refusal(model_dir, data: DataFolder, stage="finetune", assignments=()) -> str:
    with pytest.raises(UserError) as error:
        carried_model(model_dir, data, stage, assignments)
    return str(error.value)


def test_a_concatenating_backbone_needs_its_fields_in_order(earlier, tmp_path):
    message = refusal(earlier[0], folder_of(tmp_path / "data", REORDERED))
    assert "backbone 'dcn' reads the fields at fixed places" in message
    assert "expected item, price, user; received user, hour, item" in message


def test_a_field_of_another_kind_is_refused(earlier, tmp_path):
    data = folder_of(tmp_path / "data", {**BEFORE, "price": ["cheap", "dear"]})
    assert "field 'price' was numeric and is categorical now" in refusal(earlier[0], data)


def test_another_network_is_refused(earlier, grown):
    message = refusal(earlier[0], grown, assignments=["model.embedding_dim=8"])
    assert "has another network (model.embedding_dim: 4 -> 8)" in message and "epoch-0001/config.yaml" in message


def test_a_folder_without_the_stage_is_refused(earlier, grown):
    assert "has no checkpoint of stage pretrain" in refusal(earlier[0], grown, "pretrain")


def test_a_folder_without_its_vocabularies_is_refused(earlier, before, grown, tmp_path):
    model_dir = shutil.copytree(earlier[0], tmp_path / "old")
    shutil.rmtree(kept_folder(model_dir, before.checksum))
    message = refusal(model_dir, grown)
    assert "does not hold the vocabularies that it was trained with" in message and "--stage=finetune" in message


@pytest.mark.parametrize(("text", "received"), [("a\nb\n", "received 2:"), ("a\nb\nc\nd", "received 3 and a part of one")])
def test_a_broken_vocabulary_is_refused(earlier, grown, tmp_path, text, received):
    model_dir = shutil.copytree(earlier[0], tmp_path / "old")
    path = next(model_dir.glob("trained_on/*/vocabularies/item.txt"))
    path.write_text(text)
    message = refusal(model_dir, grown)
    assert f"{path}: expected 3 whole lines" in message and received in message


def test_buckets_of_another_schema_are_refused(earlier, grown, tmp_path):
    model_dir = shutil.copytree(earlier[0], tmp_path / "old")
    path = next(model_dir.glob("trained_on/*/buckets.json"))
    path.write_text('{"price": {"boundaries": [1.0]}}')
    assert f"{path}: expected 3 buckets of 'price'" in refusal(model_dir, grown)


def test_a_data_folder_without_a_vocabulary_is_refused(tmp_path):
    data = folder_of(tmp_path / "data", BEFORE)
    (data.path / "vocabularies" / "user.txt").unlink()
    with pytest.raises(UserError, match=r"vocabularies/user.txt does not exist.*preprocessing.task"):
        keep_vocabularies(data, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_a_killed_copy_left_is_replaced(before, tmp_path):
    kept = kept_folder(tmp_path, before.checksum)
    partial = kept.with_name(f".{kept.name}.partial")
    partial.mkdir(parents=True)
    (partial / "half").write_text("")
    keep_vocabularies(before, tmp_path)
    assert not partial.exists() and sorted(path.name for path in kept.iterdir()) == ["buckets.json", "schema.yaml", "vocabularies"]
    field = before.schema.fields[0]
    assert read_vocabulary(kept, field).to_pylist() == [b"a\n", b"b\n", b"c\n"]


# A night: a model of yesterday's items, a day with new ones.


def draw_day(items: list[str], seed: int, rows: int) -> tuple[list[tuple[str, str]], np.ndarray]:
    """(user, item) of each row and its label: an item of an even number is clicked 9 times in 10, the others 1 in 10."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, len(items), rows)
    even = np.array([int(name.removeprefix("item")) % 2 == 0 for name in items])
    users = [f"user{number}" for number in rng.integers(0, USERS, rows)]
    return list(zip(users, (items[place] for place in item), strict=True)), (rng.random(rows) < np.where(even[item], 0.9, 0.1)).astype(int)


def encoded(day, meanings) -> tuple[np.ndarray, np.ndarray]:
    """A day as records hold it; what a vocabulary lacks is unknown, id 1."""
    ids = {name: {value: row for row, value in enumerate(values, 2)} for name, values in meanings.items()}
    rows, labels = day
    return np.array([[ids["user"].get(user, 1), ids["item"].get(item, 1)] for user, item in rows]), labels


NIGHT = ["model.embedding_dim=4", "model.dcn.hidden_units=[16]", "model.dcn.cross_layers=1", "finetune.batch_size=64",
         "finetune.learning_rate=0.01", "finetune.dropout=0", "finetune.epochs=3"]


def flags(data, model_dir, *more):
    sets = [part for assignment in NIGHT for part in ("--set", assignment)]
    return ["--data_dir", str(data), "--model_dir", str(model_dir), *sets, *more]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Folders of yesterday and today, the models trained on them, and the logits of both on the same rows of tomorrow."""
    folder = tmp_path_factory.mktemp("night")
    users = [f"user{number}" for number in range(USERS)]
    old = [f"item{number}" for number in range(OLD_ITEMS)]
    new = [f"item{number}" for number in range(OLD_ITEMS, OLD_ITEMS + NEW_ITEMS)]
    meanings = {"yesterday": {"user": users, "item": old}, "today": {"user": users[::-1], "item": [*new, *old[::-1]]}}
    tomorrow = draw_day(old + new, 9, 1500)
    for seed, (name, items) in enumerate([("yesterday", old), ("today", old + new)]):
        days = {"train": draw_day(items, seed, 2000), "valid": draw_day(items, seed + 2, 500), "test": tomorrow}
        write_folder(folder / name, meanings[name], {split: encoded(day, meanings[name]) for split, day in days.items()})
    assert task.main(["--stage=finetune", "--from_scratch", *flags(folder / "yesterday", folder / "old")]) == 0
    assert task.main(["--stage=finetune", "--init_from", str(folder / "old"), *flags(folder / "today", folder / "new")]) == 0
    predictions = [Predictor(load_trained(folder / model), DataFolder.open(folder / data)).predict("test")
                   for model, data in (("old", "yesterday"), ("new", "today"))]
    return folder, predictions, np.array([item in new for _, item in tomorrow[0]])


def test_a_new_item_becomes_predictable_and_the_old_ones_stay_so(night):
    _, (before, after), is_new = night

    def areas(rows):
        return [auc(predictions.labels[rows], predictions.logits[rows]) for predictions in (before, after)]

    unknown, learnt = areas(is_new)
    assert unknown < 0.6 and learnt > 0.8
    as_it_was, as_it_is = areas(~is_new)
    assert as_it_was > 0.8 and as_it_is > as_it_was - 0.01


def test_the_carried_model_knows_the_old_items_before_any_step(night):
    folder, (before, _), _ = night
    model = carried_model(folder / "old", DataFolder.open(folder / "today"), assignments=[*NIGHT, "finetune.new_rows=unknown"])
    logits = Predictor(model, DataFolder.open(folder / "today")).predict("test").logits
    np.testing.assert_allclose(logits, before.logits, atol=1e-5)  # a new item is as unknown as before


def test_what_began_at_random_has_seen_no_masks(night):
    assert not load_trained(night[0] / "new").knows_masks


def test_the_model_folder_says_what_its_rows_stand_for(night):
    folder, *_ = night
    checkpoints = StageCheckpoints(folder / "new", "finetune")
    kept = kept_folder(folder / "new", checkpoints.state(checkpoints.best()).data)
    for name in ("schema.yaml", "vocabularies/user.txt", "vocabularies/item.txt"):
        assert (kept / name).read_bytes() == (folder / "today" / name).read_bytes()


def user_error(capsys, *arguments) -> str:
    assert task.main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_same_command_again_continues(night, capsys):
    folder, *_ = night
    assert task.main(["--stage=finetune", "--init_from", str(folder / "old"), *flags(folder / "today", folder / "new")]) == 0
    assert "already finished after epoch 3" in capsys.readouterr().out


def test_a_run_with_another_start_is_refused(night, capsys):
    folder, *_ = night
    for start in (["--init_from", str(folder / "new")], ["--from_scratch"]):
        message = user_error(capsys, "--stage=finetune", *start, *flags(folder / "today", shutil.copytree(folder / "new", folder / start[0])))
        assert "holds a run that started from an earlier model, finetune" in message and "the same --init_from" in message


def test_the_report_says_that_the_model_started_from_an_earlier_one(night):
    folder, *_ = night
    assert task.main(["--stage=evaluate", "--data_dir", str(folder / "today"), "--model_dir", str(folder / "new")]) == 0
    assert "the model started from an earlier model, finetune" in (folder / "new" / "report" / "REPORT.md").read_text()


# Flags.


def test_two_starts_at_once_are_refused(capsys):
    message = user_error(capsys, "--stage=finetune", "--init_from", "old", "--from_scratch", "--data_dir", "d", "--model_dir", "m")
    assert "--init_from and --from_scratch" in message


def test_a_model_folder_is_not_its_own_start(tmp_path, capsys):
    message = user_error(capsys, "--stage=finetune", "--init_from", f"{tmp_path}/x/../m", "--data_dir", "d", "--model_dir", f"{tmp_path}/m")
    assert "is the folder that --init_from names" in message


def test_stages_that_do_not_train_refuse_it(capsys):
    message = user_error(capsys, "--stage=evaluate", "--init_from", "old", "--data_dir", "d", "--model_dir", "m")
    assert "--stage=evaluate does not use --init_from" in message


def test_all_stages_from_an_earlier_model_leave_out_pretraining(before, monkeypatch):
    stages = []
    monkeypatch.setattr(task, "run_stage", lambda stage, *_: stages.append(stage))
    assert task.main(["--stage=all", "--init_from", "old", "--data_dir", str(before.path), "--model_dir", "m"]) == 0
    assert stages == ["finetune", "evaluate", "export"]
