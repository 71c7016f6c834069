"""Whole training runs as a user starts them, their checkpoints, and what they refuse."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_folders import write_data_folder

from preprocessing.errors import UserError
from trainer import task
from trainer.checkpoints import (
    RANDOM,
    StageCheckpoints,
    TrainingState,
    differences,
    load_trained,
    network_differences,
    restore_model,
    seal,
)
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.model import DGenCTR
from trainer.optimizers import build_optimizer
from trainer.prediction import Predictor

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["model.embedding_dim=4", "model.dcn.hidden_units=[16]", "pretrain.epochs=2", "pretrain.batch_size=64",
         "finetune.epochs=2", "finetune.batch_size=64", "finetune.learning_rate=0.01", "pretrain.learning_rate=0.01"]


def folders(data, model):
    return ["--data_dir", str(data), "--model_dir", str(model)]


def flags(data, model, *assignments):
    return [*folders(data, model), *(part for assignment in (*SMALL, *assignments) for part in ("--set", assignment))]


def run_task(*arguments):
    command = [sys.executable, "-m", "trainer.task", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data_folder(tmp_path_factory.mktemp("data") / "tiny", rows=1024)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A model folder after the three commands a user types, and what they printed."""
    model = tmp_path_factory.mktemp("model") / "run"
    output = {}
    for stage, arguments in (("pretrain", flags), ("finetune", flags), ("evaluate", folders)):
        done = run_task(f"--stage={stage}", *arguments(data, model))
        assert done.returncode == 0, done.stderr
        assert "AutoGraph" not in done.stderr  # TensorFlow reads the code and says so where it cannot
        output[stage] = done.stdout
    return model, output


def test_commands_say_what_happens(trained):
    model, output = trained
    assert "pretrain: batches of 51 rows instead of 64" in output["pretrain"] and "has 20 steps" in output["pretrain"]
    assert "pretrain epoch 2/2" in output["pretrain"] and "samples/s" in output["pretrain"]
    assert "transferred all" in output["finetune"]
    assert "field_scoring" in output["finetune"]
    assert "AUC" in output["evaluate"] and str(model / "report" / "REPORT.md") in output["evaluate"]


def test_model_folder_is_complete(trained):
    model, _ = trained
    for name in ("config.yaml", "environment.json", "schema.yaml", "pretrain/config.yaml", "finetune/config.yaml"):
        assert (model / name).is_file(), name
    for stage in ("pretrain", "finetune"):
        assert list((model / stage / "tensorboard").glob("events.*"))
    metrics = json.loads((model / "report" / "metrics.json").read_text())
    assert metrics["split"] == "test" and metrics["rows"] == 512 and 0.5 < metrics["auc"] < 1
    report = (model / "report" / "REPORT.md").read_text()
    for image in ("learning_curves", "calibration", "scores", "field_losses"):
        assert f"({image}.png)" in report
        assert (model / "report" / f"{image}.png").read_bytes().startswith(b"\x89PNG")


def test_history_records_every_field_and_the_label(trained):
    record = StageCheckpoints(trained[0], "pretrain").history()[-1]
    for part in ("train", "valid"):
        assert {"loss", "field/user", "field/item", "field/hour", "label"} <= record[part].keys()


