"""Backbones: small values by hand, what they share, and sets that know no order."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema

from preprocessing.errors import UserError
from trainer.backbones import BACKBONES, build_backbone
from trainer.backbones.hstu import HstuBlock
from trainer.backbones.tower import BATCH_NORM, DeepTower
from trainer.backbones.transformer import TransformerBlock
from trainer.config import HstuConfig, TransformerConfig, load_config
from trainer.folding import folded, folded_batch_norms
from trainer.model import DGenCTR
from trainer.products import bfloat16_products

SEED = tf.constant([1, 2])
SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "model.mlp.hidden_units=[8]", "model.hstu.width=8",
         "model.transformer.width=8", "model.transformer.feed_forward=8"]
IDS = tf.constant([[2, 3, 4], [5, 1, 0], [0, 0, 1]])


def backbone_of(name, *assignments, dropout=0.0):
    tf.keras.utils.set_random_seed(1)
    return build_backbone(load_config(None, [*SMALL, f"model.backbone={name}", *assignments]).model, dropout)


# Values by hand.


def test_a_tower_of_two_layers():
    # relu(1 + 2) = 3; then relu(2 * 3 - 10) = 0 and relu(2 * 3 - 1) = 5.
    tower = DeepTower([1, 2], batch_norm=False, dropout_rate=0.0)
    x = tf.constant([[1.0, 2.0]])
    tower(x)
    tower.set_weights([np.ones((2, 1)), np.zeros(1), np.full((1, 2), 2.0), np.array([-10.0, -1.0])])
    assert tower(x).numpy().tolist() == [[0.0, 5.0]]


def test_a_tower_without_layers_is_its_input():
    x = tf.constant([[1.0, -2.0]])
    assert DeepTower([], batch_norm=True, dropout_rate=0.5)(x, training=True, seed=SEED).numpy().tolist() == [[1.0, -2.0]]


def test_a_tower_normalises_before_it_activates():
    # A kernel of 1 keeps (1, 3), whose moments are 2 and 1: (-1, 1), of which relu leaves (0, 1).
    tower = DeepTower([1], batch_norm=True, dropout_rate=0.0)
    x = tf.constant([[1.0], [3.0]])
    tower(x)
    tower.weights[0].assign([[1.0]])
    np.testing.assert_allclose(tower(x, training=True), [[0.0], [1.0]], atol=1e-4)


def test_folded_normalisation_is_one_product():
    # s = 3 / sqrt(4) = 1.5; 1.5 (2 * 5 - 4) + 1 = 10 = (1.5 * 2) 5 + (1 - 1.5 * 4).
    tower = DeepTower([1], batch_norm=True, dropout_rate=0.5)
    x = tf.constant([[5.0]])
    tower(x)
    for weight, value in zip(tower.weights, (2.0, 3.0, 1.0, 4.0, 4.0 - BATCH_NORM["epsilon"]), strict=True):  # V, gamma, beta, moments
        weight.assign(tf.fill(weight.shape, value))

    predict = tf.function(tower)
    with folded_batch_norms():
        graph = predict.get_concrete_function(x).graph
        assert folded(tower._dense[0], tower._norms[0])[0].numpy() == pytest.approx(3.0)
        assert folded(tower._dense[0], tower._norms[0])[1].numpy() == pytest.approx(-5.0)
    assert not [op.name for op in graph.get_operations() if "BatchNorm" in op.type]
    assert predict(x).numpy() == pytest.approx(10.0) == tower(x).numpy()


def test_training_is_never_folded():
    tower = DeepTower([2], batch_norm=True, dropout_rate=0.0)
    x = tf.constant([[1.0], [3.0]])
    expected = tower(x, training=True)
    with folded_batch_norms():
        np.testing.assert_array_equal(tower(x, training=True), expected)
    assert folded(tower._dense[0], tower._norms[0]) is None, "nothing is folded outside"


def block_of_one_head():
    block = TransformerBlock(TransformerConfig(layers=1, heads=1, width=2, feed_forward=2), dropout_rate=0.0)
    block(tf.ones((1, 2, 2)))
    for weight in block.weights:
        weight.assign(tf.zeros_like(weight))
    for norm in (block._attention_norm, block._feed_forward_norm):
        norm.gamma.assign([1.0, 1.0])
    return block


def test_attention_by_hand():
    # LN of (1, -1) is itself, of (-1, 1) too. Q = K = V = LN(x): scores +-2 / sqrt 2, so a token keeps tanh(sqrt 2) of itself.
    block = block_of_one_head()
    block._split.kernel.assign(tf.concat([tf.eye(2)] * 3, axis=1))
    block._attention_output.kernel.assign(tf.eye(2))
    kept = np.tanh(np.sqrt(2))
    np.testing.assert_allclose(block(tf.constant([[[1.0, -1.0], [-1.0, 1.0]]]))[0],
                               [[1 + kept, -1 - kept], [-1 - kept, 1 + kept]], rtol=1e-4)


def test_scaled_queries_of_a_transformer_by_hand():
    # As above, but the first token's scores are halved, so that it keeps tanh(sqrt 2 / 2) of itself.
    block = block_of_one_head()
    block._split.kernel.assign(tf.concat([tf.eye(2)] * 3, axis=1))
    attended = block._attended(tf.constant([[[1.0, -1.0], [-1.0, 1.0]]]), query_scales=tf.constant([0.5, 1.0]))
    first, second = np.tanh(np.sqrt(2) / 2), np.tanh(np.sqrt(2))
    np.testing.assert_allclose(attended[0], [[first, -first], [-second, second]], rtol=1e-4)


def test_a_query_scaled_to_nothing_attends_to_nothing_in_hstu():
    block = HstuBlock(HstuConfig(layers=1, heads=2, width=4), dropout_rate=0.0)
    x = tf.random.stateless_normal((2, 3, 4), SEED)
    changes = (block(x, query_scales=tf.constant([1.0, 0.0, 2.0])) - x).numpy()
    assert not changes[:, 1].any() and np.all(changes[:, [0, 2]] != 0)
    np.testing.assert_allclose(changes[:, 0], (block(x) - x)[:, 0], rtol=1e-5)  # a scale of 1 changes nothing


def test_the_feed_forward_network_by_hand():
    # GELU(1) = 0.8413 and GELU(-1) = -0.1587 are the standard normal distribution at 1 and -1, times 1 and -1.
    block = block_of_one_head()
    block._inner.kernel.assign(tf.eye(2))
    block._feed_forward_output.kernel.assign(tf.eye(2))
    np.testing.assert_allclose(block(tf.constant([[[3.0, 1.0]]]))[0], [[3 + 0.8413, 1 - 0.1587]], atol=1e-3)


def test_heads_attend_for_themselves():
    # Two heads of width 1: what the first reads is no part of what the second puts out.
    block = TransformerBlock(TransformerConfig(layers=1, heads=2, width=2, feed_forward=2), dropout_rate=0.0)
    x = tf.random.stateless_normal((1, 3, 2), SEED)
    block(x)
    attended = block._attended(x)
    block._split.kernel.assign(block._split.kernel * tf.constant([1.0, 5.0] * 3))
    changed = block._attended(x)
    np.testing.assert_allclose(changed[..., 0], attended[..., 0], rtol=1e-5)
    assert np.all(changed[..., 1] != attended[..., 1])


# What all have in common.


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_can_be_trained_and_says_its_width(name):
    backbone = backbone_of(name, dropout=0.5)
    tokens = tf.random.stateless_normal((5, 4, 4), SEED)
    with tf.GradientTape() as tape:
        hidden = backbone(tokens, training=True, seed=SEED)
        loss = tf.reduce_sum(tf.square(hidden - 1.0))
    widths = {"dcn": (5, 16 + 8), "mlp": (5, 8), "hstu": (5, 4, 8), "transformer": (5, 4, 8)}
    assert hidden.shape == widths[name]
    gradients = tape.gradient(loss, backbone.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    np.testing.assert_array_equal(backbone(tokens, training=True, seed=SEED), backbone(tokens, training=True, seed=SEED))
    assert np.any(backbone(tokens, training=True, seed=SEED) != backbone(tokens, training=True, seed=SEED + 1))


@pytest.mark.parametrize("name", BACKBONES)
def test_products_of_a_backbone_are_rounded_where_that_is_asked_for(name):
    backbone = backbone_of(name)
    tokens = tf.random.stateless_normal((50, 4, 4), SEED)
    exact = backbone(tokens)
    with bfloat16_products():
        rounded = backbone(tokens)
    assert np.any(rounded != exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(tf.reduce_max(tf.abs(exact))))


@pytest.mark.parametrize("name", ["hstu", "transformer"])
def test_permuting_the_tokens_permutes_the_outputs(name):
    backbone, tokens, order = backbone_of(name), tf.random.stateless_normal((3, 4, 4), SEED), [2, 0, 3, 1]
    np.testing.assert_allclose(tf.gather(backbone(tokens), order, axis=1), backbone(tf.gather(tokens, order, axis=1)), atol=1e-5)


@pytest.mark.parametrize("name", ["dcn", "mlp"])
def test_concatenated_tokens_have_places(name):
    backbone, tokens = backbone_of(name), tf.random.stateless_normal((3, 4, 4), SEED)
    assert np.all(np.any(backbone(tokens) != backbone(tf.gather(tokens, [2, 0, 3, 1], axis=1)), axis=1))


@pytest.mark.parametrize("name", ["hstu", "transformer"])
def test_permuting_the_fields_permutes_the_queries_and_keeps_the_click(name):
    order = [2, 0, 1]
    fields = [tiny_schema().id_fields[k] for k in order]
    permuted = {field.name: field.rows for field in fields}

    def model(schema):
        tf.keras.utils.set_random_seed(1)
        return DGenCTR(schema, load_config(None, [*SMALL, f"model.backbone={name}"]), "pretrain", table_counts(schema, np.ones(40)))

    before, after = model(tiny_schema()), model(tiny_schema(permuted))
    for there, here in zip(before.schema.id_fields, (after.schema.id_fields[order.index(k)] for k in range(3)), strict=True):
        after.embedding.table[here.offset:here.offset + here.rows].assign(
            before.embedding.table[there.offset:there.offset + there.rows])
    for place in ("mask_embeddings", "field_embeddings"):
        getattr(after.embedding, place).assign(tf.gather(getattr(before.embedding, place), [*order, 3]))
    for place in ("kernel", "bias"):
        getattr(after.field_scoring, place).assign(tf.gather(getattr(before.field_scoring, place), order))
    mask = tf.constant([[True, False, False, True]] * 3)
    labels = tf.zeros(3)
    queries = before.field_scoring(before.hidden(before.embedding({"ids": IDS}, labels, mask)))
    permuted_ids = {"ids": tf.gather(IDS, order, axis=1)}
    moved = after.field_scoring(after.hidden(after.embedding(permuted_ids, labels, tf.gather(mask, [*order, 3], axis=1))))
    np.testing.assert_allclose(moved, tf.gather(queries, order), atol=1e-5)
    np.testing.assert_allclose(after.click_logits(permuted_ids), before.click_logits({"ids": IDS}), atol=1e-5)


# What is refused.


@pytest.mark.parametrize(("assignment", "message"), [
    ("model.transformer.heads=3", "transformer.width must be a multiple of transformer.heads, received 64 and 3"),
    ("model.mlp.hidden_units=[]", "hidden_units: Tuple should have at least 1 item"),
    ("model.mlp.hidden_units=[0]", "hidden_units.0: Input should be greater than or equal to 1"),
])
def test_networks_that_make_no_sense_are_refused(assignment, message):
    with pytest.raises(UserError, match=message):
        load_config(None, [assignment])
