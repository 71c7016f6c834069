"""The progress line where output is not a terminal."""

from trainer import progress
from trainer.progress import StepProgress, print_table


def test_lines_tell_step_rate_loss_and_time_left(monkeypatch, capsys):
    # Two seconds a step, a line after more than ten: 12 s for 6 steps, 2 steps left here and 16 in later epochs.
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = StepProgress("finetune epoch 1/3", steps=8, later_steps=16, samples_per_step=100)
    for _ in shown.track(range(8)):
        shown.loss = 0.25
        now[0] += 2
    assert capsys.readouterr().out.splitlines() == [
        "finetune epoch 1/3  step 6/8  50 samples/s  loss 0.2500  left 0:04 of the epoch, at most 0:36 of the stage"]


def test_table_prints_title_and_rows(capsys):
    print_table("closing", [("auc", "0.75")], ("metric", "value"))
    printed = capsys.readouterr().out
    assert printed.startswith("closing\n") and "metric" in printed and "0.75" in printed
