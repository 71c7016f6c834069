"""Fields with several values a row: how they are read, what token they are, how they are pre-trained."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import schema_of, write_folder

from preprocessing.errors import UserError
from preprocessing.schema import SPLITS
from trainer.batch import blank_features, decoded_row_bytes
from trainer.carry_over import match_fields
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.diffusion.list_targets import ListTargets, draw_values
from trainer.input import EvaluationSplit, TrainingSplit
from trainer.interest import ListValues, MeanToken, TargetAttention
from trainer.memory import parameter_counts, predict
from trainer.models import build_model
from trainer.optimizers import build_optimizer

FIELDS = {"user": {}, "item": {}, "genres": {"kind": "multivalued", "max_length": 3},
          "history": {"kind": "sequence", "vocabulary": "item", "max_length": 5}}
ROWS = {"user": 4, "item": 8, "genres": 6}
SCHEMA = schema_of({name: {"kind": "categorical", **more} for name, more in FIELDS.items()}, ROWS)
SMALL = ["model.embedding_dim=4", "model.embedding_init=1", "model.dcn.hidden_units=[8]", "finetune.dropout=0", "runtime.matmul=float32"]
IDS = [[2, 3], [3, 4], [2, 5]]
GENRES = [[2, 3, -1], [4, -1, -1], [-1, -1, -1]]
HISTORY = [[5, 6, 7, -1], [2, -1, -1, -1], [-1, -1, -1, -1]]
COUNTS = [np.full(field.rows, 10**6) for field in SCHEMA.token_fields]


def features(ids=IDS, genres=GENRES, history=HISTORY):
    return {"ids": tf.constant(ids), "genres": tf.constant(genres), "history": tf.constant(history)}


def batch_for(seed=2, **changed):
    return {**features(**changed), "label": tf.constant([1.0, 0.0, 1.0]), "seed": tf.constant([1, seed])}


def make(stage="finetune", *assignments, schema=SCHEMA):
    tf.keras.utils.set_random_seed(1)
    config = load_config(None, [*SMALL, *assignments])
    schema = schema.without(config.model.ignored_fields)
    return build_model(schema, config, stage, [np.full(field.rows, 10**6) for field in schema.token_fields])


# The token of a list.


def test_the_mean_of_a_list_and_the_vector_of_an_empty_one():
    token, embeddings = MeanToken(2, 1.0), tf.constant([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0]])
    values = ListValues(tf.constant([[-1, 7, -1, 8], [-1, -1, -1, -1], [9, -1, -1, -1], [-1, -1, -1, -1]]))
    assert values.ids.numpy().tolist() == [7, 8, 9]
    np.testing.assert_allclose(token(embeddings, values), [[2, 4], token.empty, [5, 5], token.empty])


def attention(kind="dot", **settings):
    config = load_config(None, [f"model.interest.attention={kind}", *(f"model.interest.{name}={value}" for name, value in settings.items())])
    return TargetAttention(config.model.interest, 2, 4, 1.0, has_target=True)


def test_a_history_is_weighted_by_the_target_and_by_recency():
    token = attention()
    token.kernel.assign([[2.0, 0.0], [0.0, 1.0]])
    token.recency.assign([0.5, -0.5, 0.0])  # the last item; the one or two before it; those further back
    token.empty.assign([7.0, 8.0])
    embeddings, target = np.array([[1.0, 1.0], [0.0, 2.0], [3.0, 0.0]], np.float32), np.array([[1.0, -1.0]], np.float32)
    scores = (embeddings @ [2.0, -1.0]) / np.sqrt(2) + [-0.5, -0.5, 0.5]
    weights = np.exp(np.append(scores, 0.0))
    expected = weights @ np.vstack([embeddings, [7.0, 8.0]]) / weights.sum()
    found = token(tf.constant(embeddings), ListValues(tf.constant([[3, 4, 5, -1]])), tf.constant(target))
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_the_activation_unit_sees_target_item_and_their_product():
    token = attention("mlp", hidden_units=3)
    rng = np.random.default_rng(0)
    for variable in token.weights:
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    of_query, bias, of_item, score = (variable.numpy() for variable in (token._of_query.kernel, token._of_query.bias, token._of_item.kernel,
                                                                       token._score.kernel))
    items, target = rng.normal(size=(2, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32)
    hidden = np.concatenate([items, items * target], axis=1) @ of_item + target @ of_query + bias
    scores = (hidden / (1 + np.exp(-hidden)) @ score)[:, 0] + token.recency.numpy()[[1, 0]]
    weights = np.exp(np.append(scores, 0.0))
    expected = weights @ np.vstack([items, token.empty]) / weights.sum()
    found = token(tf.constant(items), ListValues(tf.constant([[2, 3]])), tf.constant(target[np.newaxis]))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_scores_of_any_size_leave_the_token_finite():
    token = attention()
    for scale in (1e4, -1e4):
        token.recency.assign(np.full(3, scale, np.float32))
        found = token(tf.ones((1, 2)), ListValues(tf.constant([[2], [-1]])), tf.ones((2, 2))).numpy()
        np.testing.assert_allclose(found, [np.ones(2) if scale > 0 else token.empty, token.empty], rtol=1e-5)


@pytest.mark.parametrize("kind", ["dot", "mlp", "mean"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_fills_up_a_list_changes_nothing(kind, stage):
    model = make(stage, f"model.interest.attention={kind}", "diffusion.schedule=fixed")
    wider = {"genres": [[-1, 2, 3], [4, -1, -1], [-1, -1, -1]], "history": [[5, -1, 6, 7, -1], [-1, -1, -1, 2, -1], [-1] * 5]}
    np.testing.assert_array_equal(model.click_logits(features()), model.click_logits(features(**wider)))
    for name, loss in model.loss_parts(batch_for(), training=False).items():
        np.testing.assert_array_equal(loss, model.loss_parts(batch_for(**wider), training=False)[name], err_msg=name)


@pytest.mark.parametrize("kind", ["dot", "mlp", "mean"])
def test_a_row_does_not_depend_on_the_others_and_all_lists_may_be_empty(kind):
    model = make("finetune", f"model.interest.attention={kind}")
    logits = model.click_logits(features()).numpy()
    for row in range(3):
        alone = model.click_logits({name: values[row:row + 1] for name, values in features().items()})
        np.testing.assert_allclose(alone, logits[row:row + 1], rtol=1e-5, atol=1e-6)
    none = [[-1]] * 3
    empty = model.click_logits(features(genres=none, history=none)).numpy()
    np.testing.assert_allclose(empty[2], logits[2], rtol=1e-5, atol=1e-6)
    nothing = model.click_logits(features(genres=tf.zeros((3, 0), tf.int32), history=tf.zeros((3, 0), tf.int32)))
    np.testing.assert_allclose(nothing, empty, rtol=1e-5, atol=1e-6)
    assert model.click_logits({name: values[:0] for name, values in features().items()}).shape == (0,)
    assert np.isfinite(model.click_logits(blank_features(SCHEMA))).all()


def test_the_order_of_a_sequence_counts_and_that_of_a_set_does_not():
    model = make()
    model.embedding._list_tokens[1].recency.assign([1.0, 0.0, -1.0])
    logits = model.click_logits(features())[0]
    np.testing.assert_allclose(model.click_logits(features(genres=[[3, 2, -1], *GENRES[1:]]))[0], logits, rtol=1e-5)
    assert abs(model.click_logits(features(history=[[7, 6, 5, -1], *HISTORY[1:]]))[0] - logits) > 1e-3


def test_the_target_asks_and_where_it_is_masked_its_mask_does():
    embedding = make().embedding
    mask = np.zeros((3, 5), bool)
    clean = embedding(features(), tf.zeros(3), tf.constant(mask)).numpy()
    masked = embedding(features(), tf.zeros(3), tf.constant(mask | np.eye(5, dtype=bool)[1])).numpy()  # the item's token
    other = embedding(features(ids=[[2, 7], [3, 7], [2, 7]]), tf.zeros(3), tf.constant(mask | np.eye(5, dtype=bool)[1])).numpy()
    np.testing.assert_array_equal(masked, other)
    np.testing.assert_array_equal(clean[:, [0, 2, 4]], masked[:, [0, 2, 4]])
    assert np.abs(clean[:2, 3] - masked[:2, 3]).max() > 1e-3  # the sequence's token
    token, values = embedding._list_tokens[1], ListValues(features()["history"])
    asked = token(embedding.lookup(values.ids + 4), values, tf.repeat(embedding.mask_embeddings[1:2], 3, axis=0))
    np.testing.assert_allclose(masked[:, 3], asked, rtol=1e-5)


def test_masked_lists_hold_their_mask_embedding():
    embedding = make().embedding
    tokens = embedding(features(), tf.zeros(3), tf.constant([[False, False, True, True, False]] * 3)).numpy()
    np.testing.assert_allclose(tokens[:, 2:4], np.repeat(embedding.mask_embeddings[np.newaxis, 2:4], 3, axis=0))


@pytest.mark.parametrize(("fields", "rows", "target"), [
    ({"item": {}, "last": {"vocabulary": "item"}, "history": {"kind": "sequence", "vocabulary": "item"}}, {"item": 5}, "item"),
    ({"history": {"kind": "sequence"}, "user": {}, "last": {"vocabulary": "history"}}, {"history": 5, "user": 4}, "last"),
    ({"user": {}, "history": {"kind": "sequence"}}, {"user": 4, "history": 5}, None),
])
def test_the_target_of_a_sequence_shares_its_rows(fields, rows, target):
    schema = schema_of({name: {"kind": "categorical", **more} for name, more in fields.items()}, rows)
    (sequence,) = schema.list_fields
    found = schema.target(sequence)
    assert (found and found.name) == target
    model = make(schema=schema)
    assert (model.embedding._list_tokens[0].query is None) == (target is not None)
    assert model.click_logits(blank_features(schema)).shape == (1,)


@pytest.mark.parametrize("kind", ["deepfm", "mlp"])
def test_baselines_read_the_same_tokens(kind):
    model = make("finetune", f"model.kind={kind}", "model.mlp.hidden_units=[8]")
    logits = model.click_logits(features()).numpy()
    assert (logits != model.click_logits(features(history=[[2], [3], [4]])).numpy()).all()


@pytest.mark.parametrize("kind", ["dot", "mlp", "mean"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_every_variable_has_a_gradient_and_steps_lower_the_loss(kind, stage):
    model = make(stage, f"model.interest.attention={kind}", "model.embedding_init=0.1", "model.dcn.batch_norm=false")
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.0)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch_for(), training=True)
    gradients = tape.gradient(loss, model.stage_variables)
    assert [v.name for v, g in zip(model.stage_variables, gradients, strict=True) if g is None] == []
    losses = [float(model.train_step(batch_for())["loss"]) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_only_rows_of_values_that_are_there_are_touched():
    model = make()
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.1)
    before = model.embedding.table.numpy()
    model.train_step(batch_for())
    moved = np.flatnonzero((model.embedding.table.numpy() != before).any(axis=1))
    assert moved.tolist() == [2, 3, *(4 + np.array([2, 3, 4, 5, 6, 7])), *(12 + np.array([2, 3, 4]))]


def test_unknown_values_are_left_out_of_lists_where_they_are_masked():
    model = make("finetune", "model.unknown=mask")
    with_unknown = features(genres=[[2, 1, 3], [4, 1, -1], [1, -1, -1]], history=[[5, 1, 6, 7], [1, 2, -1, -1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(model.click_logits(with_unknown), model.click_logits(features()))
    assert (make().click_logits(with_unknown).numpy() != make().click_logits(features()).numpy()).all()


# Fields that are left out.


def test_ignored_fields_are_no_tokens():
    model = make("pretrain", "model.ignored_fields=[user, history]")
    assert [field.name for field in model.schema.token_fields] == ["item", "genres"] and model.embedding.num_fields == 2
    assert model.embedding.table.shape[0] == SCHEMA.table_rows
    batch = {"ids": tf.constant([[3], [4], [5]]), "genres": tf.constant(GENRES), "label": tf.zeros(3), "seed": tf.constant([1, 1])}
    assert model.loss_parts(batch, training=False).keys() == {"loss", "label", "field/item", "field/genres"}
    assert SCHEMA.without(["user"]).without(()) == SCHEMA and SCHEMA.without(["user"]).to_yaml() == SCHEMA.to_yaml()


@pytest.mark.parametrize(("names", "message"), [
    ("[hour, item]", "`model.ignored_fields` names hour, which schema 'tiny' does not have .* expected some of user, item, genres, history"),
    ("[user, item]", "`model.ignored_fields` names every categorical and numeric field of schema 'tiny': leave at least one"),
])
def test_fields_that_cannot_be_ignored(names, message):
    with pytest.raises(UserError, match=message):
        make("finetune", f"model.ignored_fields={names}")


@pytest.mark.parametrize(("stage", "assignment", "message"), [
    ("finetune", "model.interest.attention=mean", "`model.interest` .* no sequence"),
    ("pretrain", "diffusion.held_out=history", "`diffusion.held_out: history` .* no sequence"),
])
def test_settings_of_sequences_need_one(stage, assignment, message):
    with pytest.raises(UserError, match=message):
        make(stage, assignment, "model.ignored_fields=[history]")


def test_units_without_an_activation_unit_are_refused():
    with pytest.raises(UserError, match="`hidden_units` has no effect with `attention: dot`"):
        load_config(None, ["model.interest.hidden_units=8"])


# Pre-training.


def test_a_value_is_drawn_uniformly_and_by_the_seed_alone():
    lists = tf.constant([[4, -1, 5, 6]] * 3000 + [[-1] * 4])
    drawn = draw_values(lists, tf.constant([1, 2])).numpy()
    assert drawn[-1] == -1 and (drawn == draw_values(lists, tf.constant([1, 2])).numpy()).all()
    np.testing.assert_allclose(np.bincount(drawn[:-1], minlength=7)[4:] / 3000, 1 / 3, atol=0.03)
    assert (drawn != draw_values(lists, tf.constant([1, 3])).numpy()).any()


def targets(held_out):
    lists = {"genres": tf.constant(GENRES), "history": tf.constant([[5, 6, 5, 5], [2, -1, -1, -1], [-1, -1, -1, -1]])}
    return ListTargets(SCHEMA.list_fields, lists, held_out, tf.constant([3, 4]))


def test_a_held_out_item_leaves_the_history():
    found = targets("item")
    assert found.scorable.numpy().tolist() == [[True, True], [True, True], [False, False]]
    lists, masked = found.corrupted(found.scorable)
    (genre, item), (only_genre, only_item) = found.values.numpy()[:2]
    assert genre in (2, 3) and (only_genre, only_item) == (4, 2)
    assert lists["genres"].numpy().tolist() == GENRES  # masked as a whole
    assert lists["history"].numpy()[0].tolist() == {5: [-1, 6, -1, -1], 6: [5, -1, 5, 5]}[item]
    assert masked.numpy().tolist() == [[True, False], [True, True], [False, False]]  # nothing is left of the second history
    untouched, unmasked = found.corrupted(tf.zeros((3, 2), tf.bool))
    assert untouched["history"].numpy()[0].tolist() == [5, 6, 5, 5] and not unmasked.numpy().any()


def test_a_history_may_be_hidden_as_a_whole_or_never():
    found = targets("history")
    lists, masked = found.corrupted(found.scorable)
    assert lists["history"].numpy()[0].tolist() == [5, 6, 5, 5] and (masked.numpy() == found.scorable.numpy()).all()
    assert not targets("none").scorable.numpy()[:, 1].any() and targets("none").scorable.numpy()[:2, 0].all()


def test_the_loss_of_lists_is_that_of_one_value_and_empty_ones_have_none():
    # Dot scores against a zero table: a field of V rows costs log V whenever it is scored, a label of logit 0 log 2.
    model = make("pretrain", "model.scoring.similarity=dot", "model.scoring.prior=none", "diffusion.schedule=fixed",
                 "diffusion.fixed_rate=0.999999")
    model.embedding.table.assign(tf.zeros_like(model.embedding.table))
    model.label_scoring.scale.assign(0.0)
    parts = {name: float(value) for name, value in model.loss_parts(batch_for(), training=False).items()}
    assert parts == pytest.approx({
        "field/user": np.log(4), "field/item": np.log(8), "field/genres": np.log(6), "field/history": np.log(8), "label": np.log(2),
        "loss": np.log(4) + np.log(8) + np.log(2) + 2 / 3 * (np.log(6) + np.log(8))}, rel=1e-5)


@pytest.mark.parametrize("candidates", ["full", "batch"])
def test_a_list_is_scored_by_its_own_function_and_frequencies(candidates):
    # Everything is masked, so that the query of `history` is the same in each row, and its only items are 2 and 6.
    model = make("pretrain", f"model.scoring.candidates={candidates}", "model.scoring.similarity=dot", "diffusion.schedule=fixed",
                 "diffusion.fixed_rate=0.999999", "diffusion.held_out=history")
    batch = batch_for(history=[[6, -1], [2, -1], [-1, -1]])
    keys = model.embedding.table.numpy()[4:12]
    hidden = model.hidden(model.embedding(features(), tf.zeros(3), tf.constant([[True] * 5] * 3)))
    query = model.field_scoring(hidden).numpy()[3, :2]  # of the first two rows
    scores = query @ keys.T  # all frequencies are equal: they shift all scores alike
    if candidates == "batch":
        scores = scores[:, [6, 2]]
        true = [0, 1]
    else:
        true = [6, 2]
    expected = np.mean([np.log(np.exp(row - row[place]).sum()) for row, place in zip(scores, true, strict=True)])
    mixed = batch | {"history": tf.constant([[6, -1], [2, -1], [2, 6]])}
    first_two = {name: values[:2] if name != "seed" else values for name, values in mixed.items()}
    assert float(model.loss_parts(first_two, training=False)["field/history"]) == pytest.approx(expected, rel=1e-3)
    with_an_empty_one = model.loss_parts({**batch, "label": batch["label"]}, training=False)["field/history"]
    assert float(with_an_empty_one) == pytest.approx(expected, rel=1e-3)  # which is no candidate either


@pytest.mark.parametrize(("held_out", "low", "high"), [("item", 0.0, 0.9), ("history", np.log(6) - 0.3, 2.2)])
def test_what_is_held_out_is_learnt_from_what_is_left(held_out, low, high):
    # Histories are the pairs 2 3, 4 5 and 6 7: one item says the other, and nothing else says anything of them.
    rng = np.random.default_rng(0)
    first = 2 + 2 * rng.integers(0, 3, 256)
    ids = np.stack([np.full(256, 2), rng.integers(2, 8, 256)], axis=1)
    batch = {"ids": tf.constant(ids, tf.int32), "genres": tf.fill((256, 1), -1), "label": tf.zeros(256),
             "history": tf.constant(np.stack([first, first + 1], axis=1), tf.int32)}
    model = make("pretrain", f"diffusion.held_out={held_out}", "model.embedding_dim=8", "model.embedding_init=0.5")
    model.optimizer = build_optimizer(model, 0.02, table_decay=0.0)
    step = tf.function(model.train_step)
    losses = [float(step({**batch, "seed": tf.constant([1, number])})["field/history"]) for number in range(60)]
    assert low < np.mean(losses[-5:]) < high


# Reading.


def write_lists(path, rows=200, unlabelled=0):
    rng = np.random.default_rng(1)
    splits = {}
    for split in SPLITS:
        size = rows if split == "train" else rows // 2
        ids = np.stack([rng.integers(2, 4, size), rng.integers(2, 302, size)], axis=1)
        labels = rng.integers(0, 2, size)
        if unlabelled:
            labels[::unlabelled] = -1
        lists = {"genres": [rng.integers(2, 6, n) for n in rng.integers(0, 4, size)],
                 "history": [rng.integers(2, 302, n) for n in rng.integers(0, 6, size)]}
        # The first item of a history, where there is one, is the row's: so a mixed-up row would be found out.
        for row, history in enumerate(lists["history"]):
            history[:1] = ids[row, 1]
        splits[split] = ids, labels, lists
    meanings = {"user": ["a", "b"], "item": [f"i{n}" for n in range(300)], "genres": ["w", "x", "y", "z"]}
    return write_folder(path, meanings, splits, 3, FIELDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DataFolder.open(write_lists(tmp_path_factory.mktemp("lists") / "data"))


def rows_of(batches):
    """Rows as comparable tuples, in order."""
    whole = [np.concatenate([batch[name] if name != "label" else batch[name][:, None] for name in ("ids", "genres", "history", "label")], axis=1)
             for batch in batches]
    return [tuple(row) for row in np.concatenate(whole)]


def test_lists_are_padded_and_stay_with_their_rows(data):
    batches = list(TrainingSplit(data, 20, 1, 1000).epoch(0))
    assert {name: (values.shape, values.dtype) for name, values in batches[0].items()} == {
        "ids": ((20, 2), tf.int32), "genres": ((20, 3), tf.int32), "history": ((20, 5), tf.int32), "label": ((20,), tf.float32),
        "group": ((20,), tf.int64)}
    for batch in batches:
        first, item = batch["history"][:, 0].numpy(), batch["ids"][:, 1].numpy()
        assert ((first == item) | (first == -1)).all() and (first > 127).any()
        there = batch["history"].numpy() >= 0
        assert (there[:, 1:] <= there[:, :-1]).all() and (batch["history"].numpy()[~there] == -1).all()


@pytest.mark.parametrize("window", [1000, 60])
def test_an_epoch_with_lists_can_be_continued_at_any_step(data, window):
    whole = [rows_of([batch]) for batch in TrainingSplit(data, 20, 1, window).epoch(3)]
    assert len(whole) == 10
    for first in (0, 1, 4, 9):
        assert [rows_of([batch]) for batch in TrainingSplit(data, 20, 1, window).epoch(3, first)] == whole[first:]
    assert sorted(row for rows in whole for row in rows) == sorted(rows_of(TrainingSplit(data, 20, 1, 10_000).epoch(0)))


def test_rows_in_memory_take_what_is_predicted(data):
    resident = TrainingSplit(data, 20, 1, 1000)._resident
    assert (resident["genres"].dtype, resident["history"].dtype) == (tf.int8, tf.int16)
    size = sum(values.numpy().nbytes for values in resident.values())
    assert size == 200 * decoded_row_bytes(data.schema) == 200 * (2 * 4 + 4 + 8 + 3 + 5 * 2)
    assert decoded_row_bytes(data.schema.without(["history"])) == 2 * 4 + 4 + 8 + 3


@pytest.mark.parametrize("window", [1000, 30])
def test_evaluation_reads_lists_in_file_order_and_without_unlabelled_rows(tmp_path, window):
    data = DataFolder.open(write_lists(tmp_path / "data", unlabelled=4))
    rows = rows_of(EvaluationSplit(data, "valid", window).batches(16))
    assert len(rows) == 75 and all(row[-1] >= 0 and row[5] in (row[1], -1) for row in rows)
    assert sorted(rows_of(TrainingSplit(data, 10, 1, window, labelled_only=True).epoch(0))) == sorted(
        rows_of(EvaluationSplit(data, "train", window).batches(16)))


def test_ignored_fields_are_not_read(data):
    whole = next(EvaluationSplit(data, "test", 1000).batches())
    some = next(EvaluationSplit(data.without(["user", "history"]), "test", 1000).batches())
    assert some.keys() == whole.keys() - {"history"}
    np.testing.assert_array_equal(some["ids"], whole["ids"][:, 1:])
    assert [len(counts) for counts in data.without(["user", "history"]).field_frequencies] == [302, 6]


# Memory, and other data.


@pytest.mark.parametrize("assignments", [[], ["model.interest.attention=mlp"], ["model.interest.attention=mean"], ["model.kind=deepfm"],
                                         ["model.ignored_fields=[item]"], ["model.backbone=hstu"]])
def test_parameters_are_counted_exactly(assignments):
    model = make("finetune", *assignments)
    counted = sum(variable.shape.num_elements() for variable in model.named_variables().values())
    assert sum(parameter_counts(model.run_config, model.schema)) == counted
    rows = {"train": 1000, "valid": 100, "test": 100}
    assert dict(predict("finetune", model.run_config, model.schema, rows).parts)["rows in memory"] == (
        1000 * (decoded_row_bytes(model.schema) + 24) + 100 * decoded_row_bytes(model.schema))


def test_a_model_is_carried_over_to_the_same_lists_only():
    other = schema_of({name: {"kind": "categorical", **more} for name, more in FIELDS.items() if name != "genres"}, {"user": 4, "item": 8})
    assert match_fields(SCHEMA, SCHEMA, "dcn") == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"must be as before.* expected genres \(multivalued\), history \(sequence\); received history"):
        match_fields(SCHEMA, other, "hstu")
