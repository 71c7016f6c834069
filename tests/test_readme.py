"""The README's way of a user's own log, run as it is written."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.schema import load_schema

ROOT = Path(__file__).resolve().parents[1]


def block(marker: str) -> str:
    """The fenced block behind `<!-- marker -->`."""
    return re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)


def write_clicks(path: Path, seed: int, first: int = 0, rows: int = 1500, items: int = 30) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(exist_ok=True)
    frame = pd.DataFrame({
        "user": [f"u{number}" for number in rng.integers(0, 150, rows)],
        "item": [f"i{number}" for number in rng.integers(0, items, rows)],
        "hour": rng.integers(0, 24, rows),
        "price": np.where(rng.random(rows) < 0.05, "", rng.lognormal(size=rows).round(2).astype(str)),
        "time": np.arange(first, first + rows),
    })
    frame["click"] = (rng.random(rows) < np.where(frame["hour"] < 12, 0.1, 0.5)).astype(int)
    frame.to_csv(path, index=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(commands: str, folder: Path) -> None:
    """Runs commands in a shell that stops at the first failure; nothing that they have started stays."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = folder / "log.txt"
    with open(log, "w") as stream:
        shell = subprocess.Popen(["bash", "-e", "-c", commands], cwd=folder, env=environment, stdout=stream, stderr=stream,
                                 start_new_session=True)
    try:
        assert shell.wait(timeout=400) == 0, log.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder in which the commands for a user's own log have run."""
    folder = tmp_path_factory.mktemp("shop")
    write_clicks(folder / "clicks.csv", seed=0)
    (folder / "schema.yaml").write_text(block("own-csv-schema"))
    run(block("own-csv-commands").replace("source .venv/bin/activate\n", "").replace("8500", str(free_port())), folder)
    return folder


def test_a_users_own_log(shop):
    scores = pd.read_csv(shop / "scores.csv")
    assert len(scores) == 1500
    assert scores["probability"].between(0, 1).all() and scores["probability"].nunique() > 10
    assert "ranks the clicked one higher" in (shop / "model" / "report" / "REPORT.md").read_text()


def test_the_night_after(shop):
    write_clicks(shop / "today" / "clicks.csv", seed=1, first=1500, items=32)  # i30 and i31 are new
    run(block("nightly-commands"), shop)
    assert "**Within the limits.**" in (shop / "drift-today" / "DRIFT.md").read_text()
    before, now = ((shop / data / "vocabularies" / "item.txt").read_text().split() for data in ("data", "data-today"))
    assert now[:len(before)] == before and set(now[len(before):]) == {"i30", "i31"}
    assert list((shop / "model-today" / "finetune" / "checkpoints").iterdir())


def test_a_first_schema(shop):
    run("python -m preprocessing.task --input clicks.csv --infer_schema first.yaml", shop)
    assert [field.name for field in load_schema(shop / "first.yaml").fields] == ["user", "item", "hour", "price"]
