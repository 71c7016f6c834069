"""What fine-tuning takes over from the pre-training and does with it: parts, frozen and anchored tables, label shares."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import draw_rows, table_counts, tiny_schema, write_data_folder

from preprocessing.errors import UserError
from trainer import task
from trainer.checkpoints import StageCheckpoints, TrainingState, load_trained, resume
from trainer.config import load_config
from trainer.data_folder import DataFolder, label_is_used
from trainer.input import TrainingSplit
from trainer.layers import BatchNorm, moving_moments_kept
from trainer.memory import predict
from trainer.model import DGenCTR
from trainer.optimizers import LazyAdam, build_optimizer, lazy_optimizers, set_learning_rate
from trainer.refusals import refuse_idle_start
from trainer.transfer import transfer

SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[8]", "finetune.dropout=0"]
COUNTS = table_counts(tiny_schema(), np.ones(40, np.int64))
IDS = tf.constant([[2, 3, 4], [5, 4, 3], [3, 5, 2]])
BATCH = {"ids": IDS, "label": tf.constant([1.0, 0.0, 1.0]), "seed": tf.constant([1, 0])}


def make(stage="finetune", *assignments, seed=1):
    tf.keras.utils.set_random_seed(seed)
    return DGenCTR(tiny_schema(), load_config(None, [*SMALL, *assignments]), stage, COUNTS)


def saved(model, folder):
    model.optimizer = build_optimizer(model, 0.01, 0.0)
    checkpoints = StageCheckpoints(folder, model.stage)
    checkpoints.save(model, model.optimizer, TrainingState("", "", 0.1, epoch=1, step=1), model.run_config)
    return checkpoints.last()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    model = make("pretrain", seed=7)
    for variable in model.named_variables().values():  # whatever starts at zero or one, too
        variable.assign_add(tf.random.stateless_normal(variable.shape, (7, 7)))
    return model, saved(model, tmp_path_factory.mktemp("pretrained"))


@pytest.mark.parametrize(("what", "loaded"), [
    ("all", lambda name: True),
    ("embeddings", lambda name: name.startswith("embedding:")),
    ("scorer", lambda name: name != "embedding:00:table"),
])
def test_what_is_transferred(pretrained, what, loaded, capsys):
    source, checkpoint = pretrained
    model = make()
    start = {name: variable.numpy() for name, variable in model.named_variables().items()}
    transfer(model, checkpoint, what)
    for name, variable in model.named_variables().items():
        expected = source.named_variables()[name].numpy() if loaded(name) else start[name]
        assert np.array_equal(variable.numpy(), expected), name
        assert not np.array_equal(start[name], source.named_variables()[name].numpy()), name
    assert ("transferred all " in capsys.readouterr().out) == (what == "all")


@pytest.mark.parametrize("what", ["all", "embeddings"])
def test_a_missing_variable_is_named_even_where_it_would_not_be_loaded(pretrained, what):
    other = make("finetune", "model.dcn.cross_layers=4")
    with pytest.raises(UserError, match=r"not fit the model, so nothing was loaded: backbone:\d+:\S+ is not in the checkpoint"):
        transfer(other, pretrained[1], what)


# What is trained.


def test_a_frozen_table_is_not_touched_and_everything_else_is():
    model = make("finetune", "finetune.train=no_table")
    model.optimizer = build_optimizer(model, 0.01, 0.0)
    before = {name: variable.numpy() for name, variable in model.named_variables().items()}
    scalars = tf.function(model.train_step)(BATCH | {"seed": tf.constant([1, 9])})
    assert np.array_equal(model.embedding.table.numpy(), before["embedding:00:table"])
    assert not np.array_equal(model.embedding.mask_embeddings.numpy(), before["embedding:01:mask_embeddings"])
    assert float(scalars["update_norm/dense"]) > 0 and "update_norm/table" not in scalars


def test_a_factor_of_the_tables_learning_rate():
    # The first step of Adam moves by the learning rate: 0.1 elsewhere, a quarter of that in the table.
    model = make("finetune", "finetune.table_learning_rate=0.25", "model.dcn.batch_norm=false")
    model.optimizer = build_optimizer(model, 1.0, 0.0, table_learning_rate=0.25)
    set_learning_rate(model.optimizer, 0.1)
    table, bias = model.embedding.table.numpy(), model.label_scoring.bias.numpy()
    model.train_step(BATCH)
    assert np.abs(model.embedding.table.numpy() - table).max() == pytest.approx(0.025, rel=1e-3)
    assert abs(model.label_scoring.bias.numpy() - bias) == pytest.approx(0.1, rel=1e-3)


def test_decay_towards_the_start_by_hand():
    # At the start nothing pulls. One step of Adam away (0.1), a gradient of zero of its own: 0.9 * 0.1 * 1 + 0.1 * g = m with
    # g = 10 * -0.1 = -1 gives m = -0.01, v = 0.999 * 0.001 + 0.001 = 0.001999.
    table = tf.Variable([[1.0], [2.0]])
    optimizer = LazyAdam(0.1, decay=10.0, towards_start=True)
    optimizer.build([table])
    optimizer.remember_start()
    rows = tf.constant([1])
    optimizer.apply_gradients([(tf.IndexedSlices(tf.constant([[1.0]]), rows, (2, 1)), table)])
    assert table.numpy()[1, 0] == pytest.approx(1.9, abs=1e-6)
    optimizer.apply_gradients([(tf.IndexedSlices(tf.constant([[0.0]]), rows, (2, 1)), table)])
    rate = 0.1 * np.sqrt(1 - 0.999**2) / (1 - 0.9**2)
    assert table.numpy()[1, 0] == pytest.approx(1.9 + rate * 0.01 / np.sqrt(0.001999), abs=1e-5)
    assert table.numpy()[0, 0] == 1.0


def test_the_start_is_saved_with_the_optimizer(tmp_path):
    def anchored(seed):
        model = make("finetune", "finetune.decay_towards=pretrained", "finetune.table_decay=0.1", seed=seed)
        model.optimizer = build_optimizer(model, 0.01, 0.1, decay_towards_start=True)
        return model

    model, continued = anchored(1), anchored(2)
    lazy_optimizers(model.optimizer)[0].remember_start()
    model.train_step(BATCH)
    checkpoints = StageCheckpoints(tmp_path, "finetune")
    checkpoints.save(model, model.optimizer, TrainingState("", "", 0.1, epoch=1, step=1), model.run_config)
    resume(continued, continued.optimizer, checkpoints.last())
    for step in (1, 2):
        model.train_step(BATCH | {"seed": tf.constant([1, step])})
        continued.train_step(BATCH | {"seed": tf.constant([1, step])})
    assert np.array_equal(model.embedding.table.numpy(), continued.embedding.table.numpy())


# The diffusion loss beside the click loss.


def test_the_auxiliary_loss_is_added_with_its_weight():
    plain = make().loss_parts(BATCH, training=True)
    for weight in (0.5, 2.0):
        parts = make("finetune", f"finetune.auxiliary_diffusion={weight}").loss_parts(BATCH, training=True)
        assert float(parts["click"]) == pytest.approx(float(plain["loss"]), rel=1e-6)
        assert {"label", "field/user", "field/item", "field/hour"} < parts.keys()
        diffusion = (float(parts["loss"]) - float(parts["click"])) / weight
        if weight == 0.5:
            expected = diffusion
    assert diffusion == pytest.approx(expected, rel=1e-4) and diffusion > 0
    assert make("finetune", "finetune.auxiliary_diffusion=1").loss_parts(BATCH, training=False).keys() == {"loss"}


def test_the_auxiliary_loss_trains_the_field_scorers_and_leaves_the_moving_moments_to_clean_features():
    def trained(*assignments):
        model = make("finetune", *assignments)
        model.optimizer = build_optimizer(model, 0.0, 0.0)
        before = model.field_scoring.kernel.numpy()
        set_learning_rate(model.optimizer, 0.01)
        model.train_step(BATCH)
        moments = [v.numpy() for name, v in model.named_variables().items() if name.split(":")[-1].startswith("moving_")]
        return moments, not np.array_equal(model.field_scoring.kernel.numpy(), before)

    (plain, idle), (auxiliary, moved) = trained(), trained("finetune.auxiliary_diffusion=0.1")
    assert len(plain) == 2 and moved and not idle
    for one, other in zip(plain, auxiliary, strict=True):
        np.testing.assert_array_equal(one, other)


def test_kept_moments_normalise_by_the_batch():
    x = tf.constant([[1.0, 5.0], [3.0, 9.0]])
    norm, usual = BatchNorm(momentum=0.9, epsilon=1e-5), BatchNorm(momentum=0.9, epsilon=1e-5)
    with moving_moments_kept():
        found = norm(x, training=True)
    np.testing.assert_allclose(found, usual(x, training=True), rtol=1e-5)
    assert norm.moving_mean.numpy().tolist() == [0, 0] and usual.moving_mean.numpy().tolist() != [0, 0]


def test_what_fine_tuning_keeps_is_predicted():
    def parts(*assignments):
        rows = {"train": 1000, "valid": 100, "test": 9}
        return dict(predict("finetune", load_config(None, [*SMALL, *assignments]), tiny_schema(), rows).parts)

    table = 40 * 4 * 4
    assert parts()["its two moments"] == 2 * table and parts("finetune.train=no_table")["its two moments"] == 0
    anchored = parts("finetune.decay_towards=pretrained", "finetune.table_decay=0.1")
    assert anchored["the table's values at the start"] == table and "the table's values at the start" not in parts()
    weights = 4 * sum(variable.shape.num_elements() for variable in make().variables)
    assert parts("finetune.averaging=0.9")["averages of all parameters"] == weights + 40 * 8


def test_the_auxiliary_loss_needs_frequencies_to_train_but_not_to_predict():
    tf.keras.utils.set_random_seed(1)
    model = DGenCTR(tiny_schema(), load_config(None, [*SMALL, "finetune.auxiliary_diffusion=1"]), "finetune")
    assert model.click_logits({"ids": IDS}).shape == (3,)
    with pytest.raises(UserError, match="auxiliary_diffusion needs the training frequencies"):
        model.loss_parts(BATCH, training=True)


# Labels of a share of the rows.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data_folder(tmp_path_factory.mktemp("data") / "tiny", rows=640, files=3, unlabelled_every=5)


def labelled_rows(data, labelled_only, window_rows=10_000, batch_size=1, first_step=0):
    """Rows (user, item, label) of an epoch that have a label, sorted."""
    split = TrainingSplit(data, batch_size, 1, window_rows, labelled_only=labelled_only)
    batches = list(split.iterate(split.epoch(0, first_step)))
    ids, labels = (np.concatenate([batch[name].numpy() for batch in batches]) for name in ("ids", "label"))
    return sorted((*row, label) for row, label in zip(ids.tolist(), labels.tolist(), strict=True) if label >= 0)


def expected_rows(share):
    ids, labels = draw_rows(640, 0)
    labels[::5] = -1
    used = label_is_used(tf.range(640), share).numpy() & (labels >= 0)
    return sorted((*row, label) for row, label in zip(ids[used].tolist(), labels[used].tolist(), strict=True))


@pytest.mark.parametrize("share", [0.25, 0.6])
@pytest.mark.parametrize("window_rows", [10_000, 100])
@pytest.mark.parametrize("labelled_only", [True, False])
def test_the_rows_whose_label_is_used_are_chosen_by_their_place(folder, share, window_rows, labelled_only):
    data = DataFolder.open(folder).with_label_share(share)
    assert labelled_rows(data, labelled_only, window_rows) == expected_rows(share)


def test_a_smaller_share_is_a_part_of_a_larger_one():
    rows = tf.range(100_000)
    tenth, half = label_is_used(rows, 0.1).numpy(), label_is_used(rows, 0.5).numpy()
    assert tenth.mean() == pytest.approx(0.1, abs=0.005) and half.mean() == pytest.approx(0.5, abs=0.005)
    assert not np.any(tenth & ~half) and label_is_used(rows, 1.0).numpy().all()


def test_counts_follow_from_the_share(folder):
    whole, data = DataFolder.open(folder), DataFolder.open(folder).with_label_share(0.25)
    expected = expected_rows(0.25)
    assert data.labelled("train") == len(expected) < whole.labelled("train")
    assert data.rows_read("finetune")["train"] == len(expected) and data.rows_read("pretrain")["train"] == 640
    assert data.click_rate == pytest.approx(np.mean([row[-1] for row in expected]))
    assert data.labelled("valid") == whole.labelled("valid") and data.checksum == whole.checksum
    assert sum(file.unlabelled for file in data.files("train")) == 640 - len(expected)


def test_an_epoch_continues_at_any_step_with_a_share_of_the_labels(folder):
    data = DataFolder.open(folder).with_label_share(0.6)
    for labelled_only in (True, False):
        split = TrainingSplit(data, 16, 1, window_rows=96, labelled_only=labelled_only)
        whole, rest = (list(split.iterate(split.epoch(2, first))) for first in (0, 9))
        assert len(rest) == split.steps - 9
        for one, other in zip(whole[9:], rest, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


# As commands.

RUN = [*SMALL, "pretrain.epochs=1", "pretrain.batch_size=80", "pretrain.min_steps=4", "finetune.epochs=1",
       "finetune.batch_size=64", "finetune.min_steps=4"]


def call(stage, data, model, *assignments, flags=()):
    settings = [part for assignment in (*RUN, *assignments) for part in ("--set", assignment)]
    return task.main([f"--stage={stage}", "--data_dir", str(data), "--model_dir", str(model), *settings, *flags])


def error_of(capsys, *arguments, flags=()):
    capsys.readouterr()
    assert call(*arguments, flags=flags) == 2
    return " ".join(capsys.readouterr().err.split())


def test_one_pretraining_and_its_finetunings(folder, tmp_path, capsys):
    model = tmp_path / "model"
    assert call("pretrain", folder, model, "input.label_share=0.5") == 0
    printed = capsys.readouterr().out
    assert "have no label, or none that input.label_share=0.5 uses, and are read with the label masked" in printed
    message = error_of(capsys, "finetune", folder, model, "input.label_share=0.25")
    assert "has learnt from the labels of input.label_share=0.5 of" in message and "know only 0.25 of them" in message
    settings = ["input.label_share=0.5", "finetune.transfer=embeddings", "finetune.decay_towards=pretrained",
                "finetune.table_decay=0.01", "finetune.table_learning_rate=0.5", "finetune.auxiliary_diffusion=0.1"]
    assert call("finetune", folder, model, *settings) == 0
    printed = capsys.readouterr().out
    assert "parameters of" in printed and "transferred all" not in printed
    trained = load_trained(model)
    assert trained.click_logits({"ids": IDS}).shape == (3,)
    assert task.main(["--stage=evaluate", "--data_dir", str(folder), "--model_dir", str(model)]) == 0
    used = DataFolder.open(folder).with_label_share(0.5).labelled("train")
    assert f"| train | 640 | {used} |" in (model / "report" / "REPORT.md").read_text()
    message = error_of(capsys, "finetune", folder, model, *settings, "diffusion.schedule=cosine")
    assert "diffusion.schedule: linear -> cosine" in message  # which the auxiliary loss depends on
    assert "nothing to do" in (call("finetune", folder, model, *settings), capsys.readouterr().out)[1]


def test_a_share_without_any_label_is_refused(folder, tmp_path, capsys):
    message = error_of(capsys, "finetune", folder, tmp_path / "none", "input.label_share=0.000001", flags=["--from_scratch"])
    assert "input.label_share=1e-06 leaves none of the 640 training rows" in message and "set a larger share" in message


@pytest.mark.parametrize("assignments", [["finetune.transfer=scorer"], ["finetune.train=no_table"],
                                         ["finetune.decay_towards=pretrained", "finetune.table_decay=0.1"]])
def test_settings_of_a_pretraining_have_no_meaning_from_scratch(assignments):
    config = load_config(None, assignments)
    name = assignments[0].split("=")[0]
    with pytest.raises(UserError, match=f"{name}=.* has no meaning with --from_scratch"):
        refuse_idle_start("finetune", config, True, None)
    refuse_idle_start("finetune", config, False, None)


def test_init_from_takes_over_everything():
    config = load_config(None, ["finetune.transfer=embeddings"])
    with pytest.raises(UserError, match="finetune.transfer=embeddings .* --init_from, which takes over everything"):
        refuse_idle_start("finetune", config, False, "earlier")


@pytest.mark.parametrize(("assignments", "message"), [
    (["finetune.train=no_table", "finetune.table_decay=0.1"], "`table_decay` has no effect with `train: no_table`"),
    (["finetune.train=no_table", "finetune.table_learning_rate=0.1"],
     "`table_learning_rate` has no effect with `train: no_table`"),
    (["finetune.train=no_table", "finetune.decay_towards=pretrained"], "`train: no_table` keeps the table at its pre-trained values"),
    (["finetune.train=no_table", "finetune.transfer=scorer"], "`transfer: scorer` leaves the table at random values"),
    (["finetune.decay_towards=pretrained"], "`decay_towards: pretrained` has no effect without `table_decay`"),
    (["finetune.decay_towards=pretrained", "finetune.table_decay=0.1", "finetune.transfer=scorer"],
     "`transfer: scorer` leaves the table at random"),
    (["finetune.auxiliary_diffusion=0.1", "runtime.xla=true"], "`finetune.auxiliary_diffusion` needs `runtime.xla: false`"),
    (["input.label_share=0.5", "input.corrupt_records=0.1"], "`label_share` below 1 chooses rows by their places"),
    (["input.label_share=0"], "label_share"),
    (["finetune.averaging=1"], "averaging"),
])
def test_forbidden_pairs_are_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        load_config(None, assignments)