def test_a_new_process_predicts_the_same(trained, data):
    model_dir, _ = trained
    here = Predictor(load_trained(model_dir), DataFolder.open(data)).predict("test").logits
    script = ("import sys, trainer; import numpy as np; from trainer.prediction import Predictor; from trainer.checkpoints import load_trained;"
              "from trainer.data_folder import DataFolder; np.save(sys.argv[3], Predictor(load_trained(sys.argv[1]),"
              "DataFolder.open(sys.argv[2])).predict('test').logits)")
    output = model_dir / "logits.npy"
    subprocess.run([sys.executable, "-c", script, str(model_dir), str(data), str(output)], cwd=ROOT, check=True, timeout=300,
                   capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    np.testing.assert_allclose(np.load(output), here, atol=1e-6)


def test_calling_a_finished_stage_again_does_nothing(trained, data, capsys):
    assert task.main(["--stage=pretrain", *flags(data, trained[0])]) == 0
    assert "already finished after epoch 2" in capsys.readouterr().out


def test_a_longer_run_continues_after_the_last_epoch(trained, data, tmp_path, capsys):
    model = shutil.copytree(trained[0], tmp_path / "copy")
    assert task.main(["--stage=pretrain", *flags(data, model, "pretrain.epochs=3")]) == 0
    printed = capsys.readouterr().out
    assert "continuing after epoch 2" in printed and "pretrain epoch 3/3" in printed
    assert [record["epoch"] for record in StageCheckpoints(model, "pretrain").history()] == [1, 2, 3]


def test_finetuning_starts_from_every_pretrained_parameter(trained, data):
    model_dir, _ = trained
    pretrained = StageCheckpoints(model_dir, "pretrain")
    model = DGenCTR(DataFolder.open(data).schema, pretrained.config(), "finetune")
    loaded = restore_model(model, pretrained.best())
    assert loaded == sum(int(tf.size(v)) for v in model.variables)
    stored = tf.train.load_checkpoint(str(pretrained.best() / "model"))
    keys = [key for key in stored.get_variable_to_shape_map() if key.endswith("VALUE")]
    assert len(keys) == len(model.named_variables())


def user_error(capsys, *arguments) -> str:
    assert task.main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_finetuning_without_pretraining_needs_the_flag(data, tmp_path, capsys):
    message = user_error(capsys, "--stage=finetune", *flags(data, tmp_path / "new"))
    assert "no pre-trained checkpoint in" in message and "--from_scratch" in message
    assert not (tmp_path / "new" / "finetune" / "checkpoints").exists()


def test_finetuning_from_scratch_with_the_flag(data, trained, tmp_path, capsys):
    assert task.main(["--stage=finetune", "--from_scratch", *flags(data, tmp_path / "new", "model.backbone=hstu")]) == 0
    assert "starting from random parameters" in capsys.readouterr().out
    model = load_trained(tmp_path / "new")
    assert model.run_config.model.backbone == "hstu"
    assert not model.knows_masks and load_trained(trained[0]).knows_masks


def test_another_configuration_is_refused_with_the_difference(trained, data, capsys):
    message = user_error(capsys, "--stage=pretrain", *flags(data, trained[0], "pretrain.learning_rate=0.5", "seed=9"))
    assert "pretrain.learning_rate: 0.01 -> 0.5" in message and "seed: 1 -> 9" in message


def test_another_network_than_the_pretrained_one_is_refused(trained, data, tmp_path, capsys):
    shutil.copytree(trained[0] / "pretrain", tmp_path / "run" / "pretrain")
    message = user_error(capsys, "--stage=finetune", *flags(data, tmp_path / "run", "model.embedding_dim=8"))
    assert "has another network (model.embedding_dim: 4 -> 8)" in message and "/config.yaml`" in message


@pytest.mark.parametrize(("stored", "now", "another"), [
    ("equal", "inverse_rate", False), ("learned", "learned_reversed", False), ("equal", "learned", True), ("learned", "learned_queries", True)])
def test_learned_weights_belong_to_the_network(stored, now, another):
    before, after = (load_config(None, ["model.backbone=hstu", f"diffusion.loss_weights={weights}"]) for weights in (stored, now))
    named = [f"diffusion.loss_weights: {stored} -> {now}"]
    assert network_differences(before, after, "pretrain") == named * another
    # Resuming fine-tuning, the variables of which are the same, may not change what attention computes.
    assert bool(differences(before, after, "finetune")) == (now == "learned_queries")


def test_other_data_is_refused(trained, data, tmp_path, capsys):
    other = write_data_folder(tmp_path / "other", rows=512)
    (other / "vocabularies" / "item.txt").write_text("a\n")
    for stage in ("pretrain", "finetune"):
        assert f"holds a run on other data than {other}" in user_error(capsys, f"--stage={stage}", *flags(other, trained[0]))
    assert "was trained on other data" in user_error(capsys, "--stage=evaluate", *folders(other, trained[0]))
    # Also where the stage itself has not begun: schema and vocabularies of the folder are those of the other one.
    for there, stage in (("pretrain", "finetune"), ("finetune", "pretrain")):
        shutil.copytree(trained[0] / there, tmp_path / stage / there)
        start = ["--from_scratch"] * (stage == "finetune")
        message = user_error(capsys, f"--stage={stage}", *start, *flags(other, tmp_path / stage))
        assert f"{there} holds a run on other data than {other}" in message and not (tmp_path / stage / "schema.yaml").exists()


def test_data_with_other_vocabularies_is_other_data(tmp_path):
    folder = write_data_folder(tmp_path / "data", rows=64)
    before = DataFolder.open(folder).checksum
    (folder / "vocabularies" / "item.txt").write_text("a\n")
    assert DataFolder.open(folder).checksum != before


def test_a_run_with_another_start_is_refused(trained, data, capsys):
    message = user_error(capsys, "--stage=finetune", "--from_scratch", *flags(data, trained[0]))
    assert "holds a run that started from pretrain" in message and "would start from random parameters" in message


def test_finetuning_of_a_pretraining_that_went_on_is_refused(trained, data, tmp_path, capsys):
    model = shutil.copytree(trained[0], tmp_path / "copy")
    assert task.main(["--stage=pretrain", *flags(data, model, "pretrain.epochs=4")]) == 0
    message = user_error(capsys, "--stage=finetune", *flags(data, model, "pretrain.epochs=4"))
    assert "to fine-tune anew (pre-training went on, say), remove" in message


def test_a_report_does_not_credit_a_pretraining_that_was_not_used(trained, data, tmp_path, capsys):
    shutil.copytree(trained[0] / "pretrain", tmp_path / "run" / "pretrain")
    model = tmp_path / "run"
    assert task.main(["--stage=finetune", "--from_scratch", *flags(data, model)]) == 0
    assert task.main(["--stage=evaluate", *folders(data, model)]) == 0
    assert "pretrain: none" in (model / "report" / "REPORT.md").read_text()
    assert not (model / "report" / "field_losses.png").exists()


def test_a_folder_with_files_of_others_is_not_written_to(data, tmp_path, capsys):
    (tmp_path / "schema.yaml").write_text("mine")
    message = user_error(capsys, "--stage=pretrain", *flags(data, tmp_path))
    assert "is not a model folder but holds schema.yaml" in message
    assert (tmp_path / "schema.yaml").read_text() == "mine"


def test_a_validation_split_of_one_class_is_refused_before_training(data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["valid"]["positives"] = 0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    message = user_error(capsys, "--stage=pretrain", *flags(folder, tmp_path / "model"))
    assert "0 clicks in 512 rows with a label, so its AUC is undefined" in message and not (tmp_path / "model").exists()


def test_a_model_folder_that_is_a_file_is_named(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file'} is a file: give a folder" in user_error(capsys, "--stage=finetune", "--from_scratch", *flags(data, tmp_path / "file"))


def test_print_config_stops_there(data, tmp_path, capsys):
    assert task.main(["--stage=all", "--print_config", *flags(data, tmp_path / "model")]) == 0
    assert "sampled_candidates: 512" in capsys.readouterr().out and not (tmp_path / "model").exists()


def test_print_config_of_a_doctor_needs_no_folder(capsys):
    assert task.main(["--stage=doctor", "--print_config", "--init_from", "x"]) == 0
    assert "sampled_candidates: 512" in capsys.readouterr().out


def test_evaluating_an_untrained_folder_is_refused(data, tmp_path, capsys):
    message = user_error(capsys, "--stage=evaluate", *folders(data, tmp_path))
    assert "has no fine-tuned checkpoint" in message and "--stage=finetune" in message


def test_an_error_has_no_traceback_unless_asked():
    arguments = ["--stage=evaluate", "--data_dir", "absent", "--model_dir", "absent"]
    plain, detailed = run_task(*arguments), run_task(*arguments, "--traceback")
    assert plain.returncode == detailed.returncode == 2
    assert "error: data folder absent does not exist" in plain.stderr and "Traceback" not in plain.stderr
    assert "Traceback" in detailed.stderr


def test_an_exploding_loss_stops_with_step_and_part(data, tmp_path, capsys):
    message = user_error(capsys, "--stage=finetune", "--from_scratch",
                         *flags(data, tmp_path / "new", "finetune.learning_rate=1e38"))
    assert "is not finite" in message and "finetune step" in message and "Lower finetune.learning_rate" in message


@pytest.fixture
def model_and_checkpoints(data, tmp_path):
    config = load_config(None, SMALL)
    model = DGenCTR(DataFolder.open(data).schema, config, "finetune")
    optimizer = build_optimizer(model, 0.01, 0.0)
    return model, optimizer, StageCheckpoints(tmp_path, "finetune")


def state_after(epoch, best_epoch):
    return TrainingState(RANDOM, "checksum", learning_rate=0.01, epoch=epoch, best_epoch=best_epoch)


def test_the_last_two_checkpoints_and_the_best_are_kept(model_and_checkpoints):
    model, optimizer, checkpoints = model_and_checkpoints
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        checkpoints.save(model, optimizer, state_after(epoch, best), model.run_config)
    assert sorted(path.name for path in checkpoints.folder.glob("epoch-*")) == ["epoch-0002", "epoch-0004", "epoch-0005"]
    assert checkpoints.best().name == "epoch-0002" and checkpoints.last().name == "epoch-0005"


def test_a_half_written_checkpoint_is_ignored_and_cleaned_up(model_and_checkpoints):
    model, optimizer, checkpoints = model_and_checkpoints
    checkpoints.save(model, optimizer, state_after(1, 1), model.run_config)
    (checkpoints.folder / ".epoch-0002.partial").mkdir()
    assert checkpoints.last().name == "epoch-0001"
    checkpoints.save(model, optimizer, state_after(2, 1), model.run_config)
    assert not list(checkpoints.folder.glob(".*"))


def test_a_variable_missing_from_a_checkpoint_is_named(model_and_checkpoints, tmp_path):
    model, *_ = model_and_checkpoints
    variables = model.named_variables()
    lost, shrunk, *_ = [name for name in variables if name.startswith("backbone")]
    stored = {name: variable for name, variable in variables.items() if name not in (lost, shrunk)}
    tf.train.Checkpoint(**stored, **{shrunk: tf.Variable([1.0])}, surplus=tf.Variable(1.0)).write(str(tmp_path / "model"))
    seal(tmp_path)
    before = [v.numpy() for v in model.variables]
    with pytest.raises(UserError, match="nothing was loaded") as error:
        restore_model(model, tmp_path)
    assert f"{lost} is not in the checkpoint" in str(error.value)
    assert "surplus is not in the model" in str(error.value)
    assert f"{shrunk} has shape [1] in the checkpoint" in str(error.value)
    assert f"Give the settings in {tmp_path / 'config.yaml'}, and the data and version of the program" in str(error.value)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_tensors_that_are_whole_and_cannot_be_read_have_a_remedy(model_and_checkpoints, tmp_path):
    folder = tmp_path / "finetune" / "checkpoints" / "epoch-0001"
    folder.mkdir(parents=True)
    (folder / "model.index").write_bytes(b"of another program")
    seal(folder)
    with pytest.raises(UserError, match=f"checkpoint {folder} cannot be read: .*restore it from a copy, or remove {tmp_path / 'finetune'} and"):
        restore_model(model_and_checkpoints[0], folder)
