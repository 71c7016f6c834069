"""The loss of pre-training by hand, its switches, and what they leave a model with."""

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema

from preprocessing.errors import UserError
from preprocessing.schema import UNKNOWN_ROW
from trainer.config import ModelConfig, load_config
from trainer.diffusion import objective as objective_module
from trainer.diffusion.distributions import FieldDistributions
from trainer.diffusion.weights import inverse_rate_weights
from trainer.embedding import SharedEmbedding
from trainer.model import DGenCTR
from trainer.scoring import FieldScoring

SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "model.hstu.width=8", "model.transformer.width=8",
         "model.mlp.hidden_units=[8]", "finetune.dropout=0", "runtime.matmul=float32"]
BACKBONES = get_args(ModelConfig.model_fields["backbone"].annotation)
IDS = tf.constant([[2, 3, 4], [5, 1, 0], [0, 0, 1]])
BATCH = {"ids": IDS, "label": tf.constant([1.0, 0.0, 1.0]), "seed": tf.constant([1, 0])}


EQUAL_COUNTS = np.full(40, 10**6)


def make(stage, *assignments, counts=EQUAL_COUNTS):
    tf.keras.utils.set_random_seed(1)
    frequencies = None if counts is None else table_counts(tiny_schema(), counts)
    return DGenCTR(tiny_schema(), load_config(None, [*SMALL, *assignments]), stage, frequencies)


# Two fields, a of 4 rows and b of 3, one number an embedding. The backbone passes the tokens (h_a, h_b, h_y) on as they are.
#
#   sample 1   a = 2 masked, b = 2 seen, y = 1 masked       tokens 0.5, 2, 1
#   sample 2   a = 3 seen, b = 2 masked, y = 0 seen         tokens log 2, -0.5, 0
#
#   z_a = h_b       scores of a in sample 1: 2 e_a = log (1, 2, 3, 4), so l_a = log (10 / 3)
#   z_b = h_a       scores of b in sample 2: log 2 e_b = log (1, 2, 4), so l_b = log (7 / 4)
#   z_y = h_a + h_y    logit 1.5 (e(1) - e(0)) = 3, so l_y = log (1 + exp(-3))

L_A, L_B, L_Y = np.log(10 / 3), np.log(7 / 4), np.log1p(np.exp(-3))
RATES = [0.5, 0.25]


@pytest.fixture
def toy(monkeypatch):
    def build(*assignments):
        settings = ["model.embedding_dim=1", "model.dcn.cross_layers=1", "model.dcn.layer_norm=false", "model.dcn.hidden_units=[]", "model.scoring.similarity=dot",
                    "model.scoring.prior=none", *assignments]
        model = DGenCTR(tiny_schema({"a": 4, "b": 3}), load_config(None, settings), "pretrain", [np.ones(4), np.ones(3)])
        embedding, (kernel, bias) = model.embedding, model.backbone.weights
        embedding.table.assign(np.array([*np.log([1, 2, 3, 4]) / 2, 0, 1, 2])[:, np.newaxis])
        embedding.mask_variable.assign([[0.5], [-0.5], [1.0]])
        embedding.label_embeddings.assign([[0.0], [2.0]])
        kernel.assign(np.zeros((3, 3))), bias.assign(np.zeros(3))
        model.field_scoring.kernel.assign([[0, 1], [1, 0], [0, 0]])
        query = next(weight for weight in model.label_scoring.weights if "kernel" in weight.name)
        query.assign([[1.0], [0.0], [1.0]])
        mask = tf.constant([[True, False, True], [False, True, False]])
        monkeypatch.setattr(objective_module, "corrupt", lambda *_: (mask, tf.constant(RATES)))
        return model

    return build


TOY_BATCH = {"ids": tf.constant([[2, 2], [3, 2]]), "label": tf.constant([1.0, 0.0]), "seed": tf.constant([1, 1])}


def loss_and_parts(model, training):
    parts = {name: float(value) for name, value in model.loss_parts(TOY_BATCH, training).items()}
    return parts.pop("loss"), parts


