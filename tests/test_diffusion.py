"""Schedule, corruption and losses against values computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import DiffusionConfig
from trainer.diffusion.corruption import corrupt, mask_tokens
from trainer.diffusion.loss import full_cross_entropy, inclusion_log_probability, log_shares, sampled_cross_entropy
from trainer.diffusion.schedule import draw_times, masking_rate

SEED = tf.constant([1, 2])


def scorable(rows, tokens=5):
    return tf.ones((rows, tokens), tf.bool)


def unlabelled(rows, tokens=5):
    return tf.concat([scorable(rows, tokens - 1), tf.zeros((rows, 1), tf.bool)], axis=1)


@pytest.mark.parametrize(("schedule", "rates"), [
    ("linear", [0.25, 0.5, 1.0]),
    ("cosine", [1 - np.cos(np.pi / 8), 1 - np.cos(np.pi / 4), 1.0]),
    ("fixed", [0.3, 0.3, 0.3]),
])
def test_masking_rates(schedule, rates):
    times = tf.constant([0.25, 0.5, 1.0])
    assert masking_rate(DiffusionConfig(schedule=schedule), times).numpy() == pytest.approx(rates, abs=1e-6)


def test_discrete_times_are_uniform_over_the_steps():
    times = draw_times(DiffusionConfig(), 20_000, 4, SEED).numpy()
    values, counts = np.unique(times, return_counts=True)
    assert values == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert counts / 20_000 == pytest.approx([0.25] * 4, abs=0.015)


def test_continuous_times_lie_in_the_unit_interval_without_zero():
    times = draw_times(DiffusionConfig(time="continuous"), 20_000, 4, SEED).numpy()
    assert 0 < times.min() and times.max() <= 1
    assert times.mean() == pytest.approx(0.5, abs=0.01)


def test_each_token_is_masked_at_its_samples_rate():
    mask = mask_tokens(tf.repeat([0.2, 0.7], 20_000), scorable(40_000), SEED).numpy().reshape(2, 20_000, 5)
    # A sample of rate 0.2 has nothing masked with probability 0.8^5; then one of its 5 tokens is.
    low = 0.2 + 0.8 ** 5 / 5
    assert mask[0].mean(axis=0) == pytest.approx([low] * 5, abs=0.015)
    assert mask[1].mean(axis=0) == pytest.approx([0.7 + 0.3 ** 5 / 5] * 5, abs=0.015)


def test_every_sample_has_a_masked_token():
    mask = mask_tokens(tf.zeros(1000), scorable(1000), SEED).numpy()
    assert (mask.sum(axis=1) == 1).all()


def test_at_the_end_of_time_everything_is_masked():
    assert mask_tokens(tf.ones(100), scorable(100), SEED).numpy().all()


@pytest.mark.parametrize(("schedule", "share"), [
    ({"schedule": "linear", "time": "continuous"}, 0.5),  # the integral of t over (0, 1]
    ({"schedule": "cosine", "time": "continuous"}, 1 - 2 / np.pi),  # of 1 - cos(pi t / 2)
    ({"schedule": "fixed"}, 0.3),
])
def test_as_many_tokens_are_masked_as_the_schedule_says(schedule, share):
    mask, rates = corrupt(DiffusionConfig(**schedule), scorable(20_000, tokens=100), SEED)
    assert rates.numpy().mean() == pytest.approx(share, abs=0.01)
    # Sample by sample: 100 tokens have a spread of 0.05 at most.
    np.testing.assert_allclose(mask.numpy().mean(axis=1), rates, atol=0.25)
    assert mask.numpy().mean() == pytest.approx(share, abs=0.01)


def test_a_label_that_is_not_there_is_never_the_masked_token():
    # At rate 0 one token is masked: of 5, or of the 4 features.
    masks = [mask_tokens(tf.zeros(20_000), which, SEED).numpy() for which in (scorable(20_000), unlabelled(20_000))]
    assert (masks[1].sum(axis=1) == 1).all()
    assert masks[0].mean(axis=0) == pytest.approx([0.2] * 5, abs=0.015)
    assert masks[1].mean(axis=0) == pytest.approx([0.25] * 4 + [0], abs=0.015)


def test_a_sample_with_a_label_is_masked_alike_beside_any_others():
    rates, some = tf.repeat([0.2, 0.7], 50), tf.constant([True, False] * 50)
    mixed = tf.where(some[:, tf.newaxis], scorable(100), unlabelled(100))
    alone, beside = (mask_tokens(rates, which, SEED).numpy() for which in (scorable(100), mixed))
    np.testing.assert_array_equal(alone[some.numpy()], beside[some.numpy()])


def test_corruption_is_a_function_of_the_seed():
    config = DiffusionConfig()
    first, again, other = (corrupt(config, scorable(64), tf.constant([3, step]))[0].numpy() for step in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_full_cross_entropy_of_two_values():
    # Scores (1, 0) with true value 0 and (3, 3) with true value 1: -log(e / (e + 1)) + log 2.
    queries, keys = tf.constant([[1.0, 0.0], [3.0, 3.0]]), tf.eye(2)
    loss = full_cross_entropy(queries, keys, tf.zeros(2), tf.constant([0, 1]))
    assert loss.numpy() == pytest.approx([np.log1p(np.exp(-1)), np.log(2)])


def test_full_cross_entropy_with_equal_scores_is_that_of_the_prior():
    loss = full_cross_entropy(tf.zeros((1, 2)), tf.ones((2, 2)), tf.math.log([0.25, 0.75]), tf.constant([0]))
    assert loss.numpy() == pytest.approx([np.log(4)])


def test_full_cross_entropy_of_no_cells_is_zero():
    keys = tf.ones((3, 2))
    with tf.GradientTape() as tape:
        tape.watch(keys)
        loss = full_cross_entropy(tf.zeros((0, 2)), keys, tf.zeros(3), tf.zeros(0, tf.int32))
    assert loss.shape == (0,)
    assert tape.gradient(loss, keys).numpy().tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("length", [1.0, 60.0], ids=["one bound for all rows", "each row's own maximum"])
def test_full_cross_entropy_and_its_gradients_are_those_of_the_softmax(length):
    rng = np.random.default_rng(0)
    queries = tf.constant(length * rng.normal(size=(20, 3)), tf.float32)
    keys = tf.constant(rng.normal(size=(7, 3)), tf.float32)
    log_prior = tf.constant(log_shares(rng.integers(0, 9, 7)))
    true = tf.constant(rng.integers(0, 7, 20), tf.int32)

    def softmax_loss():
        scores = tf.matmul(queries, keys, transpose_b=True) + log_prior
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=true, logits=scores)

    weights = tf.constant(rng.uniform(size=20), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([queries, keys])
        ours, theirs = weights * full_cross_entropy(queries, keys, log_prior, true), weights * softmax_loss()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * length)
    for of_ours, of_theirs in zip(tape.gradient(ours, [queries, keys]), tape.gradient(theirs, [queries, keys]), strict=True):
        np.testing.assert_allclose(of_ours, of_theirs, rtol=1e-4, atol=1e-4 * length)


def test_log_shares_of_counts():
    # An unseen value counts as half a time: shares 1/2, 3/8, 1/8 of 4.
    assert np.exp(log_shares(np.array([2.0, 1.5, 0.0]))) == pytest.approx([1 / 2, 3 / 8, 1 / 8])


def test_inclusion_probability_of_a_value():
    # A quarter of the rows, two draws: 1 - (3/4)^2.
    log_q = inclusion_log_probability(tf.math.log([0.25, 1.0]), tf.constant(2)).numpy()
    assert np.exp(log_q) == pytest.approx([7 / 16, 1.0], abs=1e-5)


def test_inclusion_probability_of_a_very_rare_value_is_finite():
    assert np.isfinite(inclusion_log_probability(tf.math.log([1e-10]), tf.constant(1)).numpy()).all()


def test_sampled_cross_entropy_removes_the_true_value_from_the_candidates():
    # S = {value 5 (score 1), value 7 (score 0)}: the candidate 5 is the true value itself.
    loss = sampled_cross_entropy(tf.constant([1.0]), tf.constant([5]), tf.constant([[1.0, 0.0]]), tf.constant([5, 7]))
    assert loss.numpy() == pytest.approx([np.log1p(np.exp(-1))])


def test_a_candidate_drawn_half_the_time_stands_for_two():
    # -log(1 / (1 + 2)).
    loss = sampled_cross_entropy(tf.constant([0.0]), tf.constant([0]), -tf.math.log([[0.5]]), tf.constant([1]))
    assert loss.numpy() == pytest.approx([np.log(3)])


def test_sampled_cross_entropy_approaches_the_full_softmax_as_draws_grow():
    rng = np.random.default_rng(0)
    values, rows = 200, 64
    counts = rng.integers(1, 50, values)
    scores = tf.constant(rng.normal(size=(rows, values)), tf.float32)
    true = tf.constant(rng.integers(0, values, rows))
    full = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=true, logits=scores).numpy().mean()
    gaps = []
    for draws in (20, 20_000):
        corrected = scores - inclusion_log_probability(tf.constant(log_shares(counts)), draws)
        candidates = np.unique(rng.choice(values, draws, p=counts / counts.sum()))
        sampled = sampled_cross_entropy(
            tf.gather(corrected, true, batch_dims=1), true, tf.gather(corrected, candidates, axis=1), tf.constant(candidates))
        gaps.append(abs(sampled.numpy().mean() - full))
    assert gaps[1] < 1e-3 < gaps[0]


@pytest.mark.parametrize("time", ["continuous", "discrete"])
def test_stratified_times_fill_every_part_of_the_interval(time):
    # 1000 samples: one in each thousandth, so a quarter of them in each quarter, in an order that is not theirs.
    times = draw_times(DiffusionConfig(time=time, stratified=True), 1000, 4, SEED).numpy()
    assert np.histogram(np.ceil(times * 4), bins=[0.5, 1.5, 2.5, 3.5, 4.5])[0].tolist() == [250] * 4
    assert (np.diff(times) < 0).any() and times.min() > 0 and times.max() <= 1
    if time == "continuous":
        assert sorted(np.ceil(times * 1000)) == list(range(1, 1001))


def test_nothing_is_masked_where_nothing_can_be_predicted():
    which = tf.constant([[False, False], [False, True]])
    assert mask_tokens(tf.ones(2), which, SEED).numpy().tolist() == [[False, False], [False, True]]
