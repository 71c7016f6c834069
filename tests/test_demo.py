"""The demo as a user runs it, small; and that no process outlives it."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import demo
from benchmarks.processes import Interrupted, Processes
from preprocessing import synthetic
from preprocessing.errors import UserError
from preprocessing.schema import load_schema

ROOT = Path(__file__).resolve().parents[1]
TOKEN_NAME = "DEMO_TEST_TOKEN"
SMALL = ["--rows", "4000", "--set", "pretrain.epochs=1", "--set", "finetune.epochs=1"]

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finding processes needs /proc")


@pytest.fixture
def token(monkeypatch) -> str:
    """A text in the environment of every process that the test starts, by which those left behind are found."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(TOKEN_NAME, value)
    return value


def _processes_with(token: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{TOKEN_NAME}={token}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def started_demo(tmp_path, token) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "benchmarks.demo", "--work_dir", str(tmp_path / "work"), *SMALL]
    with open(tmp_path / "stdout", "wb") as output, subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT) as process:
        yield process
        process.kill()


@needs_proc
def test_whole_demo(started_demo, tmp_path, token):
    code = started_demo.wait()
    text = (tmp_path / "stdout").read_text(errors="replace")
    assert code == 0, text[-3000:]
    assert _processes_with(token) == []
    for module in ("preprocessing.synthetic", "preprocessing.task", "serving.server"):
        assert f"$ python -m {module} " in text
    for stage in ("pretrain", "finetune", "evaluate", "export"):
        assert f"$ python -m trainer.task --stage={stage} " in text
    assert "--from_scratch" in text
    assert re.search(r"serving clicks version 1 on 127\.0\.0\.1:\d+", text)
    assert re.search(r"[\d,]+ test rows answered by gRPC", text)
    assert not re.search(r"oneDNN|CUDA|cuda_|TensorRT|TF_ENABLE", text), "TensorFlow's start-up notes are shown"
    answers = re.findall(r"│ \d+ +│ u\d+ +│ i\d+ +│ \w+ +│ +(0\.\d{4}) │ +(0\.\d{4}) │ +(0\.\d{4})? │", text)
    assert len(answers) == demo.SHOWN_ROWS
    truth = [float(row[0]) for row in answers]
    assert truth == sorted(truth, reverse=True)
    assert [row[1] for row in answers[:demo.EXAMPLE_ROWS]] == [row[2] for row in answers[:demo.EXAMPLE_ROWS]]
    arms = {name: re.search(rf"│ {re.escape(name)} +│ +(0\.\d{{4}}) │", text) for name in (
        "pre-trained, then fine-tuned", "same network from scratch", "best possible (true probability)")}
    assert all(arms.values()), text[-3000:]
    assert (tmp_path / "work/model/report/REPORT.md").is_file()
    assert (tmp_path / "work/exports/clicks/1/saved_model.pb").is_file()
    for plot in re.findall(r"^plot +(\S+)$", text, flags=re.MULTILINE):
        assert Path(plot).is_file()


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_leaves_no_process(started_demo, tmp_path, token, number, code):
    assert _wait_until(lambda: any("preprocessing.task" in line for line in _processes_with(token)), 60)
    started_demo.send_signal(number)
    assert started_demo.wait(30) == code
    assert _processes_with(token) == []
    text = (tmp_path / "stdout").read_text(errors="replace")
    assert "every process of the demo has ended" in text and "Traceback" not in text


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""


@needs_proc
def test_stubborn_children_and_grandchildren_are_ended(tmp_path, token, monkeypatch):
    monkeypatch.setattr("benchmarks.processes.GRACE_SECONDS", 0.2)
    with (pytest.raises(ZeroDivisionError), Processes(tmp_path) as processes,
          processes.started(["-c", STUBBORN], stdout=subprocess.PIPE) as child):
        assert processes.read_line(child, 30) == "ready"
        assert _wait_until(lambda: len(_others_with(token)) == 2, 5)
        raise ZeroDivisionError
    assert _wait_until(lambda: _others_with(token) == [], 5)


def _others_with(token: str) -> list[str]:
    return [line for line in _processes_with(token) if "time.sleep(600)" in line]


@needs_proc
def test_grandchildren_of_a_finished_command_are_ended(tmp_path, token):
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with Processes(tmp_path) as processes:
        processes.run(["-c", code])
    assert _wait_until(lambda: _others_with(token) == [], 5)


