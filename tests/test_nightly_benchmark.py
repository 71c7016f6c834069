"""The benchmark of a night, as a whole and small: every arm gets a row, and the page says how to repeat it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import nightly

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--seeds", "1", "--days", "3", "--rows_per_day", "1000", "--users", "60", "--items", "40",
         "--set", "pretrain.epochs=1", "--set", "finetune.epochs=1", "--set", "model.dcn.hidden_units=[16]"]
ARMS = ["earlier model as it is", "carried over, start: mask", "carried over, start: unknown", "new day only", "everything anew"]


def test_every_arm_is_measured(tmp_path):
    subprocess.run([sys.executable, "-m", "benchmarks.nightly", *FLAGS, "--work_dir", str(tmp_path / "run"), "--output", str(tmp_path)],
                   cwd=ROOT, check=True, timeout=600, capture_output=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    rows = [json.loads(line) for line in (tmp_path / "nightly.jsonl").read_text().splitlines()]
    assert sorted(row["arm"] for row in rows) == sorted(ARMS)
    page = (tmp_path / "nightly.md").read_text()
    assert all(f"| {arm} |" in page for arm in ARMS)
    assert "--rows_per_day 1000 --users 60 --items 40 --set pretrain.epochs=1" in page


def test_too_few_days_are_refused(capsys, tmp_path):
    assert nightly.main(["--days", "2", "--work_dir", str(tmp_path / "run")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "--days: expected at least 3 (earlier days, the new one and the day after), received 2" in message
    assert not (tmp_path / "run").exists()