def test_the_loss_of_two_fields_by_hand(toy):
    loss, parts = loss_and_parts(toy(), training=True)
    assert parts == pytest.approx({"field/a": L_A, "field/b": L_B, "label": L_Y}, rel=1e-5)
    assert loss == pytest.approx((L_A + L_Y + L_B) / 2, rel=1e-5)


def test_inverse_rates_by_hand(toy):
    # Three steps of the linear schedule: E[lambda] = (1/3 + 2/3 + 1) / 3 = 2/3. Sample 1: (2/3) / (1/2). Sample 2: 1/4 counts as 1/3.
    loss, parts = loss_and_parts(toy("diffusion.loss_weights=inverse_rate"), training=True)
    assert loss == pytest.approx((4 / 3 * (L_A + L_Y) + 2 * L_B) / 2, rel=1e-5)
    assert parts == pytest.approx({"field/a": L_A, "field/b": L_B, "label": L_Y}, rel=1e-5)


@pytest.mark.parametrize(("settings", "mean"), [
    (["diffusion.schedule=linear"], 5 / 8), (["diffusion.schedule=linear", "diffusion.time=continuous"], 1 / 2),
    (["diffusion.schedule=cosine", "diffusion.time=continuous"], 1 - 2 / np.pi),
    (["diffusion.schedule=cosine"], 1 - (np.cos(np.pi / 8) + np.cos(np.pi / 4) + np.cos(3 * np.pi / 8)) / 4)])
def test_inverse_rates_weigh_a_masked_token_one_on_average(settings, mean):
    weights = inverse_rate_weights(load_config(None, settings).diffusion, tf.constant([0.1, 0.5, 1.0]), tokens=4)
    np.testing.assert_allclose(weights, [4 * mean, 2 * mean, mean], rtol=1e-6)


LOG_SCALES = np.log([2.0, 1.0, 3.0])
LEARNED = (L_A / 2 + L_B + L_Y / 3 + LOG_SCALES.sum() / 2) / 2


@pytest.mark.parametrize(("mode", "expected"), [("learned", LEARNED), ("learned_reversed", (2 * L_A + L_B + 3 * L_Y) / 2 * 3 / 6)])
def test_learned_weights_by_hand(toy, mode, expected):
    model = toy(f"diffusion.loss_weights={mode}")
    model.loss_weights.log_scales.assign(LOG_SCALES)
    with tf.GradientTape() as tape:
        parts = model.loss_parts(TOY_BATCH, training=True)
    gradient = tape.gradient(parts["loss"], model.loss_weights.log_scales)
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-5)
    # Either way s_k is learned by exp(-s_k) l_k + s_k / 2.
    np.testing.assert_allclose(gradient, (0.5 - np.exp(-LOG_SCALES) * [L_A, L_B, L_Y]) / 2, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["hstu", "transformer"])
