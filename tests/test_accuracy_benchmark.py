"""The comparison of arms over seeds: suites, shared runs, tables by hand, and a suite that is killed and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from child_processes import SECONDS_TO_WAIT
from data_folders import write_data_folder
from noting_worker import note

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy import elsewhere, statistics
from benchmarks.accuracy.cost import passes_per_epoch
from benchmarks.accuracy.measures import CALIBRATIONS, average_file, calibrated_metrics, calibrator, save_predictions
from benchmarks.accuracy.plan import Planned, Pretraining, Run, Settings, plan
from benchmarks.accuracy.report import (
    Results,
    averages_table,
    calibration_table,
    curve_table,
    main_table,
    slice_table,
    write,
)
from benchmarks.accuracy.schedule import Job, Schedule, clock, last_line
from benchmarks.accuracy.statistics import at, paired_difference, spread
from benchmarks.accuracy.suite import SUITES, Section, load_suite
from benchmarks.accuracy.task import Task, commands
from preprocessing.environment import available_cores
from preprocessing.errors import UserError
from trainer.config import load_config
from trainer.metrics import Predictions

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = "configs/frappe.yaml"


def write_suite(folder, **changes):
    content = {"dataset": "frappe", "config": CONFIG, "controls": ["scratch"], "seeds": 2,
               "arms": {"scratch": {"stages": ["finetune"]}, "ours": {}}} | changes
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


CURVE = {"title": "Few", "axis": "share", "setting": "finetune.dropout", "points": [{"value": 0.1, "set": ["finetune.epochs=3"]}, {"value": 0.5}],
         "arms": ["scratch", "ours"]}


# Suites.

def test_an_arm_in_curves_runs_at_their_points_alone(tmp_path):
    suite = load_suite(write_suite(tmp_path, arms={"scratch": {"stages": ["finetune"]}, "ours": {"set": ["finetune.epochs=9"]}}, curves=[CURVE]))
    assert suite.run_names() == ("scratch @ dropout 0.1", "ours @ dropout 0.1", "scratch @ dropout 0.5", "ours @ dropout 0.5")
    assert suite.all_arms()["ours @ dropout 0.1"].set == ("finetune.epochs=9", "finetune.epochs=3", "finetune.dropout=0.1")


def test_at_a_point_an_arm_is_pretrained_by_the_other_arm_at_that_point(tmp_path):
    arms = {"scratch": {"stages": ["finetune"]}, "ours": {}, "theirs": {"pretrained_by": "ours"}}
    suite = load_suite(write_suite(tmp_path, arms=arms, curves=[CURVE | {"arms": ["scratch", "theirs"]}],
                                   sections=[{"title": "All", "arms": ["ours"]}]))
    assert suite.all_arms()["theirs @ dropout 0.5"].pretrained_by == "ours @ dropout 0.5"


@pytest.mark.parametrize(("changes", "message"), [
    ({"arm": 1}, "tiny.yaml: arm: unknown key"),
    ({"arms": {"scratch": {"epochs": 1}}}, "tiny.yaml: arms.scratch.epochs: unknown key"),
    ({"arms": {"scratch": {"stages": ["pretrain"]}}}, "arms.scratch: stages must be [pretrain, finetune], or [finetune] to train from scratch"),
    ({"arms": {"scratch": {"stages": ["finetune"], "pretrained_by": "ours"}}}, "arms.scratch: pretrained_by has no effect with stages [finetune]"),
    ({"controls": ["nobody"]}, "controls: 'nobody' is no arm; choose from 'scratch', 'ours'"),
    ({"sections": [{"title": "A", "arms": ["scratch", "ours"], "controls": ["nobody"]}]}, "sections.0.controls: 'nobody' is no arm; choose"),
    ({"dataset": "letters"}, "dataset: 'letters' is not a recipe; choose one of ['avazu'"),
    ({"config": "configs/none.yaml"}, "config: no file configs/none.yaml in the project's folder"),
    ({"sections": [{"title": "A", "arms": ["scratch"]}]}, "sections: 'ours' is in no section and no curve"),
    ({"arms": {"scratch": {"stages": ["finetune"]}, "ours": {"pretrained_by": "scratch"}}},
     "arms.ours.pretrained_by: 'scratch' has no pre-training of its own"),
    ({"curves": [CURVE | {"points": [{"value": 0.5}, {"value": 0.1}]}]}, "curves.0.points: values must ascend, received [0.5, 0.1]"),
    ({"learning_curves": ["ours @ dropout 7"]}, "learning_curves: 'ours @ dropout 7' is no arm of a section"),
])
def test_a_wrong_suite_is_refused_by_file_and_key(changes, message, tmp_path):
    with pytest.raises(UserError) as error:
        load_suite(write_suite(tmp_path, **changes))
    assert "tiny.yaml: " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in SUITES.glob("*.yaml")))
def test_every_suite_of_the_project_is_sound(name):
    suite = load_suite(SUITES / f"{name}.yaml")
    planned = plan(suite, suite.run_names(), [1], Path("data"), "checksum", Path("work"))
    assert [one.arm for one in planned] == list(suite.run_names())


@pytest.mark.parametrize(("arguments", "message"), [
    (["--suite", "nothing", "--input", "x"], "suite 'nothing' is unknown: choose one of ['frappe'"),
    (["--suite", "frappe", "--input", "x", "--arms", "nobody"], "--arms nobody: suite"),
    (["--suite", "frappe", "--input", "x", "--jobs", "0"], "--jobs and --seeds: expected a number from 1 on"),
])
def test_bad_arguments(arguments, message, capsys):
    assert accuracy.main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_failed_preprocessing_names_its_log(tmp_path, capsys):
    assert accuracy.main(["--suite", "frappe", "--input", str(tmp_path), "--work_dir", str(tmp_path / "work")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "preprocessing.task" in message and "preprocessing.txt" in message


def test_a_field_that_cannot_be_sliced_by_is_refused_before_training(tmp_path, capsys):
    suite = write_suite(tmp_path, slices={"fields": ["brand"], "arms": ["ours"]})
    data = write_data_folder(tmp_path / "data", rows=8)
    assert accuracy.main(["--suite", str(suite), "--data_dir", str(data), "--work_dir", str(tmp_path)]) == 2
    assert "has no single-valued field 'brand', but ['user', 'item', 'hour']" in " ".join(capsys.readouterr().err.split())


def test_refused_settings_name_the_arm(tmp_path):
    suite = load_suite(write_suite(tmp_path, arms={"scratch": {"stages": ["finetune"]}, "ours": {"set": ["model.depth=3"]}}))
    with pytest.raises(UserError, match=r"arms\.ours: configuration from .*: model\.depth: unknown key"):
        plan(suite, suite.run_names(), [1], Path("data"), "checksum", Path("work"))


# Runs.

def planned_runs(folder, arms, seeds=(1,)):
    suite = load_suite(write_suite(folder, arms={"scratch": {"stages": ["finetune"]}} | arms))
    return {(one.arm, one.run.seed): one.run for one in plan(suite, suite.run_names(), seeds, Path("data"), "checksum", Path("work"))}


def test_arms_share_what_their_settings_share(tmp_path):
    runs = planned_runs(tmp_path, {"a": {}, "b": {"set": ["finetune.dropout=0.1"]}, "c": {"set": ["diffusion.schedule=linear"]},
                                   "d": {"pretrained_by": "c"}, "a again": {"set": ["finetune.dropout=0.4"]},
                                   "scratch, linear": {"stages": ["finetune"], "set": ["diffusion.schedule=linear"]}}, seeds=(1, 2))
    pretrained = {name: run.pretraining and run.pretraining.folder for (name, seed), run in runs.items() if seed == 1}
    assert pretrained["a"] == pretrained["b"] != pretrained["c"] == pretrained["d"] and pretrained["scratch"] is None
    assert runs["a", 1].folder == runs["a again", 1].folder  # dropout 0.4 is what the configuration file has
    assert runs["scratch", 1].configuration == runs["scratch, linear", 1].configuration  # no schedule matters from scratch
    assert runs["c", 1].configuration == runs["d", 1].configuration  # nothing but the pre-training distinguishes them from a
    assert len({runs[name, 1].configuration for name in ("scratch", "a", "b", "c")}) == 4
    assert runs["a", 1].configuration == runs["a", 2].configuration and runs["a", 1].folder != runs["a", 2].folder
    assert runs["a", 1].pretraining.folder != runs["a", 2].pretraining.folder


def test_the_commands_are_those_that_a_user_types(tmp_path):
    run = planned_runs(tmp_path, {"a": {"set": ["finetune.dropout=0.1"]}})["a", 1]
    pretrain, copy, finetune, evaluate = commands(run, ["test"], ["user", "item"])
    settings = f"--config {CONFIG} --set finetune.dropout=0.1 seed=1"
    assert pretrain == f"python -m trainer.task --stage=pretrain --data_dir data --model_dir {run.pretraining.folder} {settings}"
    assert copy == f"cp -r {run.pretraining.folder}/pretrain {run.folder}/model/pretrain"
    assert finetune == f"python -m trainer.task --stage=finetune --data_dir data --model_dir {run.folder}/model {settings}"
    assert evaluate == f"python -m trainer.task --stage=evaluate --split=test --slices user,item --data_dir data --model_dir {run.folder}/model"


def test_a_run_is_done_when_its_row_has_all_that_is_asked_for(tmp_path):
    run = Run("abc", 1, Settings(CONFIG, ()), None, "data", str(tmp_path))
    task = Task(run, ("valid", "test"), ("user",), None, "commit")
    assert not task.is_done
    for row, done in (({"valid": {"slices": {"user": []}}}, False), ({"valid": {"slices": {"user": []}}, "test": {"slices": {}}}, False),
                      ({"valid": {"slices": {"user": []}}, "test": {"slices": {"user": []}}}, True)):
        run.row_file.write_text(json.dumps(row))
        assert task.is_done is done


def test_passes_count_what_is_computed():
    # 100 rows, 40 of them with one of the labels that are used; a quarter of the rows are clicks.
    data = SimpleNamespace(rows=lambda split: 100, click_rate=0.25, with_label_share=lambda share: SimpleNamespace(
        rows_read=lambda stage: {"train": {"pretrain": 100, "finetune": 40 if share < 1 else 100}[stage]}))

    def passes(stage, *assignments):
        return passes_per_epoch(stage, load_config(None, assignments), data)

    assert passes("pretrain", "input.label_share=0.5") == 1 and passes("finetune", "input.label_share=0.5") == 0.4
    assert passes("finetune", "finetune.auxiliary_diffusion=0.1") == 2
    drawn = ("finetune.regeneration.share=0.6", "finetune.regeneration.fields=[item]")
    assert passes("finetune", *drawn) == 1  # moved within the batch
    # 60% of the 75% without a click go forward, which is a third of a pass.
    assert passes("finetune", *drawn, "finetune.regeneration.source=generator") == pytest.approx(1.15)


# Several processes.

def job(folder, name, pretraining=None, configuration="abc"):
    folder.mkdir(exist_ok=True)
    shared = Pretraining(Settings(CONFIG, ()), pretraining) if pretraining else None
    run = Run(configuration, 1, Settings(CONFIG, ()), shared, "data", str(folder / name))
    return Job(Planned(name, run), (name, str(folder)), folder / f"{name}.txt")


def run_schedule(jobs, at_once):
    done = []
    failed = Schedule(jobs, note, "json", at_once, {}).run(lambda one, progress: done.append((one.planned.arm, progress)))
    return done, [one.planned.arm for one in failed]


def test_runs_go_on_when_one_fails(tmp_path, capsys):
    done, failed = run_schedule([job(tmp_path, "bad"), job(tmp_path, "good")], 1)
    assert failed == ["bad"]
    assert done == [("good", "2 of 2 runs, about 0:00 h left")]
    assert f"FAILED with exit code 3: bad, seed 1; see {tmp_path / 'bad.txt'}" in capsys.readouterr().out


def test_when_the_first_runs_all_fail_the_others_are_not_begun(tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    done, failed = run_schedule([job(folder, "bad") for folder in folders], 1)
    assert (done, failed) == ([], ["bad"] * 3) and not (folders[3] / "bad").exists()


def test_runs_that_share_a_pretraining_do_not_run_at_once(tmp_path):
    done, _ = run_schedule([job(tmp_path, "a", "shared"), job(tmp_path, "b", "shared"), job(tmp_path, "c")], 2)
    assert {name for name, _ in done} == {"a", "b", "c"}
    times = {name: json.loads((tmp_path / name).read_text()) for name in "abc"}
    assert times["a"][1] <= times["b"][0]
    assert times["c"][0] < times["b"][0]  # which came after it in the list


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_benchmark(number, tmp_path):
    script = subprocess.Popen([sys.executable, Path(__file__).with_name("noting_worker.py"), str(tmp_path)], stderr=subprocess.DEVNULL)
    _wait_for(tmp_path, "began", script)
    script.send_signal(number)
    script.wait()
    _wait_for(tmp_path, "ended")


def test_a_signal_to_all_processes_is_no_failure_and_begins_no_run(tmp_path):
    script = subprocess.Popen([sys.executable, Path(__file__).with_name("noting_worker.py"), str(tmp_path)], start_new_session=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for(tmp_path, "began", script)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
    out, err = script.communicate()
    assert "Interrupted: SIGINT" in err
    assert out.splitlines() == ["started: first, seed 1; log none.txt"]


def test_time_left_is_known_by_configuration(tmp_path):
    jobs = [job(tmp_path, "a", configuration="slow"), job(tmp_path, "b", configuration="slow"), job(tmp_path, "c", configuration="new")]
    assert Schedule(jobs, note, "json", 2, {}).seconds_left() is None
    # Two of 100 s, one of which nothing is known: the mean of 100 and 20. Two at a time.
    assert Schedule(jobs, note, "json", 2, {"slow": 100.0, "fast": 20.0}).seconds_left() == (100 + 100 + 60) / 2
    assert (clock(59 * 60), clock(3700)) == ("0:59 h", "1:02 h")


def test_the_last_line_of_a_log_is_what_a_run_is_at(tmp_path):
    log = tmp_path / "log.txt"
    assert last_line(log) == "starting"
    log.write_text("x" * 5000 + "\nepoch 1\nepoch 2\n\n")
    assert last_line(log) == "epoch 2"


# Figures.

def predictions(labels, logits):
    return Predictions(np.array(labels), np.array(logits, np.float32))


def test_calibrations_by_hand():
    # At logit -1 one of four rows is clicked, at +1 three of four: a Platt line goes through both, and by symmetry so does temperature.
    fitted = predictions([1, 0, 0, 0, 0, 1, 1, 1], [-1] * 4 + [1] * 4)
    values = np.array([-1.0, 1.0], np.float32)
    for kind in CALIBRATIONS:
        np.testing.assert_allclose(calibrator(kind, fitted)(values), [-np.log(3), np.log(3)], atol=1e-4)
    # One of four, and two of four: only Platt has the offset that it takes.
    shifted = predictions([1, 0, 0, 0, 0, 0, 1, 1], [-1] * 4 + [1] * 4)
    np.testing.assert_allclose(calibrator("platt", shifted)(values), [-np.log(3), 0], atol=1e-4)
    assert calibrator("temperature", shifted)(np.array([0.0])) == pytest.approx(0)


def test_isotonic_calibration_is_never_certain():
    metrics = calibrated_metrics(predictions([0, 0, 1, 1], [-2, -1, 1, 2]), predictions([1, 0], [-3, 3]))
    assert metrics["isotonic"]["logloss"] == pytest.approx(-np.log(0.5 / 4))


def test_nothing_is_fitted_on_one_class():
    assert calibrated_metrics(predictions([0, 0], [1, 2]), predictions([0, 1], [1, 2])) == {}


def runs_of(*values):
    return {seed: {"value": value} for seed, value in enumerate(values, start=1)}


def test_spread_by_hand():
    assert spread(runs_of(0.70, 0.72), at("value")).text(5) == f"0.71000 +- {0.02 / np.sqrt(2):.5f}"
    assert spread(runs_of(0.5), at("value")).text(2) == "0.50"
    assert spread(runs_of(0.5, None), at("value")) is None and spread({}, at("value")) is None


def test_paired_difference_by_hand():
    # Differences 0.02 and 0.01: t = 0.015 / 0.005 = 3 with one degree of freedom, p = 0.205.
    assert paired_difference(runs_of(0.72, 0.73), runs_of(0.70, 0.72), at("value")).text(5) == "+0.01500 (p = 0.205)"
    assert statistics.Difference(0.01, 0.0004, 5).text(3) == "+0.010 (p < 0.001)"
    # Only seeds of both, and no test on one or without spread.
    assert paired_difference(runs_of(0.72), runs_of(0.70, 0.72), at("value")) == statistics.Difference(pytest.approx(0.02), None, 1)
    assert paired_difference(runs_of(0.3, 0.4), runs_of(0.2, 0.3), at("value")).p is None
    assert paired_difference(runs_of(0.3), {2: {"value": 0.1}}, at("value")) is None


def row(auc, passes=10):
    metrics = {"auc": auc, "logloss": 0.5, "gauc": None, "ece": 0.01, "calibration_bias": 0.1}
    slices = {"item": [{"occurrences": "1-3", "rows": 4, "positives": 2, "auc": auc - 0.1, "logloss": 0.6, "calibration_bias": 0.0}]}
    calibrated = {kind: {"logloss": 0.4, "ece": 0.005, "calibration_bias": 0.0} for kind in CALIBRATIONS}
    return {"configuration": "abc", "seed": 1, "data": "checksum", "commit": "c0ffee", "threads": 1, "passes": passes, "seconds": 60.0, "peak_gb": 1.5,
            "learning_curve": [[1.0, 0.6, 0.6], [2.0, auc, 0.5]],
            "valid": {**metrics, "slices": slices}, "test": {**metrics, "slices": slices, "calibrated": calibrated}}


def results_of(folder, rows, split="test", seeds=(1, 2), **changes):
    """Results of a suite whose rows by arm and seed are on disk."""
    suite = load_suite(write_suite(folder, **changes))
    planned = plan(suite, suite.run_names(), seeds, folder / "data", "checksum", folder / "work")
    for one in planned:
        if (one.arm, one.run.seed) in rows:
            Path(one.run.folder).mkdir(parents=True)
            one.run.row_file.write_text(json.dumps(rows[one.arm, one.run.seed] | {"seed": one.run.seed}))
    return Results.of(suite, planned, split, "the command", "the suite's file")


FOUR = {("scratch", 1): row(0.70), ("ours", 1): row(0.72, 30), ("scratch", 2): row(0.72), ("ours", 2): row(0.73, 20)}


BOTH = Section(title="Both", arms=("scratch", "ours"))


def test_main_table_has_spread_differences_and_cost(tmp_path):
    header, scratch, ours = main_table(results_of(tmp_path, FOUR), BOTH)
    assert header == ["arm", "seeds", "test AUC", "test logloss", "test ECE", "test bias", "AUC - scratch", "logloss - scratch",
                      "passes", "minutes", "peak GB"]
    assert scratch[:3] == ["scratch", "2", f"0.71000 +- {0.02 / np.sqrt(2):.5f}"] and scratch[6:8] == ["", ""]
    assert ours[6:] == ["+0.01500 (p = 0.205)", "+0.00000", "25.0", "1.0", "1.50"]


def test_memory_is_that_of_the_runs_that_know_it(tmp_path):
    lost = FOUR | {("ours", 2): row(0.73) | {"peak_gb": None}, ("scratch", 1): row(0.7) | {"peak_gb": None},
                   ("scratch", 2): row(0.7) | {"peak_gb": None}}
    _, scratch, ours = main_table(results_of(tmp_path, lost), BOTH)
    assert scratch[-1] == "" and ours[-1] == "1.50"


def test_a_pause_of_the_machine_is_no_cost(tmp_path):
    paused = {("ours", 1): row(0.72), ("ours", 2): row(0.73) | {"seconds": 6000.0}, ("ours", 3): row(0.73)}
    *_, ours = main_table(results_of(tmp_path, paused, seeds=(1, 2, 3)), BOTH)
    assert ours[-2] == "1.0"


def test_a_section_may_have_controls_of_its_own(tmp_path):
    header, scratch, ours = main_table(results_of(tmp_path, FOUR), Section(title="Both", arms=("scratch", "ours"), controls=("ours",)))
    assert header[6:8] == ["AUC - ours", "logloss - ours"] and scratch[6] == "-0.01500 (p = 0.205)" and ours[6] == ""


def test_unfinished_arms_are_named_and_those_without_runs_left_out(tmp_path):
    results = results_of(tmp_path, {("scratch", 1): row(0.7), ("scratch", 2): row(0.7)})
    assert [line[0] for line in main_table(results, BOTH)] == ["arm", "scratch"]
    page = write(results, "tiny", tmp_path / "out").read_text()
    assert "Unfinished, so with fewer seeds or left out: ours (0 of 2 seeds)." in page and "`the command`" in page


def test_a_curve_compares_with_more_at_the_control(tmp_path):
    at_points = {(f"{arm} @ dropout {value:g}", seed): row(auc + seed / 1000 * (arm == "ours")) for arm, value, auc in (
        ("scratch", 0.1, 0.6), ("ours", 0.1, 0.7), ("scratch", 0.5, 0.7), ("ours", 0.5, 0.8)) for seed in (1, 2)}
    results = results_of(tmp_path, at_points, curves=[CURVE])
    _, scratch, ours, *_ = curve_table(results, results.suite.curves[0])
    assert scratch[:2] == ["0.1", "scratch"] and scratch[7] == "-0.10000"
    assert ours[5].startswith("+0.10150 (p = ") and ours[7].startswith("+0.00150 (p = ")
    page = write(results, "tiny", tmp_path / "out").read_text()
    assert "![curve 0](tiny_curve_0.png)" in page and (tmp_path / "out" / "tiny_curve_0.png").stat().st_size > 5000


def test_slices_and_calibration_are_tables(tmp_path):
    results = results_of(tmp_path, FOUR, slices={"fields": ["item"], "arms": ["scratch", "ours"]}, learning_curves=["ours"])
    _, scratch, ours = slice_table(results, "item", ["scratch", "ours"])
    assert scratch[:4] == ["1-3", "4", "scratch", f"0.61000 +- {0.02 / np.sqrt(2):.5f}"] and ours[5] == "+0.01500 (p = 0.205)"
    assert calibration_table(results)[1] == ["scratch", "0.50000", *["0.40000"] * 3, "0.0100", *["0.0050"] * 3, "0.1000"]
    page = write(results, "tiny", tmp_path / "out").read_text()
    assert all(f"({name}.png)" in page and (tmp_path / "out" / f"{name}.png").is_file() for name in ("tiny_slices_0", "tiny_learning_curves"))


def test_runs_are_averaged_by_their_logits(tmp_path):
    # Each run ranks one non-click above a click, another one in each: of 4 pairs 3 are right. Their mean has them all right.
    suite = load_suite(write_suite(tmp_path))
    planned = plan(suite, suite.run_names(), [1, 2], tmp_path / "data", "checksum", tmp_path / "work")
    for one in planned:
        Path(one.run.folder).mkdir(parents=True)
        one.run.row_file.write_text(json.dumps(row(0.75)))
        logits = [-2, 0.5, 0, 2] if one.run.seed == 1 else [0.5, -2, 0, 2]
        if one.arm == "ours" or one.run.seed == 1:  # scratch has lost the predictions of a run
            save_predictions(predictions([0, 0, 1, 1], logits), one.run.predictions_file("test"))
    results = Results.of(suite, planned, "test", "the command", "the suite's file")
    header, ours = averages_table(results)
    assert header[:4] == ["arm", "runs", "AUC", "AUC - mean of runs"]
    logloss = np.log1p(np.exp([-0.75, -0.75, 0, -2])).mean()
    assert ours == ["ours", "2", "1.00000", "+0.25000", f"{logloss:.5f}", f"{logloss - 0.5:+.5f}", "", ""]
    assert "## Averaged over seeds" in write(results, "tiny", tmp_path / "out").read_text()


def test_an_average_that_was_made_elsewhere_stays_beside_more_runs(tmp_path):
    suite = load_suite(write_suite(tmp_path))
    planned = plan(suite, ["ours"], [1, 2, 3], tmp_path / "data", "checksum", tmp_path / "work")
    for one, auc in zip(planned, (0.5, 0.7, 0.9), strict=True):
        Path(one.run.folder).mkdir(parents=True)
        one.run.row_file.write_text(json.dumps(row(auc)))
    average = {"configuration": "abc", "seeds": [1, 2], "split": "test", "metrics": {"auc": 0.8, "logloss": 0.4, "gauc": None}}
    average_file(Path(planned[0].run.folder).parent, "test", [1, 2]).write_text(json.dumps(average))
    results = Results.of(suite, planned, "test", "the command", "the suite's file")
    assert averages_table(results)[1][:4] == ["ours", "2", "0.80000", "+0.20000"]  # over 0.5 and 0.7
    assert results.averages["ours"]["seeds"] == [1, 2]


def test_what_a_page_says_of_runs_is_taken_on_another_machine(tmp_path):
    suite = load_suite(write_suite(tmp_path))

    def planned_in(folder):
        return plan(suite, suite.run_names(), [1, 2], folder / "data", "checksum", folder / "work")

    def results(planned):
        return Results.of(suite, planned, "test", "the command", "the suite's file")

    here, there = planned_in(tmp_path / "here"), planned_in(tmp_path / "there")
    for one in here:
        Path(one.run.folder).mkdir(parents=True)
        one.run.row_file.write_text(json.dumps(row(0.75) | {"configuration": one.run.configuration, "seed": one.run.seed}))
        save_predictions(predictions([0, 1], [0.5, one.run.seed]), one.run.predictions_file("test"))
    page = write(results(here), "tiny", tmp_path / "out").read_text()
    files = sorted((tmp_path / "out").glob("tiny*.jsonl"))
    ours = next(one.run for one in there if one.arm == "ours")
    Path(ours.folder).mkdir(parents=True)
    ours.row_file.write_text(json.dumps(row(0.9)))  # what was trained here stays

    runs = [one.run for one in there]
    with pytest.raises(UserError, match=r"none of the 6 rows .*: 6 are of other data than this data folder \(another log\), 0 of another conf"):
        elsewhere.take(files, runs, "another log")
    assert elsewhere.take(files, runs, "checksum") == 4
    assert ours.row()["test"]["auc"] == 0.9
    ours.row_file.write_text(json.dumps({"valid": row(0.9)["valid"]}))  # ... but for a row that has less: of --valid_only, or with fewer slices
    assert elsewhere.take(files, runs, "checksum") == 4 and ours.row()["test"]["auc"] == 0.75
    assert write(results(there), "tiny", tmp_path / "again").read_text() == page and "## Averaged over seeds" in page


def test_rows_of_a_page_are_not_lost(tmp_path, capsys):
    data, suite, output = write_data_folder(tmp_path / "data", rows=8), write_suite(tmp_path), tmp_path / "out"
    output.mkdir()
    old = row(0.7) | {"arm": "old", "configuration": "of before", "seed": 2}
    (output / "tiny.jsonl").write_text(json.dumps(old) + "\n")
    arguments = ["--suite", str(suite), "--data_dir", str(data), "--work_dir", str(tmp_path / "work")]
    assert accuracy.main([*arguments, "--output", str(output)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "have 1 rows that the new page would not have, or not with every split and slice (old seed 2): take them with --rows" in message
    # Into the work folder, with what there is.
    assert accuracy.main([*arguments, "--report_only", "--arms", "ours"]) == 0
    assert "--seeds 2 --arms ours`" in (tmp_path / "work/frappe/test/tiny.md").read_text()


def test_splits_slices_and_averages_of_a_page_are_not_lost(tmp_path):
    suite = load_suite(write_suite(tmp_path))
    planned = plan(suite, ["ours"], [1, 2], tmp_path / "data", "checksum", tmp_path / "work")
    runs, output, both = [one.run for one in planned], tmp_path / "out", ("valid", "test")
    for run in runs:
        Path(run.folder).mkdir(parents=True)
        run.row_file.write_text(json.dumps(row(0.7) | {"configuration": run.configuration, "seed": run.seed}))
        save_predictions(predictions([0, 1], [0.5, 1]), run.predictions_file("test"))
    write(Results.of(suite, planned, "test", "the command", "the suite's file"), "tiny", output)

    def refused(splits, sliced_by=("item",), trains=False):
        with pytest.raises(UserError) as error:
            elsewhere.refuse_loss(output, "tiny", runs, splits, sliced_by, trains)
        return str(error.value).split("(")[1].split(")")[0]

    elsewhere.refuse_loss(output, "tiny", runs, both, (), trains=False)
    assert refused(("valid",)) == "ours seed 1; ours seed 2; ours, average of seeds"
    runs[0].predictions_file("test").unlink()
    assert refused(both) == "ours, average of seeds"
    runs[0].row_file.unlink()
    assert refused(both) == "ours seed 1"
    elsewhere.refuse_loss(output, "tiny", runs, both, ("item",), trains=True)  # it will be trained
    assert refused(both, (), trains=True) == "ours seed 1"  # but not sliced


@pytest.mark.parametrize(("content", "message"), [
    (None, r"rows.jsonl: cannot be read: .*Give the .jsonl files beside pages of this benchmark"),
    ('{"seed": 1', r"rows.jsonl, line 1: expected a JSON object"),
    ('{"rows_per_second": 1}', r"rows.jsonl, line 1: expected a row with configuration, data, passes, seed"),
])
def test_rows_that_are_none_are_refused(content, message, tmp_path):
    file = tmp_path / "rows.jsonl"
    if content:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        elsewhere.take([file], [], "checksum")


def test_of_valid_only_nothing_of_the_test_split_is_shown(tmp_path):
    results = results_of(tmp_path, FOUR, split="valid", slices={"fields": ["item"], "arms": ["scratch", "ours"]})
    page = write(results, "tiny", tmp_path / "out").read_text()
    assert "Figures of the validation split" in page and "Calibration" not in page and "test AUC" not in page
    assert all("test" not in json.loads(line) for line in (tmp_path / "out" / "tiny.jsonl").read_text().splitlines())


# The program.

SMALL = ["model.dcn.hidden_units=[8]", "model.dcn.cross_layers=1", "model.embedding_dim=4", "pretrain.epochs=1", "finetune.epochs=1",
         "checkpoint_minutes=1e-9"]  # a checkpoint after every step


def test_a_suite_that_is_killed_continues(tmp_path):
    data = write_data_folder(tmp_path / "data")
    suite = write_suite(tmp_path, set=SMALL, slices={"fields": ["item"], "arms": ["ours"]}, learning_curves=["ours"])
    command = [sys.executable, "-m", "benchmarks.accuracy", "--suite", str(suite), "--data_dir", str(data), "--work_dir", str(tmp_path / "work"),
               "--output", str(tmp_path / "out")]
    with open(tmp_path / "printed.txt", "w") as printed:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=printed, stderr=printed, start_new_session=True)
        under_way = _wait_for(tmp_path / "work", "frappe/pretrained/*/seed-1/pretrain/checkpoints/epoch-0000-step-*", process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, "--jobs", "2"], cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS_TO_WAIT, check=False)
    logs = {path: path.read_text() for path in (tmp_path / "work").glob("frappe/runs/*/seed-*/log.txt")}
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs.values()])
    rows = [json.loads(line) for line in (tmp_path / "out" / "tiny.jsonl").read_text().splitlines()]
    threads = max(available_cores() // 2, 1)  # of two runs at a time; the first had finished before, alone
    assert sorted((row["arm"], row["seed"], row["passes"], row["threads"]) for row in rows) == [
        ("ours", 1, 2, threads), ("ours", 2, 2, threads), ("scratch", 1, 1, None), ("scratch", 2, 1, threads)]
    assert all(set(row["test"]["calibrated"]) == set(CALIBRATIONS) and row["peak_gb"] > 0.1 for row in rows)
    # Of every training its folder says what it took, so that it is known to who evaluates later.
    costs = [json.loads(path.read_text()) for path in (tmp_path / "work").glob("frappe/*/*/seed-*/cost.json")]
    assert len(costs) == 6 and all(cost["peak_gb"] > 0.1 and cost["commit"] == rows[0]["commit"] for cost in costs)
    assert any("pretrain: continuing after epoch 0 and" in log and str(under_way.parents[2]) in log for log in logs.values())
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "Unfinished" not in page and "| ours | 2 |" in page

    # With other slices, of validation alone: what the test split said stays.
    write_suite(tmp_path, set=SMALL, slices={"fields": ["user"], "arms": ["scratch"]})
    again = subprocess.run([*command[:-2], "--valid_only", "--arms", "scratch", "--seeds", "1"], cwd=REPOSITORY, capture_output=True, text=True,
                           timeout=SECONDS_TO_WAIT, check=False)
    assert again.returncode == 0 and "valid AUC" in (tmp_path / "work/frappe/valid/tiny.md").read_text()
    before = next(row for row in rows if row["arm"] == "scratch" and row["seed"] == 1)
    row_now = json.loads(next((tmp_path / "work").glob(f"frappe/runs/{before['configuration']}/seed-1/row.json")).read_text())
    assert row_now["test"] == before["test"] and set(row_now["valid"]["slices"]) == {"item", "user"}


def _wait_for(folder, pattern, process=None):
    """Waits for a file while a process runs, if any."""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if found := next(folder.glob(pattern), None):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{pattern} did not appear")