def test_a_signal_ends_the_running_command(tmp_path):
    code = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(600)"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as interruption, Processes(tmp_path) as processes:
        processes.run(["-c", code])
    assert interruption.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failing_command_is_named_with_its_exit_code(tmp_path):
    message = r"`python -c 'raise SystemExit\(7\)'` ended with exit code 7"
    with pytest.raises(UserError, match=message), Processes(tmp_path) as processes:
        processes.run(["-c", "raise SystemExit(7)"])


def test_no_line_from_a_process_that_ends(tmp_path):
    half = ["-c", "print('half', end='')"]
    with Processes(tmp_path) as processes, processes.started(half, stdout=subprocess.PIPE) as child:
        assert processes.read_line(child, 30) == ""


def test_work_folder_is_made_anew_only_if_the_demo_made_it(tmp_path):
    work = tmp_path / "work"
    demo.make_work_folder(work)
    (work / "old.csv").touch()
    demo.make_work_folder(work)
    assert [path.name for path in work.iterdir()] == [demo.MARKER]

    (work / demo.MARKER).unlink()
    (work / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="expected an empty folder or one that the demo made"):
        demo.make_work_folder(work)
    assert (work / "mine.txt").read_text() == "mine"

    (tmp_path / "link").symlink_to(work)
    with pytest.raises(UserError, match="received a file or a link"):
        demo.make_work_folder(tmp_path / "link")


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> demo.Paths:
    paths = demo.Paths(tmp_path_factory.mktemp("demo"))
    synthetic.generate(synthetic.Settings(rows=1000, shards=2, users=50, items=40), paths.log)
    return paths


def test_test_rows_are_those_after_the_boundary_with_their_own_truth(paths):
    schema = load_schema(paths.log / "schema.yaml")
    rows = demo.read_test_rows(paths, schema)
    logs = pd.concat([pd.read_csv(path) for path in sorted(paths.log.glob("log-*.csv"))])
    truths = pd.concat([pd.read_csv(path) for path in sorted(paths.log.glob("truth-*.csv"))])
    expected = logs.merge(truths, on="row_id").query(f"timestamp >= {schema.split.test_from}")
    assert 50 < len(expected) < 150
    np.testing.assert_array_equal(rows.columns["row_id"].astype(int), expected["row_id"])
    np.testing.assert_array_equal(rows.labels, expected["click"])
    np.testing.assert_array_equal(rows.truth, expected["probability"])


def test_raw_columns_are_the_fields_with_missing_numbers_as_nan(paths):
    schema = load_schema(paths.log / "schema.yaml")
    rows = demo.read_test_rows(paths, schema).columns
    rows = rows.assign(price=["", "1.5"] * (len(rows) // 2) + [""] * (len(rows) % 2))
    columns = demo.raw_columns(schema, rows)
    assert set(columns) == {field.name for field in schema.fields}
    assert columns["price"].dtype == np.float32
    assert np.isnan(columns["price"][0]) and columns["price"][1] == 1.5
    assert columns["user_id"][0].startswith("u")


def test_a_shifted_truth_is_refused(paths, tmp_path):
    broken = demo.Paths(tmp_path)
    synthetic.generate(synthetic.Settings(rows=100, shards=1, users=50, items=40), broken.log)
    truth = broken.log / "truth-00000-of-00001.csv"
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join([lines[0], *lines[2:], lines[1]]) + "\n")
    with pytest.raises(UserError, match="not row by row the same"):
        demo.read_test_rows(broken, load_schema(broken.log / "schema.yaml"))


def test_a_report_about_other_rows_is_refused(paths, tmp_path):
    rows = demo.read_test_rows(paths, load_schema(paths.log / "schema.yaml"))
    report = tmp_path / "report"
    report.mkdir()
    (report / "metrics.json").write_text('{"rows": 3, "positives": 1}')
    with pytest.raises(UserError, match=rf"expected {len(rows.labels)} test rows .* received 3 with 1"):
        demo.read_metrics(tmp_path, rows)


def test_standard_error_of_an_auc_by_hand():
    # A = 3/4, two of each: (0.1875 + (0.6 - 0.5625) + (0.642857 - 0.5625)) / 4 = 0.076339.
    assert demo.auc_standard_error(0.75, 2, 2) == pytest.approx(0.076339 ** 0.5, rel=1e-4)