@pytest.mark.parametrize("label", ["token", "absent"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_learned_weights_may_scale_the_queries(backbone, label, stage):
    model = make(stage, f"model.backbone={backbone}", "diffusion.loss_weights=learned_queries", f"diffusion.label={label}")
    log_scales = np.log([4.0, 1.0, 0.25, 16.0])[:4 if label == "token" else 3]
    model.loss_weights.log_scales.assign(log_scales)
    tokens = model.embedding.click_tokens(BATCH)
    with tf.GradientTape() as tape:
        hidden = model.hidden(tokens)
    scales = tf.constant([0.5, 1.0, 2.0, 0.25 if label == "token" else 1.0])
    np.testing.assert_allclose(hidden, model.backbone(tokens, query_scales=scales), rtol=1e-5)
    assert np.any(hidden != model.backbone(tokens))
    assert tape.gradient(hidden, model.loss_weights.log_scales) is None  # only the losses say what they are


@pytest.mark.parametrize("mode", ["inverse_rate", "learned", "learned_reversed"])
def test_validation_adds_losses_up_plainly(toy, mode):
    model = toy(f"diffusion.loss_weights={mode}")
    if model.loss_weights:
        model.loss_weights.log_scales.assign(LOG_SCALES)
    assert loss_and_parts(model, training=False)[0] == pytest.approx((L_A + L_Y + L_B) / 2, rel=1e-5)


def test_a_row_without_label_is_scored_by_its_features(toy, monkeypatch):
    model, scorable = toy(), []
    mask = tf.constant([[True, False, False], [False, True, False]])
    monkeypatch.setattr(objective_module, "corrupt", lambda _, which, seed: scorable.append(which) or (mask, tf.constant(RATES)))
    model.embedding.label_embeddings.assign([[np.nan], [np.nan]])  # nothing may look at them
    parts = model.loss_parts({**TOY_BATCH, "label": tf.constant([-1.0, -1.0])}, training=True)
    assert scorable[0].numpy().tolist() == [[True, True, False]] * 2
    assert float(parts["label"]) == 0 and float(parts["loss"]) == pytest.approx((L_A + L_B) / 2, rel=1e-5)


def test_without_label_no_label_is_seen_scored_or_trained():
    model = make("pretrain", "diffusion.label=absent")
    model.embedding.label_embeddings.assign(np.full((2, 4), np.nan))
    parts = model.loss_parts(BATCH, training=True)
    assert "label" not in parts and np.isfinite(parts["loss"]) and not model.predicts_clicks
    idle = [*model.label_scoring.variables, model.embedding.label_embeddings]
    assert not any(trained is variable for trained in model.stage_variables for variable in idle)
    tuned = make("finetune", "diffusion.label=absent")
    assert tuned.predicts_clicks and any(variable is tuned.embedding.label_embeddings for variable in tuned.stage_variables)
    assert {name: v.shape for name, v in model.named_variables().items()} == {name: v.shape for name, v in tuned.named_variables().items()}


# Clicks.


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_label_token_has_no_gradient_when_a_click_is_predicted(backbone):
    model = make("finetune", f"model.backbone={backbone}")
    embeddings = model.embedding.label_embeddings
    click = tf.ones((3, 4), tf.bool)
    hidden = tf.constant(np.arange(9).reshape(3, 3) % 2 == 0)
    for tokens_of in (lambda: model.embedding.click_tokens(BATCH), lambda: model.embedding.click_tokens(BATCH, hidden),
                      lambda: model.embedding(BATCH, BATCH["label"], click)):
        with tf.GradientTape() as tape:
            logits = model.label_scoring(model.hidden(tokens_of()), tf.constant(embeddings.numpy()))
        gradient = tape.gradient(logits, [embeddings, model.embedding.mask_variable], unconnected_gradients="zero")
        assert not tf.convert_to_tensor(gradient[0]).numpy().any()
        assert tf.convert_to_tensor(gradient[1])[-1].numpy().any()  # the token's mask embedding stands in its place


# Switches.

SWITCHES = [
    [f"model.backbone={backbone}", *switch]
    for backbone, switch in [
        ("dcn", ["model.mask_embedding=shared", "model.scoring.function=shared"]),
        ("dcn", ["model.mask_embedding=zero", "model.scoring.hidden_units=5", "diffusion.stratified=true"]),
        ("hstu", ["model.scoring.function=shared", "model.scoring.hidden_units=5", "diffusion.loss_weights=learned"]),
        ("hstu", ["model.scoring.hidden_units=5", "diffusion.loss_weights=inverse_rate", "model.time_input=sinusoidal"]),
        ("transformer", ["diffusion.loss_weights=learned_queries"]),
        ("dcn", ["model.scoring.candidates=batch", "diffusion.loss_weights=learned_reversed", "diffusion.label=absent"]),
        ("mlp", ["model.scoring.candidates=full", "diffusion.label=absent", "model.unknown=mask", "model.rare_count=2"])]]


@pytest.mark.parametrize("switches", SWITCHES, ids=" ".join)
def test_every_switch_trains_what_it_says_compiled_or_not(switches):
    model = make("pretrain", *switches)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH, training=True)
    gradients = tape.gradient(loss, model.stage_variables)
    assert [v.name for v, g in zip(model.stage_variables, gradients, strict=True) if g is None] == []
    assert float(tf.function(model.compute_loss)(BATCH, training=True)) == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("switches", SWITCHES, ids=" ".join)
def test_both_stages_own_the_same_variables_whatever_is_switched_on(switches):
    first, second = make("pretrain", *switches).named_variables(), make("finetune", *switches, counts=None).named_variables()
    assert {name: (v.shape, v.dtype) for name, v in first.items()} == {name: (v.shape, v.dtype) for name, v in second.items()}


@pytest.mark.parametrize(("mask_embedding", "expected"), [
    ("field", [[-1.0], [-2.0], [-3.0]]), ("shared", [[-1.0], [-1.0], [-1.0]]), ("zero", [[0.0], [0.0], [0.0]])])
def test_what_a_masked_token_holds(mask_embedding, expected):
    embedding = SharedEmbedding(tiny_schema({"a": 3, "b": 2}), 1, 1.0, mask_embedding, in_order=True)
    if embedding.mask_variable is not None:
        embedding.mask_variable.assign(np.array([[-1.0], [-2.0], [-3.0]])[:embedding.mask_variable.shape[0]])
    features = {"ids": tf.constant([[2, 1]])}
    np.testing.assert_array_equal(embedding(features, tf.constant([1.0]), tf.ones((1, 3), tf.bool))[0], expected)
    np.testing.assert_array_equal(embedding.click_tokens(features)[0, 2], expected[2])


@pytest.mark.parametrize("hidden", [tf.ones((2, 3)), tf.ones((2, 3, 3))], ids=["one state", "a state a token"])
def test_a_shared_scoring_function_differs_by_the_fields_own_vector(hidden):
    scoring = FieldScoring(load_config(None, ["model.scoring.function=shared"]).model.scoring, num_fields=2, dim=2)
    scoring(hidden)
    scoring.kernel.assign([[1, 0], [1, 0], [1, 0]])
    scoring.bias.assign([[0, 1], [0, 5]])
    assert scoring(hidden).numpy().tolist() == [[[3, 1]] * 2, [[3, 5]] * 2]


@pytest.mark.parametrize("function", ["field", "shared"])
@pytest.mark.parametrize("hidden", [tf.ones((2, 3)), tf.ones((2, 3, 3))], ids=["one state", "a state a token"])
def test_a_scoring_function_with_a_hidden_layer_by_hand(hidden, function):
    config = load_config(None, [f"model.scoring.function={function}", "model.scoring.hidden_units=1"]).model.scoring
    scoring = FieldScoring(config, num_fields=2, dim=1)
    scoring(hidden)
    for variable, value in ((scoring.hidden_kernel, 2), (scoring.hidden_bias, -1), (scoring.kernel, 3), (scoring.bias, 4)):
        variable.assign(tf.fill(variable.shape, float(value)))
    assert scoring(hidden).numpy().tolist() == [[[3 * (2 * 3 - 1) + 4]] * 2] * 2
    scoring.hidden_bias.assign(tf.fill(scoring.hidden_bias.shape, -7.0))  # ReLU(6 - 7)
    assert scoring(hidden).numpy().tolist() == [[[4]] * 2] * 2


def test_time_input_starts_without_effect_and_tells_the_masking_rate():
    model, plain = make("pretrain", "model.time_input=sinusoidal"), make("pretrain")
    np.testing.assert_array_equal(model.click_logits(BATCH), plain.click_logits(BATCH))
    kernel = model.time_input.weights[0]
    kernel.assign(tf.random.stateless_normal(kernel.shape, (1, 1)))
    tokens = model.embedding.click_tokens(BATCH)
    # A click is predicted at the rate of a sample with one of four tokens masked.
    expected = model.label_scoring(model.hidden(tokens, rates=tf.fill([3], 0.25)), model.embedding.label_embeddings)
    np.testing.assert_allclose(model.click_logits(BATCH), expected, rtol=1e-6)
    # With two features hidden beside the label, three of four are masked.
    mask = tf.constant([[True, True, False]] * 3)
    hidden = model.hidden(model.embedding.click_tokens(BATCH, mask), rates=tf.fill([3], 0.75))
    np.testing.assert_allclose(model.masked_click_logits(BATCH, mask), model.label_scoring(hidden, model.embedding.label_embeddings), rtol=1e-6)
    times = model.time_input(tf.constant([0.25, 0.5])).numpy()
    assert abs(times[0] - times[1]).max() > 0.1


def test_pre_training_is_told_each_samples_masking_rate(monkeypatch):
    model, told = make("pretrain", "model.time_input=sinusoidal", "diffusion.schedule=cosine"), []
    corrupt, hidden = objective_module.corrupt, model.hidden
    monkeypatch.setattr(objective_module, "corrupt", lambda *arguments: told.append(corrupt(*arguments)) or told[0])
    monkeypatch.setattr(model, "hidden", lambda tokens, training, seed, rates: told.append(rates) or hidden(tokens, training, seed, rates))
    model.loss_parts(BATCH | {"seed": tf.constant([1, 2])}, training=True)
    (_, drawn), rates = told
    np.testing.assert_array_equal(rates, drawn)
    assert len(set(rates.numpy())) > 1


def test_fine_tuning_with_masked_features_is_told_how_many_are_masked(monkeypatch):
    model, told = make("finetune", "model.time_input=sinusoidal", "finetune.feature_mask_rate=0.5"), []
    tokens, hidden = model.embedding.click_tokens, model.hidden
    monkeypatch.setattr(model.embedding, "click_tokens", lambda features, mask: told.append(mask) or tokens(features, mask))
    monkeypatch.setattr(model, "hidden", lambda tokens, training, seed, rates: told.append(rates) or hidden(tokens, training, seed, rates))
    model.training_click_logits(BATCH | {"seed": tf.constant([1, 2])})
    mask, rates = told
    np.testing.assert_allclose(rates, (tf.reduce_sum(tf.cast(mask, tf.float32), axis=1) + 1) / 4)  # the label beside three features
    assert len(set(rates.numpy())) > 1


def test_sampled_candidates_approach_the_full_softmax_as_they_grow():
    rows, cells = 52, 4096
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(rows, 0.5))
    ids = tf.constant(rng.choice(rows, (cells, 1), p=shares), tf.int32)
    schema = tiny_schema({"a": rows})
    embedding = SharedEmbedding(schema, 4, 1.0)
    queries = tf.random.stateless_normal((1, cells, 4), (1, 2))

    def loss(*assignments):
        config = load_config(None, assignments).model.scoring
        scoring = FieldScoring(config, 1, 4)
        scoring(tf.ones((1, 4)))
        distributions = FieldDistributions(schema, config, scoring, embedding, [np.maximum(shares * 10**6, 1).astype(np.int64)])
        return float(tf.reduce_mean(distributions.losses(ids, tf.ones((cells, 1), tf.bool), queries)[0]))

    full = loss("model.scoring.candidates=full")
    gaps = [abs(loss("model.scoring.candidates=batch", f"model.scoring.sampled_candidates={drawn}") - full) for drawn in (8, 64, 4096)]
    assert gaps[2] < 1e-3 and gaps[2] < gaps[1] < gaps[0]


