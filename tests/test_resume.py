"""Runs that are killed, stopped, damaged, short of disk or started twice end as if nothing had happened, or say why not."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from child_processes import run_script
from data_folders import FIELD_ROWS, SPLITS, draw_rows, write_data_folder, write_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preprocessing.errors import UserError
from trainer import checkpoints as checkpointing
from trainer import disk, lock, loop, progress, task
from trainer.checkpoints import CHECKSUM_FILE, STATE_FILE, StageCheckpoints, damage, load_trained
from trainer.events import EventLog
from trainer.optimizers import cosine_learning_rate
from trainer.prediction import Predictor

STAGES = ("pretrain", "finetune")
SETTINGS = [part for assignment in (
    "model.embedding_dim=4", "model.dcn.hidden_units=[16]", "pretrain.epochs=3", "pretrain.batch_size=80", "pretrain.min_steps=4",
    "finetune.epochs=3", "finetune.batch_size=64", "finetune.min_steps=4", "finetune.learning_rate=0.01",
    "pretrain.learning_rate=0.01", "pretrain.dropout=0.1", "finetune.feature_mask_rate=0.1", "finetune.learning_rate_schedule=plateau",
) for part in ("--set", assignment)]
TENSORS = "model.data-00000-of-00001"


def draw_moments(seed: int) -> list[tuple[str, str, int]]:
    """[stage, what, n]: where a process is killed; an epoch has 4 steps, each saved."""
    draw = random.Random(seed)
    moments = [("pretrain", "step"), ("pretrain", "write: sealed, not yet renamed"), ("pretrain", "validation"),
               ("finetune", "write: tensors on disk, no checksums"), ("finetune", "write: renamed, older ones not yet removed")]
    return [(stage, what, 1 if what == "validation" else draw.randint(1, 5)) for stage, what in moments]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data_folder(tmp_path_factory.mktemp("data") / "tiny", rows=320, unlabelled_every=5, weighted=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """Model folders `whole` and `killed` (see killed_runs.py), and what was printed in the latter."""
    folder = tmp_path_factory.mktemp("runs")
    run_script("killed_runs.py", folder, str(data), str(folder), json.dumps(SETTINGS), json.dumps(draw_moments(seed=20261122)))
    return folder / "whole", folder / "killed", (folder / "killed.log").read_text()


@pytest.fixture
def trained(runs, tmp_path):
    """A copy of the uninterrupted run."""
    return shutil.copytree(runs[0], tmp_path / "trained")


def tensors(checkpoint: Path) -> dict[str, bytes]:
    found = {}
    for part in ("model", "optimizer"):
        reader = tf.train.load_checkpoint(str(checkpoint / part))
        found |= {f"{part} {key}": reader.get_tensor(key).tobytes() for key in reader.get_variable_to_shape_map() if key.endswith("VALUE")}
    return found


def what_is_exact(state) -> dict:
    content = asdict(state)
    del content["seconds"]
    return content


def assert_equal_runs(one: Path, other: Path, stages=STAGES) -> None:
    for stage in stages:
        a, b = StageCheckpoints(one, stage), StageCheckpoints(other, stage)
        assert what_is_exact(a.state(a.last())) == what_is_exact(b.state(b.last()))
        assert tensors(a.last()) == tensors(b.last())
        assert a.best().name == b.best().name and tensors(a.best()) == tensors(b.best())


def call(stage, data, model, *more):
    return task.main([f"--stage={stage}", "--data_dir", str(data), "--model_dir", str(model), *SETTINGS, *more])


def user_error(capsys, *arguments) -> str:
    assert call(*arguments) == 2
    return " ".join(capsys.readouterr().err.split())


def at_call(monkeypatch, owner, name: str, n: int, action) -> None:
    """Runs `action` before the n-th call of a method."""
    original, calls = getattr(owner, name), []

    def counted(*arguments, **keywords):
        calls.append(None)
        if len(calls) == n:
            action()
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)


def after_step(monkeypatch, n: int, action) -> None:
    at_call(monkeypatch, progress.StepProgress, "_count", n, action)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Killed and stopped.


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(runs):
    whole, killed, log = runs
    assert_equal_runs(whole, killed)
    assert "continuing after epoch" in log and " steps from " in log
    assert StageCheckpoints(killed, "finetune").state(StageCheckpoints(killed, "finetune").last()).step == 12


def test_a_killed_run_leaves_nothing_half_written(runs):
    for stage in STAGES:
        folder = StageCheckpoints(runs[1], stage).folder
        assert not list(folder.glob(".*"))
        assert [damage(path) for path in folder.iterdir()] == [None] * len(list(folder.iterdir()))


def test_tensorboard_shows_no_step_of_a_killed_run_twice(runs):
    whole, killed, _ = runs
    for stage in STAGES:
        expected, shown = (EventAccumulator(str(run / stage / "tensorboard")).Reload() for run in (whole, killed))
        for tag in ("valid/auc", "norm/table", "train/gradient_norm"):
            values = [[(event.step, event.value) for event in events.Scalars(tag)] for events in (expected, shown)]
            assert values[0] == values[1] and values[0]


def test_two_runs_with_one_seed_are_equal(runs, data, tmp_path):
    for stage in STAGES:
        assert call(stage, data, tmp_path / "again") == 0
    assert_equal_runs(runs[0], tmp_path / "again")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_after_the_step_and_ends(runs, data, tmp_path, monkeypatch, capsys, number, code):
    model = tmp_path / "model"
    with monkeypatch.context() as patch:
        after_step(patch, 6, lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as stopped:
            call("pretrain", data, model)
    saved = model / "pretrain" / "checkpoints" / "epoch-0001-step-00000006"
    assert stopped.value.code == code
    assert f"pretrain: stopped by {signal.Signals(number).name}; saved as {saved}, where the same command" in capsys.readouterr().out
    assert damage(saved) is None and signal.getsignal(number) is not loop.Interruption.receive
    assert call("pretrain", data, model) == 0
    assert f"continuing after epoch 1 and 2 steps from {saved}" in capsys.readouterr().out
    assert_equal_runs(runs[0], model, ["pretrain"])


def test_a_signal_ends_a_validation_which_is_done_again(runs, data, tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    with monkeypatch.context() as patch:
        at_call(patch, Predictor, "validate", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            call("pretrain", data, model)
    assert "saved as" in capsys.readouterr().out
    assert StageCheckpoints(model, "pretrain").last().name == "epoch-0001-step-00000008"
    assert call("pretrain", data, model) == 0
    assert_equal_runs(runs[0], model, ["pretrain"])


def test_a_signal_before_the_first_step_has_nothing_to_save(data, tmp_path, monkeypatch, capsys):
    at_call(monkeypatch, loop, "build_optimizer", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        call("pretrain", data, tmp_path / "model")
    assert stopped.value.code == 143 and "pretrain: stopped by SIGTERM; no step was under way" in capsys.readouterr().out
    assert not (tmp_path / "model" / "pretrain").exists()


# Damaged checkpoints.


@pytest.mark.parametrize("file", [TENSORS, "optimizer.data-00000-of-00001", "optimizer.index", STATE_FILE, CHECKSUM_FILE])
def test_a_flipped_bit_is_found(trained, file):
    checkpoint = StageCheckpoints(trained, "finetune").last()
    assert damage(checkpoint) is None
    flip_bit(checkpoint / file)
    assert damage(checkpoint) is not None


def test_a_truncated_and_a_missing_file_are_named(trained):
    checkpoint = StageCheckpoints(trained, "finetune").last()
    size = (checkpoint / TENSORS).stat().st_size
    with open(checkpoint / TENSORS, "r+b") as file:
        file.truncate(size - 1)
    assert damage(checkpoint) == f"{TENSORS} has {size - 1:,} bytes and was written with {size:,}"
    (checkpoint / TENSORS).unlink()
    assert damage(checkpoint) == f"{TENSORS}: No such file or directory"
    (checkpoint / CHECKSUM_FILE).write_text("[]")
    assert damage(checkpoint) == f"{CHECKSUM_FILE} is not readable"


def test_a_damaged_last_checkpoint_is_skipped_and_its_epoch_trained_again(runs, trained, data, capsys):
    checkpoints = StageCheckpoints(trained, "finetune")
    last = checkpoints.last()
    flip_bit(last / TENSORS)
    assert call("finetune", data, trained) == 0
    printed = capsys.readouterr().out
    assert f"skipping checkpoint {last}, which is damaged: {TENSORS} does not have the checksum it was written with" in printed
    assert "continuing after epoch 2 from" in printed
    assert_equal_runs(runs[0], trained)


def test_a_damaged_state_is_no_state(trained):
    checkpoints = StageCheckpoints(trained, "finetune")
    flip_bit(checkpoints.last() / STATE_FILE)
    assert checkpoints.last().name == "epoch-0002" and len(checkpoints.history()) == 2


def test_only_damaged_checkpoints_are_refused(trained, data, capsys):
    checkpoints = StageCheckpoints(trained, "finetune")
    for path in checkpoints.folder.iterdir():
        (path / CHECKSUM_FILE).unlink()
    message = user_error(capsys, "finetune", data, trained)
    assert f"every checkpoint in {checkpoints.folder} is damaged (the oldest: {CHECKSUM_FILE}: No such file or directory)" in message
    assert f"remove {checkpoints.stage_dir} to train anew" in message


def make_best(checkpoints: StageCheckpoints, epoch: int) -> Path:
    """Lets the states name another epoch as the best."""
    for path in checkpoints.folder.iterdir():
        state = json.loads((path / STATE_FILE).read_text())
        (path / STATE_FILE).write_text(json.dumps({**state, "best_epoch": epoch}))
        (path / CHECKSUM_FILE).unlink()
        checkpointing.seal(path)
    return checkpoints.best()


@pytest.mark.parametrize(("epoch", "advice"), [(3, "it goes on from the checkpoint before"), (2, "restore it from a copy, or remove")])
def test_a_damaged_best_checkpoint_is_not_evaluated(trained, epoch, advice):
    best = make_best(StageCheckpoints(trained, "finetune"), epoch)
    flip_bit(best / TENSORS)
    with pytest.raises(UserError) as error:
        load_trained(trained)
    assert f"checkpoint {best} is damaged: {TENSORS} does not have the checksum" in str(error.value) and advice in str(error.value)


def test_a_damaged_optimizer_is_no_reason_not_to_evaluate(trained):
    best = StageCheckpoints(trained, "finetune").best()
    flip_bit(best / "optimizer.data-00000-of-00001")
    assert load_trained(trained).named_variables()


def test_a_continued_run_tells_of_a_damaged_best_checkpoint(trained, data, capsys):
    best = make_best(StageCheckpoints(trained, "finetune"), 2)
    flip_bit(best / TENSORS)
    assert call("finetune", data, trained) == 0
    printed = capsys.readouterr().out
    assert f"the best checkpoint {best} is damaged: {TENSORS} does not" in printed and "unless a later epoch is better" in printed


def test_a_damaged_best_checkpoint_that_is_trained_again_is_no_alarm(trained, data, capsys):
    checkpoints = StageCheckpoints(trained, "finetune")
    last = make_best(checkpoints, 3)
    before = checkpoints.folder / "epoch-0002"
    state = json.loads((before / STATE_FILE).read_text())
    (before / STATE_FILE).write_text(json.dumps({**state, "best_epoch": 2}))
    (before / CHECKSUM_FILE).unlink()
    checkpointing.seal(before)
    flip_bit(last / TENSORS)
    assert call("finetune", data, trained) == 0
    assert "the best checkpoint" not in capsys.readouterr().out


def test_a_damaged_pretraining_is_not_finetuned(trained, data, capsys):
    best = StageCheckpoints(trained, "pretrain").best()
    flip_bit(best / TENSORS)
    shutil.rmtree(trained / "finetune")
    assert f"checkpoint {best} is damaged" in user_error(capsys, "finetune", data, trained)


# Two runs in one folder.


def test_a_second_run_in_the_folder_is_refused(trained, data, capsys):
    with lock.exclusive(trained):
        message = user_error(capsys, "finetune", data, trained)
        assert f"is in use by process {os.getpid()} on {os.uname().nodename}: wait until that run ends" in message
        assert lock.holder(trained) == f"process {os.getpid()} on {os.uname().nodename}"
        assert task.main(["--stage=evaluate", "--data_dir", str(data), "--model_dir", str(trained)]) == 0
    assert lock.holder(trained) is None and lock.holder(trained / "pretrain") is None


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.raises(UserError, match="cannot be locked .No locks available.: put it on a file system with file"), lock.exclusive(tmp_path):
        pass


# Disk full.


def no_space_of_the_system():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_of_tensorflow():
    raise tf.errors.ResourceExhaustedError(None, None, "part-00000-of-00001; No space left on device")


@pytest.mark.parametrize("fail", [no_space_of_the_system, no_space_of_tensorflow])
def test_a_full_disk_leaves_the_earlier_checkpoint(trained, data, monkeypatch, capsys, fail):
    checkpoints = StageCheckpoints(trained, "finetune")
    before = sorted(path.name for path in checkpoints.folder.iterdir())
    at_call(monkeypatch, checkpointing, "seal", 1, fail)
    message = user_error(capsys, "finetune", data, trained, "--set", "finetune.epochs=4")
    assert f"the disk of {trained} is full: " in message and "MB are needed and" in message
    assert "Earlier checkpoints are intact: free some space and call the same command again" in message
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == before
    assert damage(checkpoints.last()) is None


@pytest.fixture
def small_disk(tmp_path):
    disk_of_a_megabyte = tmp_path / "disk"
    disk_of_a_megabyte.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk_of_a_megabyte)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk_of_a_megabyte
    subprocess.run(["umount", str(disk_of_a_megabyte)], check=True)


def test_a_disk_that_really_fills_up(small_disk, trained, data, monkeypatch, capsys):
    model = shutil.copytree(trained, small_disk / "model")
    checkpoints = StageCheckpoints(model, "finetune")
    monkeypatch.setattr(loop, "require_space", lambda *_: None)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 20_000)
    assert "is full" in user_error(capsys, "finetune", data, model, "--set", "finetune.epochs=4")
    assert checkpoints.last().name == "epoch-0003" and damage(checkpoints.last()) is None and not list(checkpoints.folder.glob(".*"))
    filler.unlink()
    assert call("finetune", data, model, "--set", "finetune.epochs=4") == 0


def test_too_little_space_is_refused_before_the_first_step(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1_000)
    message = user_error(capsys, "pretrain", data, tmp_path / "model")
    assert "the checkpoints of pretrain need 0.1 MB, and 0.0 MB are free" in message
    assert not (tmp_path / "model" / "pretrain").exists()


def test_space_of_a_folder_that_does_not_exist_is_that_of_its_parent(tmp_path):
    assert disk.free_bytes(tmp_path / "not" / "yet") > 0


# Changed settings.


def test_allowed_changes_are_listed_and_remembered(trained, data, capsys):
    changes = ["--set", "finetune.learning_rate=0.002", "--set", "finetune.epochs=4"]
    message = user_error(capsys, "finetune", data, trained, *changes)
    assert "(finetune.learning_rate: 0.01 -> 0.002)" in message and "add --allow_changes" in message
    assert call("finetune", data, trained, *changes, "--allow_changes") == 0
    assert "with changes: finetune.learning_rate: 0.01 -> 0.002" in capsys.readouterr().out
    checkpoints = StageCheckpoints(trained, "finetune")
    state = checkpoints.state(checkpoints.last())
    assert state.changes == [{"step": 12, "differences": ["finetune.learning_rate: 0.01 -> 0.002"]}]
    assert state.history[-1]["learning_rate"] == 0.002
    assert call("finetune", data, trained, *changes) == 0


COSINE = ["--set", "finetune.learning_rate_schedule=cosine", "--set", "pretrain.learning_rate_schedule=cosine"]


def continued(data, model, stage, *changes):
    """The state after two epochs, four in all, and `--allow_changes`."""
    scratch = ["--from_scratch"] if stage == "finetune" else []
    assert call(stage, data, model, *scratch, *COSINE, "--set", f"{stage}.epochs=2") == 0
    assert call(stage, data, model, *scratch, *COSINE, "--set", f"{stage}.epochs=4", *changes, "--allow_changes") == 0
    checkpoints = StageCheckpoints(model, stage)
    return checkpoints.state(checkpoints.last())


def test_a_cosine_goes_on_from_its_epoch_with_batches_of_another_size(data, tmp_path):
    rates = [record["learning_rate"] for record in continued(data, tmp_path / "model", "finetune", "--set", "finetune.batch_size=32").history]
    # The rate of an epoch's last step: 3 of 4 epochs but for one of 8 steps are done then, whatever the first two had.
    assert rates[2:] == [cosine_learning_rate(0.01, done) for done in (23 / 32, 31 / 32)]


def test_another_schedule_begins_at_the_rate_of_the_configuration(data, tmp_path):
    state = continued(data, tmp_path / "model", "finetune", "--set", "finetune.learning_rate_schedule=constant")
    assert [record["learning_rate"] for record in state.history[2:]] == [0.01, 0.01]


def test_the_best_epoch_is_compared_by_the_new_monitor(data, tmp_path):
    state = continued(data, tmp_path / "model", "finetune", "--set", "finetune.monitor=logloss")
    before, after = state.history[:2], state.history[2:]
    best = max(before, key=lambda record: record["valid"]["auc"])
    expected = min([best, *after], key=lambda record: record["valid"]["logloss"])
    assert (state.best_epoch, state.best) == (expected["epoch"], -expected["valid"]["logloss"])


def test_losses_of_another_task_are_not_compared(data, tmp_path):
    # Fewer masked tokens, a smaller loss: with 5% masked every epoch beats those of half.
    state = continued(data, tmp_path / "easier", "pretrain", "--set", "diffusion={schedule: fixed, fixed_rate: 0.05}")
    assert state.best_epoch > 2
    state = continued(data, tmp_path / "harder", "pretrain", "--set", "diffusion={schedule: fixed, fixed_rate: 0.95}")
    assert state.best_epoch > 2 and state.best == -min(record["valid"]["loss"] for record in state.history[2:])


def test_changes_of_the_network_do_not_fit_even_if_allowed(trained, data, capsys):
    message = user_error(capsys, "pretrain", data, trained, "--set", "model.embedding_dim=8", "--allow_changes")
    assert "does not fit the model, so nothing was loaded" in message and "has shape" in message


def test_another_schema_is_refused_with_its_differences(trained, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    schema = (other / "schema.yaml").read_text()
    (other / "schema.yaml").write_text(schema.replace("name: hour", "name: daytime"))
    message = user_error(capsys, "finetune", other, trained)
    assert "holds a run on other data" in message and "another schema: field 'hour' is gone; field 'daytime' is new" in message


# Going wrong.


def test_a_loss_that_is_not_finite_is_traced_to_its_field(data, tmp_path, monkeypatch, capsys):
    def poisoned(original):
        def build(model, *arguments, **settings):
            item = model.schema.fields[1]
            model.embedding.table.scatter_update(tf.IndexedSlices(
                np.full((item.rows, 4), np.nan, np.float32), np.arange(item.offset, item.offset + item.rows)))
            return original(model, *arguments, **settings)
        return build

    monkeypatch.setattr(loop, "build_optimizer", poisoned(loop.build_optimizer))
    message = user_error(capsys, "pretrain", data, tmp_path / "model")
    assert message.startswith("error: pretrain step 1: loss") and "is not finite (loss part loss; " in message
    assert "loss part item" in message and "Lower pretrain.learning_rate (now 0.01" in message


def test_a_validation_that_is_not_finite_is_no_epoch(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Predictor, "validate", lambda self: {"loss": float("nan")})
    message = user_error(capsys, "pretrain", data, tmp_path / "model")
    assert "pretrain epoch 1: valid loss is nan; the last good checkpoint is kept" in message
    assert StageCheckpoints(tmp_path / "model", "pretrain").last() is None


def test_predictions_that_are_not_finite_are_no_epoch(data, tmp_path, capsys):
    one_step = ["--set", "finetune.batch_size=1000", "--set", "finetune.min_steps=1", "--set", "finetune.learning_rate=1e30"]
    assert call("finetune", data, tmp_path / "model", "--from_scratch", *one_step) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "finetune epoch 1: valid auc is nan; the last good checkpoint is kept. Lower finetune.learning_rate (now 1e+30)" in message


def test_clicks_without_weight_are_none_to_rank(tmp_path, capsys):
    splits = {}
    for seed, split in enumerate(SPLITS):
        ids, labels = draw_rows(320, seed)
        splits[split] = ids, labels, {"weight": np.where((labels == 1) & (split == "valid"), 0.0, 1.0)}
    meanings = {name: [f"{name}{value}" for value in range(2, size)] for name, size in FIELD_ROWS.items()}
    data = write_folder(tmp_path / "data", meanings, splits, weight="importance")
    message = user_error(capsys, "finetune", data, tmp_path / "model", "--from_scratch")
    assert ("finetune epoch 1: valid auc is undefined, as all validation rows with a weight above 0 have the same label: validate on other "
            "rows, or monitor logloss (finetune.monitor)") in message


def test_events_of_a_step_are_written_once(tmp_path):
    first = EventLog(tmp_path, first_step=1)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": float(step)})
    first.close()
    again = EventLog(tmp_path, first_step=2)
    again.scalars(2, {"loss": 20.0})
    again.close()
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in shown] == [(1, 1.0), (2, 20.0)]


@pytest.mark.parametrize(("stage", "arguments", "message"), [
    ("evaluate", ["--config", "a.yaml"], "--stage=evaluate does not use --config, which is for --stage=pretrain and --stage=finetune"),
    ("export", ["--set", "seed=2"], "--stage=export does not use --set"),
    ("evaluate", ["--from_scratch"], "--stage=evaluate does not use --from_scratch, which is for --stage=finetune: leave it out"),
    ("pretrain", ["--split", "valid"], "--stage=pretrain does not use --split, which is for --stage=evaluate"),
    ("finetune", ["--export_dir", "x"], "--stage=finetune does not use --export_dir"),
    ("export", ["--allow_changes"], "--stage=export does not use --allow_changes"),
])
def test_flags_that_a_stage_does_not_use_are_refused(capsys, stage, arguments, message):
    assert task.main([f"--stage={stage}", "--data_dir", "d", "--model_dir", "m", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
