"""The progress line where output is not a terminal."""

import pytest
from rich.console import Console

from trainer import progress
from trainer.progress import StepProgress, print_table


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_tell_step_rate_losses_and_time_left(clock, capsys):
    # The first step compiles for 7 s, the others take 2 s each, and a line comes after more than ten: at 11 s and 23 s.
    # Left at 11 s: 5 steps and a validation of 3 s, and two more epochs of 8 steps and a validation each.
    spent = {"start-up": 5.0}
    shown = StepProgress("pretrain epoch 1/3", 8, 100, spent, later_epochs=2, validation_seconds=3.0, compiles=True)
    for number in shown.track(range(8)):
        shown.losses = {"loss": 3.25, "label": 0.5, "field/user": 1.0, "field/item": 1.75}
        clock[0] += 7 if number == 0 else 2
    losses = "loss 3.2500 (label 0.5000, worst item 1.7500)"
    assert capsys.readouterr().out.splitlines() == [
        f"pretrain epoch 1/3  step 3/8  50 samples/s  {losses}  left 0:10 + 0:03 validation, at most 0:51 of the stage"]
    assert spent == {"start-up": 12.0, "training": 14.0}


def test_the_click_beside_an_auxiliary_loss_is_no_field():
    losses = {"loss": 1.5, "click": 0.7, "label": 0.5, "field/click": 0.3}
    assert progress.describe_losses(losses, 1) == "loss 1.5 (click 0.7, label 0.5, worst click 0.3)"
    assert progress.describe_losses({"loss": 1.5, "click": 0.7}, 1) == "loss 1.5 (click 0.7)"


def test_what_is_not_known_yet_is_not_guessed(clock, capsys):
    shown = StepProgress("finetune epoch 1/1", 3, 100, {}, compiles=True)
    for _ in shown.track(range(2)):
        shown.losses = {"loss": 0.25}
        clock[0] += 11
    assert capsys.readouterr().out.splitlines() == [
        "finetune epoch 1/1  step 1/3  loss 0.2500",
        "finetune epoch 1/1  step 2/3  9 samples/s  loss 0.2500  left 0:11 + ? validation, at most 0:11 of the stage"]


def test_a_continued_epoch_is_measured_by_its_own_steps(clock):
    spent = {}
    shown = StepProgress("finetune epoch 2/2", 10, 100, spent, done=8)
    for _ in shown.track(range(2)):
        clock[0] += 4
        with shown.paused():
            clock[0] += 100
    assert shown.done == 10 and shown.samples_per_second == 25 and spent == {"training": 8.0}


def test_the_bar_of_a_terminal_shows_the_same(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "Console", lambda: Console(force_terminal=True, width=120))
    shown = StepProgress("finetune epoch 1/1", 4, 100, {}, validation_seconds=1.0)
    for _ in shown.track(range(4)):
        shown.losses = {"loss": 0.25}
        clock[0] += 2
    assert "50/s loss 0.250 left 0:00 + 0:01 validation of 0:01" in capsys.readouterr().out


def test_table_prints_title_and_rows(capsys):
    print_table("closing", [("auc", "0.75")], ("metric", "value"))
    printed = capsys.readouterr().out
    assert printed.startswith("closing\n") and "metric" in printed and "0.75" in printed
