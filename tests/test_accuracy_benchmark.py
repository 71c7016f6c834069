"""The comparison of arms over seeds: its table by hand, and what it refuses."""

import json

import numpy as np
import pytest

from benchmarks import accuracy
from benchmarks.accuracy import Suite, summarise, write_results


def row(arm, seed, auc, passes=10):
    return {"arm": arm, "seed": seed, "passes": {"finetune": passes}, "seconds": 60.0,
            "test": {"auc": auc, "logloss": 0.5, "gauc": None, "ece": 0.01}}


ROWS = [row("control", 1, 0.70), row("ours", 1, 0.72, 30), row("control", 2, 0.72), row("ours", 2, 0.73, 20)]


def test_table_has_mean_spread_and_paired_difference():
    control, ours = summarise(ROWS, "control")
    # Sample deviation of 0.70 and 0.72: 0.02 / sqrt(2).
    assert control[:3] == ("control", "2", f"0.71000 +- {0.02 / np.sqrt(2):.5f}")
    assert control[4] == "" and control[6] == ""
    # Differences 0.02 and 0.01: t = 0.015 / 0.005 = 3 with one degree of freedom, p = 0.205.
    assert ours[6] == "+0.01500 (p = 0.205)"
    assert ours[7:] == ("25", "60")


def test_one_seed_has_neither_spread_nor_test():
    _, ours = summarise(ROWS[:2], "control")
    assert ours[2] == "0.72000" and ours[6] == ""


def test_results_are_written_with_their_command(tmp_path):
    suite = Suite.load("frappe")
    write_results(suite, [row(suite.control, 1, 0.7)], "the command", tmp_path)
    assert "`the command`" in (tmp_path / "frappe.md").read_text()
    assert json.loads((tmp_path / "frappe.jsonl").read_text())["seed"] == 1


def test_frappe_suite_compares_with_and_without_pretraining():
    suite = Suite.load("frappe")
    assert suite.config.is_file()
    assert {arm.pretrained for arm in suite.arms} == {True, False}
    assert suite.control in {arm.name for arm in suite.arms}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--suite", "nothing", "--input", "x"], "suite 'nothing' is unknown: choose one of ['frappe'"),
])
def test_bad_arguments(arguments, message, capsys):
    assert accuracy.main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_failed_command_names_its_log(tmp_path, capsys):
    assert accuracy.main(["--suite", "frappe", "--input", str(tmp_path), "--work_dir", str(tmp_path / "work")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "preprocessing.task" in message and "preprocessing.txt" in message
