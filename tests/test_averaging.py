"""The average of the weights: by hand, lazily for the table, kept apart from the weights that training goes on with."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema, write_data_folder

from preprocessing.errors import UserError
from trainer import task
from trainer.averaging import WeightAverage
from trainer.checkpoints import (
    MODEL,
    OPTIMIZER,
    RAW,
    StageCheckpoints,
    TrainingState,
    checkpoint_bytes,
    load_trained,
    restore_model,
    resume,
)
from trainer.config import load_config
from trainer.distribute.distribution import Synchronous
from trainer.model import DGenCTR
from trainer.optimizers import BLOCK_ROWS, LazyAdam, build_optimizer, log_kept
from trainer.refusals import require_one_device

SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "finetune.dropout=0"]
FACTOR = 0.5


def slices(rows, values):
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), dense_shape=(4, 1))


def table_after(rows_of_steps):
    """A lazily averaged table [4, 1], its optimizer, and its values after each step."""
    table = tf.Variable([[1.0], [2.0], [3.0], [4.0]])
    optimizer = LazyAdam(0.1, averaging=FACTOR)
    values = []
    for step, rows in enumerate(rows_of_steps):
        optimizer.apply_gradients([(slices(rows, [[(-1.0) ** step * (row + 1)] for row in rows]), table)])
        values.append(table.numpy())
    return table, optimizer, values


def dense_average(values):
    average, kept = np.zeros_like(values[0]), 1.0
    for step, value in enumerate(values, start=1):
        factor = min(FACTOR, (1 + step) / (10 + step))
        average, kept = factor * average + (1 - factor) * value, kept * factor
    return average / (1 - kept)


def test_two_steps_by_hand():
    # d_1 = 2/11 and d_2 = 3/12: weights (9/11) (1/4) and 3/4, of a sum of 21/22.
    table, optimizer, (first, second) = table_after([[2], [2]])
    optimizer.assign_averages()
    assert table.numpy()[2, 0] == pytest.approx((9 / 44 * first[2, 0] + 3 / 4 * second[2, 0]) / (21 / 22))


@pytest.mark.parametrize("factor", [0.05, 0.5, 0.9, 0.998])
def test_how_much_an_average_keeps(factor):
    factors = [min(factor, (1 + step) / (10 + step)) for step in range(1, 6001)]
    expected = np.concatenate([[0.0], np.cumsum(np.log(factors))])
    np.testing.assert_allclose(log_kept(tf.range(6001), factor), expected, rtol=1e-9, atol=1e-9)


def test_rows_that_are_looked_up_now_and_then_are_averaged_as_if_in_every_step():
    steps = [[0, 1], [1], [1], [0], [1, 2], [1], [0, 2], [1]]
    table, optimizer, values = table_after(steps)
    optimizer.assign_averages()
    np.testing.assert_allclose(table.numpy(), dense_average(values), rtol=1e-6)
    assert table.numpy()[3, 0] == 4.0  # never looked up: exactly as it was


def test_an_average_is_kept_for_looked_up_rows_only():
    _, optimizer, _ = table_after([[0, 1], [1]])
    average, steps = optimizer.slots["average"][0].numpy(), optimizer.slots["averaged_at"][0].numpy()
    assert steps.tolist() == [0, 1, 0, 0]  # the step before that in which it was looked up last
    assert average[[2, 3]].tolist() == [[0.0], [0.0]]


def test_a_table_of_several_blocks_is_averaged_whole(monkeypatch):
    monkeypatch.setattr("trainer.optimizers.BLOCK_ROWS", 3)
    table, optimizer, values = table_after([[0, 3], [1, 3]])
    optimizer.assign_averages()
    np.testing.assert_allclose(table.numpy(), dense_average(values), rtol=1e-6)
    assert BLOCK_ROWS > 3


def make(stage="finetune", *assignments):
    tf.keras.utils.set_random_seed(1)
    counts = table_counts(tiny_schema(), np.ones(40, np.int64))
    model = DGenCTR(tiny_schema(), load_config(None, [*SMALL, *assignments]), stage, counts)
    model.optimizer = build_optimizer(model, 0.05, 0.1, averaging=FACTOR)
    model.average = WeightAverage(model, FACTOR)
    return model


def batch_for(step):
    ids = tf.random.stateless_uniform((3, 3), (step, 0), 2, 6, tf.int32)
    return {"ids": ids, "label": tf.constant([1.0, 0.0, 1.0]), "seed": tf.constant([1, step])}


def weights(model):
    return {name: variable.numpy() for name, variable in model.named_variables().items()}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_is_trained_is_averaged_and_given_back(stage):
    model = make(stage)
    before, history = weights(model), []
    with model.average.in_place():
        assert all(np.array_equal(value, before[name]) for name, value in weights(model).items())  # of no step: the weights
    for step in range(4):
        model.train_step(batch_for(step))
        history.append(weights(model))
    with model.average.in_place():
        averaged = weights(model)
    changed = {name for name in averaged if any(not np.array_equal(at[name], before[name]) for at in history)}
    assert any("moving_mean" in name for name in changed)
    for name in averaged:
        expected = dense_average([at[name] for at in history]) if name in changed else before[name]
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert all(np.array_equal(value, history[-1][name]) for name, value in weights(model).items())


def test_weights_are_given_back_after_an_interrupted_evaluation():
    model = make()
    model.train_step(batch_for(0))
    model.train_step(batch_for(1))
    after = weights(model)
    with pytest.raises(KeyboardInterrupt), model.average.in_place():
        raise KeyboardInterrupt
    assert all(np.array_equal(value, after[name]) for name, value in weights(model).items())


def test_a_frozen_table_stays_as_it_is():
    model = make("finetune", "finetune.train=no_table")
    table = model.embedding.table.numpy()
    for step in range(3):
        model.train_step(batch_for(step))
    with model.average.in_place():
        assert np.array_equal(model.embedding.table.numpy(), table)


def tensors(checkpoint, part):
    reader = tf.train.load_checkpoint(str(checkpoint / part))
    return {key: reader.get_tensor(key).tobytes() for key in reader.get_variable_to_shape_map() if key.endswith("VALUE")}


def saved(model, folder, step):
    checkpoints = StageCheckpoints(folder, model.stage)
    checkpoints.save(model, model.optimizer, TrainingState("", "", 0.1, epoch=step, step=step), model.run_config)
    return checkpoints.last()


def test_a_checkpoint_has_the_averages_as_its_model_and_the_weights_to_continue_with(tmp_path):
    whole = make()
    for step in range(3):
        whole.train_step(batch_for(step))
    checkpoint = saved(whole, tmp_path, 3)
    with whole.average.in_place():
        averaged = weights(whole)
    plain, continued = DGenCTR(tiny_schema(), whole.run_config), make()
    restore_model(plain, checkpoint)
    assert all(np.array_equal(value, averaged[name]) for name, value in weights(plain).items())
    resume(continued, continued.optimizer, checkpoint)
    for step in range(3, 6):
        whole.train_step(batch_for(step))
        continued.train_step(batch_for(step))
    with whole.average.in_place(), continued.average.in_place():
        assert all(np.array_equal(value, weights(continued)[name]) for name, value in weights(whole).items())
    size = sum(len(value) for part in (MODEL, RAW, OPTIMIZER) for value in tensors(checkpoint, part).values())
    assert checkpoint_bytes(whole, whole.optimizer) == pytest.approx(size, abs=100)  # but for counts of steps


def test_continuing_without_the_average_is_refused(tmp_path):
    model = make()
    model.train_step(batch_for(0))
    checkpoint = saved(model, tmp_path, 1)
    model.average, model.optimizer = None, build_optimizer(model, 0.05, 0.1)
    with pytest.raises(UserError, match="has averages of its weights, which this configuration would not carry on"):
        resume(model, model.optimizer, checkpoint)


def test_continuing_with_an_average_that_was_not_kept_is_refused(tmp_path):
    model = make()
    average, model.average, model.optimizer = model.average, None, build_optimizer(model, 0.05, 0.1)
    checkpoint = saved(model, tmp_path, 1)
    model.average, model.optimizer = average, build_optimizer(model, 0.05, 0.1, averaging=FACTOR)
    with pytest.raises(UserError, match="holds the state of another optimizer"):
        resume(model, model.optimizer, checkpoint)


def test_several_devices_are_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with pytest.raises(UserError, match="finetune.averaging is kept by one process on one device"):
        require_one_device(Synchronous(strategy).is_single, "finetune")


def test_a_stopped_run_ends_with_the_same_weights_and_exports_the_averages(tmp_path):
    data = write_data_folder(tmp_path / "data", rows=160)
    settings = ["--set", *SMALL, "finetune.epochs=2", "finetune.batch_size=40", "finetune.min_steps=4", "finetune.averaging=0.7",
                "finetune.learning_rate_schedule=constant", "finetune.learning_rate=0.003"]

    def run(name, *more):
        arguments = ["--stage=finetune", "--from_scratch", "--data_dir", str(data), "--model_dir", str(tmp_path / name)]
        assert task.main([*arguments, *settings, *more]) == 0
        return StageCheckpoints(tmp_path / name, "finetune")

    whole = run("whole")
    assert [record["learning_rate"] for record in whole.history()] == [0.003, 0.003]
    run("stopped", "finetune.epochs=1")
    stopped = run("stopped")
    for part in (MODEL, RAW, OPTIMIZER):
        assert tensors(whole.last(), part) == tensors(stopped.last(), part)
    table = load_trained(tmp_path / "whole").embedding.table.numpy().tobytes()
    name = "embedding:00:table/.ATTRIBUTES/VARIABLE_VALUE"
    assert tensors(whole.best(), MODEL)[name] == table != tensors(whole.best(), RAW)[name]
