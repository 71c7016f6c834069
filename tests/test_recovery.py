"""A distribution small enough to write down is recovered: every conditional of every token, whatever else is visible."""

from itertools import product

import numpy as np
import pytest
import tensorflow as tf
from data_folders import tiny_schema

from preprocessing.schema import SPECIAL_ROWS
from trainer.config import load_config
from trainer.diffusion import objective as objective_module
from trainer.diffusion.corruption import corrupt
from trainer.models import build_model
from trainer.optimizers import build_optimizer, set_learning_rate

VALUES = (3, 3, 3, 2)  # of three fields, and of the label
STEPS, BATCH, RATE = 500, 4096, 0.02
BLOCK = 256  # rows that share a mask, so that what a mask leaves visible occurs as often as its probability says
RARE = 0.01  # conditions of smaller probability are met too seldom to be judged


def joint_distribution():
    """p(f_1, f_2, f_3, y): neighbouring fields depend on each other, and the label on every field."""
    first, second, third, label = np.meshgrid(*map(np.arange, VALUES), indexing="ij")
    energy = 1.0 * (first == second) + 0.9 * (second == third) - 0.2 * third
    energy += label * (1.0 * (first == 2) - 0.8 * (third == 1) + 0.7 * (second < 2) - 0.6)
    weights = np.exp(energy)
    return weights / weights.sum()


JOINT = joint_distribution()


def true_conditional(token, visible):
    """p(x_token | visible), where `visible` maps tokens to values, and the probability of the condition."""
    chosen = JOINT[tuple(visible.get(axis, slice(None)) for axis in range(4))]
    kept = [axis for axis in range(4) if axis not in visible]
    weights = chosen.sum(axis=tuple(place for place, axis in enumerate(kept) if axis != token))
    return weights / weights.sum(), weights.sum()


def conditions():
    """Every token with every choice of visible other tokens and their values that is not rare."""
    for token in range(4):
        others = [other for other in range(4) if other != token]
        for shown in product([False, True], repeat=3):
            visible = [other for other, is_shown in zip(others, shown, strict=True) if is_shown]
            for values in product(*(range(VALUES[other]) for other in visible)):
                expected, probability = true_conditional(token, given := dict(zip(visible, values, strict=True)))
                if probability > RARE:
                    yield token, given, expected


def trained_model(*assignments):
    schema = tiny_schema({name: SPECIAL_ROWS + size for name, size in zip("abc", VALUES[:3], strict=True)})
    settings = ["model.embedding_dim=8", "model.dcn.cross_layers=1", "model.dcn.hidden_units=[64]", "model.dcn.batch_norm=false",
                "model.scoring.similarity=dot", "runtime.matmul=float32", "diffusion.stratified=true", *assignments]
    shares = [JOINT.sum(axis=tuple(axis for axis in range(4) if axis != k)) for k in range(3)]
    frequencies = [np.concatenate([[0, 0], share * 10**6]).astype(np.int64) for share in shares]
    tf.keras.utils.set_random_seed(1)
    model = build_model(schema, load_config(None, settings), "pretrain", frequencies, click_rate=JOINT[..., 1].sum())
    model.optimizer = build_optimizer(model, 0.01, table_decay=0.0)
    cells_below = tf.constant(np.cumsum(JOINT.ravel())[:-1], tf.float32)

    @tf.function
    def step(number):
        seed = tf.stack([7, number])
        # Systematic sampling: each block of rows has every cell as often as its probability says, give or take one.
        offsets = tf.random.stateless_uniform((BATCH // BLOCK, 1), seed)
        places = tf.reshape((tf.range(BLOCK, dtype=tf.float32) + offsets) / BLOCK, (-1,))
        rows = tf.transpose(tf.unravel_index(tf.searchsorted(cells_below, places, side="right"), VALUES))  # (B, 4)
        return model.train_step({"ids": rows[:, :3] + SPECIAL_ROWS, "label": tf.cast(rows[:, 3], tf.float32), "seed": seed})

    variables, averaged = model.stage_variables, range(STEPS // 2, STEPS, 5)
    sums = [np.zeros(variable.shape) for variable in variables]
    for number in range(STEPS):
        set_learning_rate(model.optimizer, RATE * (1 - 0.9 * number / STEPS))
        step(tf.constant(number))
        if number in averaged:
            sums = [total + variable.numpy() for total, variable in zip(sums, variables, strict=True)]
    for total, variable in zip(sums, variables, strict=True):
        variable.assign(total / len(averaged))
    return model


def learned_conditionals(model, found):
    """p(x_token | visible) by the model for many conditions at once, each an array over the token's values."""
    ids = np.zeros((len(found), 3), np.int32)
    labels, mask = np.zeros(len(found), np.float32), np.ones((len(found), 4), bool)
    for row, (_, visible, _) in enumerate(found):
        for token, value in visible.items():
            mask[row, token] = False
            if token == 3:
                labels[row] = value
            else:
                ids[row, token] = value + SPECIAL_ROWS
    hidden = model.hidden(model.embedding({"ids": ids}, labels, mask))
    queries, clicks = model.field_scoring(hidden), tf.sigmoid(model.label_scoring(hidden, model.embedding.label_embeddings)).numpy()
    distributions, scoring = model.objective.distributions, model.field_scoring
    of_fields = []
    for k in range(3):
        keys = distributions.keys(k, tf.range(SPECIAL_ROWS + VALUES[k]))
        scores = tf.matmul(scoring.as_queries(queries[k]), keys, transpose_b=True) + distributions.log_prior(k)
        of_fields.append(tf.nn.softmax(scores).numpy())
    return [np.array([1 - clicks[row], clicks[row]]) if token == 3 else of_fields[token][row, SPECIAL_ROWS:]
            for row, (token, _, _) in enumerate(found)]


@pytest.fixture(autouse=True)
def masks_of_blocks(monkeypatch):
    def corrupt_blocks(config, scorable, seed):
        mask, rates = corrupt(config, scorable[::BLOCK], seed)
        return tf.repeat(mask, BLOCK, axis=0), tf.repeat(rates, BLOCK)

    monkeypatch.setattr(objective_module, "corrupt", corrupt_blocks)


@pytest.mark.parametrize("candidates", ["full", "batch"])
def test_every_conditional_is_recovered(candidates):
    found = list(conditions())
    learned = learned_conditionals(trained_model(f"model.scoring.candidates={candidates}"), found)
    errors = [abs(ours - expected).max() for ours, (_, _, expected) in zip(learned, found, strict=True)]
    worst = int(np.argmax(errors))
    assert len(found) > 150 and max(errors) < 0.02, (len(found), found[worst], learned[worst])