# Unknown values.


def masked_unknown(*assignments, counts=EQUAL_COUNTS, stage="finetune"):
    return make(stage, "model.unknown=mask", *assignments, counts=counts)


def test_an_unknown_value_is_a_masked_token():
    embedding = masked_unknown().embedding
    ids, mask = tf.constant([[2, UNKNOWN_ROW, 0]]), tf.constant([[False, True, False, True]])
    expected = make("finetune").embedding({"ids": ids}, tf.zeros(1), mask)
    np.testing.assert_array_equal(embedding.click_tokens({"ids": ids}), expected)
    np.testing.assert_array_equal(embedding({"ids": ids}, tf.zeros(1), tf.constant([[False, False, False, True]])), expected)


def test_a_rare_value_is_a_masked_token_and_missing_is_not():
    counts = np.full(40, 5)
    counts[[2, 12 + 3]] = 4  # user 2 and item 3; user 12, item 22, hour 6 rows
    model = masked_unknown("model.rare_count=5", counts=counts)
    assert model.embedding.known({"ids": tf.constant([[2, 4, 2], [3, 3, 0], [0, 0, 5]])}).numpy().tolist() == [
        [False, True, True], [True, False, True], [True, True, True]]


def test_unknown_values_are_never_scored_in_pretraining(monkeypatch):
    model = masked_unknown("diffusion.schedule=fixed", "diffusion.fixed_rate=0.999999", stage="pretrain")
    ids = tf.constant([[UNKNOWN_ROW, 2, UNKNOWN_ROW], [UNKNOWN_ROW, UNKNOWN_ROW, UNKNOWN_ROW]])
    batch = {"ids": ids, "label": tf.constant([1.0, -1.0]), "seed": tf.constant([1, 1])}
    asked = []
    losses = model.objective.distributions.losses
    monkeypatch.setattr(model.objective.distributions, "losses", lambda ids, scored, queries: asked.append(scored) or losses(ids, scored, queries))
    parts = model.loss_parts(batch, training=True)
    assert asked[0].numpy().tolist() == [[False, True, False], [False, False, False]]  # though everything is masked
    assert float(parts["field/user"]) == float(parts["field/hour"]) == 0 < float(parts["field/item"])


