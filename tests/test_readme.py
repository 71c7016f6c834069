"""The README's way of a user's own log, run as it is written."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


def block(marker: str) -> str:
    """The fenced block behind `<!-- marker -->`."""
    return re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)


def write_clicks(path: Path, rows: int = 1500) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "user": [f"u{number}" for number in rng.integers(0, 150, rows)],
        "item": [f"i{number}" for number in rng.integers(0, 30, rows)],
        "hour": rng.integers(0, 24, rows),
        "price": np.where(rng.random(rows) < 0.05, "", rng.lognormal(size=rows).round(2).astype(str)),
        "time": np.arange(rows),
    })
    frame["click"] = (rng.random(rows) < np.where(frame["hour"] < 12, 0.1, 0.5)).astype(int)
    frame.to_csv(path, index=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_users_own_log(tmp_path):
    write_clicks(tmp_path / "clicks.csv")
    (tmp_path / "schema.yaml").write_text(block("own-csv-schema"))
    commands = block("own-csv-commands").replace("source .venv/bin/activate\n", "").replace("8500", str(free_port()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with open(tmp_path / "log.txt", "w") as log:
        shell = subprocess.Popen(["bash", "-e", "-c", commands], cwd=tmp_path, env=environment, stdout=log, stderr=log,
                                 start_new_session=True)
    try:
        assert shell.wait(timeout=400) == 0, (tmp_path / "log.txt").read_text()
        scores = pd.read_csv(tmp_path / "scores.csv")
        assert len(scores) == 1500
        assert scores["probability"].between(0, 1).all() and scores["probability"].nunique() > 10
        assert "ranks the clicked one higher" in (tmp_path / "model" / "report" / "REPORT.md").read_text()
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
