"""Embedding, backbones, scoring: small values, shapes, and equivariance."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import tiny_schema

from trainer.backbones import build_backbone
from trainer.backbones.dcn import DcnBackbone
from trainer.config import DcnConfig, ScoringConfig, load_config
from trainer.embedding import SharedEmbedding
from trainer.scoring import FieldScoring, LabelScoring


@pytest.fixture
def embedding():
    layer = SharedEmbedding(tiny_schema({"a": 3, "b": 2}), dim=2, stddev=1.0)
    layer.table.assign([[0, 0], [1, 1], [2, 2], [10, 10], [20, 20]])
    layer.mask_embeddings.assign([[-1, -1], [-2, -2], [-3, -3]])
    layer.field_embeddings.assign([[0.1, 0], [0.2, 0], [0.3, 0]])
    layer.label_embeddings.assign([[7, 7], [8, 8]])
    return layer


def test_tokens_of_a_sample_with_its_second_field_masked(embedding):
    tokens = embedding({"ids": tf.constant([[2, 1]])}, tf.constant([1.0]), tf.constant([[False, True, False]]))
    np.testing.assert_allclose(tokens[0], [[2.1, 2], [-1.8, -2], [1.1, 0.8]], rtol=1e-6)  # the label's: a tenth of [8, 8], and [0.3, 0]


def test_tokens_that_are_read_in_order_say_nothing_of_their_field():
    layer = SharedEmbedding(tiny_schema({"a": 3, "b": 2}), dim=2, stddev=1.0, in_order=True)
    layer.table.assign([[0, 0], [1, 1], [2, 2], [10, 10], [20, 20]])
    layer.mask_embeddings.assign([[-1, -1], [-2, -2], [-3, -3]])
    assert layer.field_embeddings is None
    assert layer.click_tokens({"ids": tf.constant([[2, 1]])}).numpy().tolist() == [[[2, 2], [20, 20], [-3, -3]]]


def test_a_fields_rows_begin_at_its_offset(embedding):
    assert embedding.table_rows(tf.constant([[2, 1]])).numpy().tolist() == [[2, 4]]


def test_click_tokens_are_the_tokens_with_only_the_label_masked(embedding):
    ids = tf.constant([[2, 1], [0, 0]])
    mask = tf.constant([[False, False, True]] * 2)
    np.testing.assert_allclose(embedding.click_tokens({"ids": ids}), embedding({"ids": ids}, tf.constant([1.0, 0.0]), mask))


def test_cross_tower_by_hand():
    # One cross with identity kernel and no bias: x * x + x.
    backbone = DcnBackbone(DcnConfig(cross_layers=1, layer_norm=False, hidden_units=()), dropout_rate=0.0)
    tokens = tf.constant([[[1.0, 2.0], [3.0, 0.0]]])
    backbone(tokens)
    backbone.weights[0].assign(tf.eye(4))
    assert backbone(tokens).numpy().tolist() == [[2.0, 6.0, 12.0, 0.0]]


def test_a_cross_tower_reads_small_tokens_as_if_they_were_large():
    # Mean 1 and deviation 1, then x * x + x as above.
    backbone = DcnBackbone(DcnConfig(cross_layers=1, hidden_units=()), dropout_rate=0.0)
    tokens = 0.01 * tf.constant([[[0.0, 2.0], [2.0, 0.0]]])
    backbone(tokens)
    next(weight for weight in backbone.weights if weight.shape == (4, 4)).assign(tf.eye(4))
    np.testing.assert_allclose(backbone(tokens), [[0.0, 2.0, 2.0, 0.0]], atol=2e-3)


@pytest.mark.parametrize(("name", "shape"), [("dcn", (5, 8 + 6)), ("hstu", (5, 4, 64))])
def test_hidden_state_shapes(name, shape):
    config = load_config(None, [f"model.backbone={name}", "model.dcn.hidden_units=[6]"]).model
    assert build_backbone(config, 0.0)(tf.ones((5, 4, 2))).shape == shape


def test_hstu_reads_tokens_as_a_set():
    config = load_config(None, ["model.backbone=hstu"]).model
    backbone = build_backbone(config, 0.0)
    tokens = tf.random.stateless_normal((3, 4, 8), (1, 1))
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(tf.gather(backbone(tokens), order, axis=1), backbone(tf.gather(tokens, order, axis=1)), atol=1e-5)


@pytest.mark.parametrize("hidden", [tf.ones((2, 3)), tf.ones((2, 3, 3))])
def test_field_queries_use_each_fields_own_map(hidden):
    scoring = FieldScoring(ScoringConfig(), num_fields=2, dim=2)
    scoring(hidden)
    scoring.bias.assign([[1.0, 1.0], [5.0, 5.0]])
    scoring.kernel.assign(tf.zeros_like(scoring.kernel))
    queries = scoring(hidden)
    assert queries.shape == (2, 2, 2)
    assert queries.numpy()[0].tolist() == [[1, 1], [1, 1]] and queries.numpy()[1].tolist() == [[5, 5], [5, 5]]


def test_shared_and_per_token_states_score_alike_when_tokens_agree():
    shared = FieldScoring(ScoringConfig(), num_fields=2, dim=2)
    per_token = FieldScoring(ScoringConfig(), num_fields=2, dim=2)
    hidden = tf.constant([[0.5, -1.0, 2.0]])
    shared(hidden), per_token(tf.ones((1, 3, 3)))
    kernel = tf.random.stateless_normal((2, 3, 2), (1, 1))
    per_token.kernel.assign(kernel)
    shared.kernel.assign(tf.reshape(tf.transpose(kernel, (1, 0, 2)), (3, 4)))
    np.testing.assert_allclose(shared(hidden), per_token(tf.repeat(hidden[:, tf.newaxis], 3, axis=1)), rtol=1e-5)


def test_cosine_scores_are_divided_by_the_temperature():
    scoring = FieldScoring(ScoringConfig(temperature=0.5), num_fields=1, dim=2)
    scoring(tf.ones((1, 3)))
    query, keys = scoring.as_queries(tf.constant([[3.0, 4.0]])), scoring.as_keys(tf.constant([[6.0, 8.0], [0.0, 2.0]]))
    # Cosines 1 and 0.8.
    np.testing.assert_allclose(tf.matmul(query, keys, transpose_b=True), [[2.0, 1.6]], rtol=1e-5)


def test_dot_scores_are_plain():
    scoring = FieldScoring(ScoringConfig(similarity="dot"), num_fields=1, dim=2)
    scoring(tf.ones((1, 3)))
    query, keys = scoring.as_queries(tf.constant([[3.0, 4.0]])), scoring.as_keys(tf.constant([[6.0, 8.0]]))
    assert tf.matmul(query, keys, transpose_b=True).numpy().tolist() == [[50.0]]


def test_click_logit_starts_at_the_log_odds_of_the_click_rate():
    scoring = LabelScoring(2, click_rate=0.2)
    logit = scoring(tf.zeros((1, 3)), tf.constant([[0.0, 0.0], [1.0, 1.0]]))
    assert logit.numpy() == pytest.approx([np.log(0.25)])


def test_click_logit_by_hand():
    # z = (1, 2), e(1) - e(0) = (3, -1), a = 2, b = 0.5: 2 * (3 - 2) + 0.5.
    scoring = LabelScoring(2, click_rate=0.5)
    embeddings = tf.constant([[0.0, 1.0], [3.0, 0.0]])
    scoring(tf.zeros((1, 2)), embeddings)
    scoring.scale.assign(2.0), scoring.bias.assign(0.5)
    next(v for v in scoring.weights if "kernel" in v.name).assign(tf.eye(2))
    assert scoring(tf.constant([[1.0, 2.0]]), embeddings).numpy() == pytest.approx([2.5])
    assert scoring(tf.constant([[[9.0, 9.0], [1.0, 2.0]]]), embeddings).numpy() == pytest.approx([2.5])