def test_rare_values_are_known_without_the_data_folder(tmp_path):
    counts = np.full(40, 5)
    counts[2] = 0
    trained = masked_unknown("model.rare_count=1", counts=counts)
    tf.train.Checkpoint(**trained.named_variables()).write(str(tmp_path / "model"))
    restored = masked_unknown("model.rare_count=1", counts=None)
    tf.train.Checkpoint(**restored.named_variables()).read(str(tmp_path / "model")).assert_consumed()
    features = {"ids": tf.constant([[2, 3, 4], [5, 1, 0]])}
    assert restored.embedding.known(features).numpy().tolist() == [[False, True, True], [True, False, True]]
    np.testing.assert_array_equal(restored.click_logits(features), trained.click_logits(features))


# Refusals.


@pytest.mark.parametrize(("assignments", "message"), [
    (["model.scoring.similarity=dot", "model.scoring.temperature=0.5"], "`temperature` has no effect with `similarity: dot`"),
    (["model.scoring.similarity=dot", "model.scoring.learn_temperature=false"], "`learn_temperature` has no effect"),
    (["model.scoring.candidates=full", "model.scoring.full_softmax_rows=10"], "`full_softmax_rows` has no effect with `candidates: full`"),
    (["model.scoring.candidates=full", "model.scoring.sampled_candidates=10"], "`sampled_candidates` has no effect"),
    (["model.scoring.candidates=batch", "model.scoring.full_softmax_rows=10"], "`full_softmax_rows` has no effect with `candidates: batch`"),
    (["diffusion.fixed_rate=0.15"], r"`fixed_rate` has no effect with `schedule: linear`: leave it out \(its default is 0.3\), received 0.15"),
    (["diffusion.schedule=fixed", "diffusion.time=continuous"], "`time` has no effect with `schedule: fixed`"),
    (["diffusion.schedule=fixed", "diffusion.stratified=true"], "`stratified` has no effect with `schedule: fixed`"),
    (["diffusion.schedule=fixed", "diffusion.loss_weights=inverse_rate"], "`loss_weights: inverse_rate` has no effect with `schedule: fixed`"),
    (["diffusion.loss_weights=learned_queries", "model.backbone=mlp"],
     "scales attention queries, which `model.backbone: mlp` does not have: use hstu or transformer, or `loss_weights: learned`"),
    (["diffusion.schedule=fixed", "model.time_input=sinusoidal"], "`model.time_input` has no effect with `diffusion.schedule: fixed`"),
    (["pretrain.objective=masked_features", "diffusion={}", "model.time_input=sinusoidal"],
     "`model.time_input` has no effect with `pretrain.objective: masked_features`, which knows no time"),
    (["diffusion.label=absent", "finetune.regeneration={share: 1, fields: [item], source: generator}"],
     "`finetune.regeneration.source: generator` draws features that fit the label, which a pre-training with `diffusion.label: absent`"),
    (["model.rare_count=3"], "`rare_count` has no effect with `unknown: row`"),
    (["pretrain.objective=masked_features", "diffusion={}", "model.scoring.similarity=dot"],
     "`scoring` has no effect with `pretrain.objective: masked_features`, which scores no values"),
    (["finetune.learning_rate_factor=0.5"], "`learning_rate_factor` has no effect with `learning_rate_schedule: cosine`"),
    (["model.dcn.hidden_units=[]", "model.dcn.batch_norm=false"], r"`batch_norm` has no effect with `hidden_units: \[\]`"),
])
def test_a_setting_without_effect_is_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        load_config(None, assignments)
