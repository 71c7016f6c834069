"""The benchmark of preprocessing: its log, its peers beside ours on the same rows, its figures by hand, tiny runs of it."""

import argparse
import gc
import itertools
import json
import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pytest
import tensorflow as tf

from benchmarks import preprocessing as benchmark
from benchmarks.prepare import measure as measure_module
from benchmarks.prepare import pandas_sklearn, stages, tft_dicts
from benchmarks.prepare.log import (
    CATEGORICAL,
    COLUMNS,
    NUMERIC,
    draw_block,
    hexadecimal,
    log_files,
    parse_rows,
    write_log,
    zipf_ranks,
)
from benchmarks.prepare.measure import count_records, measure, tree_bytes
from benchmarks.prepare.report import Results, aims, markdown, projected, shorten, table_rows
from benchmarks.processes import Processes
from preprocessing.errors import UserError
from preprocessing.schema import MISSING_ROW, SPECIAL_ROWS, UNKNOWN_ROW, load_schema

ROWS = 3000


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("prepare") / "log", ROWS)


def lines(log, split="train"):
    return [line for path in log_files(log)[split] for line in path.read_text().splitlines()]


# The log.

def test_the_log_has_files_of_each_split_and_a_schema_that_reads_them(log):
    assert {split: len(lines(log, split)) for split in log_files(log)} == {"train": 2400, "valid": 300, "test": 300}
    assert {split: len(paths) for split, paths in log_files(log).items()} == {"train": 8, "valid": 1, "test": 1}
    assert load_schema(log / "schema.yaml").columns == COLUMNS
    assert {len(line.split("\t")) for line in lines(log)} == {40}


def test_equal_seeds_draw_equal_rows_and_files_differ(log, tmp_path):
    write_log(tmp_path / "again", ROWS)
    assert lines(log) == lines(tmp_path / "again")
    first, second = (path.read_text() for path in log_files(log)["train"][:2])
    assert first != second


def test_a_written_log_is_kept(log):
    before = (log / "schema.yaml").stat().st_mtime_ns
    write_log(log, ROWS)
    assert (log / "schema.yaml").stat().st_mtime_ns == before


def test_missing_shares_and_heavy_tails():
    block = draw_block(np.random.default_rng(0), 20_000)
    shares = [column.null_count / len(block) for column in block.columns[1:]]
    np.testing.assert_allclose(shares, [one[-1] for one in NUMERIC + CATEGORICAL], atol=0.02)
    i5 = pc.drop_null(block["i5"]).to_numpy()  # median 2500, a standard deviation multiplies by 8
    assert np.median(i5) == pytest.approx(2500, rel=0.1) and i5.max() > 100 * np.median(i5)


def test_frequent_values_come_first():
    counts = np.bincount(zipf_ranks(np.random.default_rng(0), 1000, 50_000).astype(int))
    assert len(counts) == 1000 and counts[0] == counts.max() and counts[:10].sum() > 10 * counts[500:510].sum() > 0


def test_ranks_of_a_field_become_different_texts():
    texts = [hexadecimal(field, np.arange(5000, dtype=np.uint64)) for field in (0, 1)]
    assert len(pc.unique(texts[0])) == 5000
    assert pc.all(pc.match_substring_regex(texts[0], "^[0-9a-f]{8}$")).as_py()
    assert not pc.any(pc.equal(*texts)).as_py()


def test_rows_are_read_and_written_short():
    assert [parse_rows(text) for text in ("50k", "1m", "12345")] == [50_000, 1_000_000, 12_345]
    assert [shorten(rows) for rows in (50_000, 1_000_000, 12_345)] == ["50k", "1m", "12345"]
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number of rows such as 50k or 1m, received '5'"):
        parse_rows("5")


# The arms.

def records(paths, spec):
    rows = [record.numpy() for path in sorted(paths) for record in tf.data.TFRecordDataset(str(path))]
    return {name: tensor.numpy() for name, tensor in tf.io.parse_example(rows, spec).items()}


PACKED = {"ids": tf.io.FixedLenFeature([39], tf.int64), "values": tf.io.FixedLenFeature([13], tf.float32),
          "label": tf.io.FixedLenFeature([1], tf.int64)}


@pytest.fixture(scope="module")
def prepared(log, tmp_path_factory):
    """What happens once a run of ours, and the data folder that the run wrote."""
    output = tmp_path_factory.mktemp("prepare") / "ours"
    return stages.measure_fixed(log, output), output


@pytest.fixture(scope="module")
def ours(prepared):
    return records(prepared[1].glob("train/*.tfrecord"), PACKED)


@pytest.fixture(scope="module")
def pandas(log, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepare")
    with pytest.warns(UserWarning, match="Bins whose width are too small"):  # counts are the same in many quantiles
        pandas_sklearn.prepare(log, output)
    assert (output / "first_row").exists()
    return records(output.glob("train.tfrecord"), PACKED)


def test_pandas_writes_our_labels_and_values(ours, pandas):
    np.testing.assert_array_equal(pandas["label"], ours["label"])
    np.testing.assert_allclose(pandas["values"], ours["values"], rtol=1e-4, atol=1e-5)


def test_pandas_cuts_numbers_into_buckets_as_we_do(ours, pandas):
    for field in range(13):
        mine, theirs = ours["ids"][:, field], pandas["ids"][:, field]
        np.testing.assert_array_equal(theirs == MISSING_ROW, mine == MISSING_ROW)
        buckets = np.unique(mine[mine != MISSING_ROW])
        for bucket, following in itertools.pairwise(buckets):  # both are thresholds on the same numbers
            assert theirs[mine == bucket].max() <= theirs[mine == following].min()


def test_pandas_tells_the_same_values_apart(ours, pandas):
    for field in range(13, 39):
        mine, theirs = ours["ids"][:, field], pandas["ids"][:, field]
        np.testing.assert_array_equal(theirs == MISSING_ROW, mine == MISSING_ROW)
        pairs = set(zip(mine.tolist(), theirs.tolist(), strict=True))
        assert len(pairs) == len(set(mine.tolist())) == len(set(theirs.tolist()))  # rare ones share a row in either
        assert (ours["ids"][:, 13 + 2] == UNKNOWN_ROW).mean() > 0.3  # the third field has ten million values


def test_plain_tft_writes_a_feature_a_field(ours, log, tmp_path, monkeypatch):
    monkeypatch.setattr(tft_dicts, "NUMERIC_NAMES", ("i8",))
    monkeypatch.setattr(tft_dicts, "CATEGORICAL_NAMES", ("c6",))
    tft_dicts.prepare(log, tmp_path)
    assert (tmp_path / "first_row").exists()
    spec = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("label", "i8", "c6")}
    rows = records(tmp_path.glob("train-*.tfrecord"), spec)
    assert rows["label"].sum() == ours["label"].sum() and len(rows["label"]) == len(ours["label"])
    place = 13 + 5  # of c6: 24 values, most frequent first in both; theirs count from 0, missing and rare share the last
    known = ours["ids"][:, place][ours["ids"][:, place] >= SPECIAL_ROWS] - SPECIAL_ROWS
    theirs = np.bincount(rows["c6"])
    np.testing.assert_array_equal(np.sort(np.bincount(known)), np.sort(theirs[:-1]))


# The stages of ours.

def test_each_stage_is_timed(log, prepared, capsys):
    fixed, data_dir = prepared
    assert [name for name, _ in fixed] == ["import TensorFlow", "import Beam and TFT", "trace and write the graph",
                                           "load the graph, first batch"]
    clock = stages.measure_stages(log, data_dir)
    assert all(milliseconds > 0 for _, _, milliseconds in clock.lines)
    stages.show([("import TensorFlow", 2.5)], clock)
    shown = capsys.readouterr().out
    assert shown.count("all of it") == 2 and "serialise" in shown


def test_stages_count_for_a_block_of_rows(monkeypatch):
    clock = stages.Clock(rows=32_768)
    seconds = iter([0.0, 0.5, 1.0, 1.25, 2.0, 2.5])  # before and after each of three repeats
    monkeypatch.setattr(stages.time, "process_time", lambda: next(seconds))
    assert clock.stage("writing", "serialise", lambda: "result") == "result"
    assert clock.lines == [("writing", "serialise", 500.0)] and clock.total("writing") == 500.0 and clock.total("both") == 0


# Measuring a run.

def test_records_are_counted_by_their_lengths(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "three")) as writer:
        for length in (0, 1, 300):
            writer.write(b"x" * length)
    (tmp_path / "none").touch()
    assert [count_records(tmp_path / name) for name in ("three", "none")] == [3, 0]


SCRIPT = """
import sys, time
from pathlib import Path
output, seen = map(Path, sys.argv[1:])
record = (2).to_bytes(8, "little") + b"sum." + b"12" + b"sum."
(output / "samples").mkdir(parents=True)
for name in ("part", "samples/raw"):
    (output / f"{name}.tfrecord").write_bytes(3 * record)
progress = output.parent / f".{output.name}.partial-x" / ".work" / "analysing" / "progress"
progress.mkdir(parents=True)
(progress / "part-0").touch()
print("analysing: 75%, 6,000 rows, 199,917 rows/s, 10 s left")
print("analysing: 8,000 rows in 5.5 s, 1,454 rows/s")
print("writing: 7.0 s", flush=True)
while not seen.exists():
    time.process_time()
"""


def test_a_run_is_measured_and_its_records_removed(tmp_path, monkeypatch):
    output, seen = tmp_path / "records", tmp_path / "seen"

    def sample(pid):
        if list(tmp_path.glob(".records.partial-x/.work/*/progress/part-0")):
            seen.touch()
        return tree_bytes(pid)

    monkeypatch.setattr(measure_module, "tree_bytes", sample)
    with Processes(tmp_path) as processes:
        found = measure(processes, ["-c", SCRIPT, str(output), str(seen)], output, tmp_path / "printed" / "run.txt", rows=3)
    assert found["stages"] == {"analysing": 5.5, "writing": 7.0}
    assert found["bytes"] == 3 * (16 + 2)
    assert found["seconds"] > found["first_row_seconds"] > 0 and found["cpu_seconds"] > 0
    assert found["peak_bytes"] > 1e6 and not output.exists()


@pytest.mark.parametrize(("script", "message"), [
    ("import sys; sys.exit('no such column')", r"arm ended with exit code 1; the last that it printed \(.*run.txt\): no such"),
    ("pass", "records holds 0 records, expected 3, one for each row of the log: see .*run.txt"),
])
def test_a_run_that_fails_or_loses_rows_is_refused(tmp_path, script, message):
    with Processes(tmp_path) as processes, pytest.raises(UserError, match=message):
        measure(processes, ["-c", script], tmp_path / "records", tmp_path / "run.txt", rows=3)


def test_memory_counts_children():
    gc.collect()
    script = "import sys; held = bytearray(b'x') * 200_000_000; print(len(held), flush=True); sys.stdin.read()"
    child = [sys.executable, "-c", script]
    parent = f"import subprocess, sys; subprocess.run({child!r})"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"200000000\n"
        assert 200e6 < tree_bytes(process.pid) < 300e6
        process.stdin.close()
    assert tree_bytes(process.pid) == 0


# The figures.

def run(arm, rows, number, seconds, peak=1e9, part="compared", **more):
    return {"part": part, "arm": arm, "rows": rows, "round": number, "cores": 2, "load": 0.5, "seconds": seconds,
            "cpu_seconds": 2 * seconds, "peak_bytes": peak, "first_row_seconds": 6.0, "bytes": 100,
            "stages": {"analysing": 2.0, "writing": 3.0}, "finished": "today"} | more


MEASURED = Results([
    run("ours", 1000, 0, 10.0), run("pandas", 1000, 0, 15.0), run("ours", 1000, 1, 20.0), run("pandas", 1000, 1, 60.0),
    run("ours", 1000, 2, 10.0), run("pandas", 1000, 2, 20.0), run("ours", 100, 0, 5.0, part="fewer rows"),
    run("tft", 100, 0, 30.0, part="fewer rows"), run("tft", 20, 0, 22.0, part="fewer rows"),
    run("ours", 10_000, 0, 50.0, peak=1.4e9, part="growth"),
])


def test_ratios_compare_runs_of_one_round():
    found = MEASURED.ratio("ours", "pandas", 1000)
    assert (found.lowest, found.median, found.highest) == (1.5, 2.0, 3.0)
    assert MEASURED.ratio("ours", "tft", 1000) is None


def test_what_tft_would_take_lies_on_a_line():
    assert projected(MEASURED, "tft", 1000, "seconds") == 30 + 900 * (30 - 22) / 80


def test_aims_are_judged_by_the_median():
    assert [aim[1:] for aim in aims(MEASURED)] == [
        ("2.0 [1.5, 3.0]", "2.0", "reached"),  # times pandas
        ("12.0", "12.0", "reached"),  # times tft: 120 s / 10 s
        ("6.0 s", "", "reached"),
        ("1.40", "", "NOT reached"),  # growth of memory
    ]
    texts = [aim[0] for aim in aims(MEASURED)]
    assert "1k rows (it would take 120 s by the line through its two sizes; measured on 100 rows: 6.0 times)" in texts[1]
    assert "10 times the rows raise the peak" in texts[3]


def test_tft_is_judged_on_the_compared_rows_where_it_was_measured_on_them():
    measured = Results([*MEASURED.runs, run("tft", 1000, 0, 70.0)])
    assert aims(measured)[1] == ("at least 8 times as fast as plain TFT, a dict a row, 1k rows", "7.0", "7.0", "NOT reached")


def test_a_table_has_rates_memory_stages_and_ratio():
    ours_, pandas_ = table_rows(MEASURED, 1000)
    assert ours_[1:] == ("100", "3,900", "10.0 [10.0, 20.0]", "20.0 [20.0, 40.0]", "1.00", "6.0 s",
                         "analysing 2.0, writing 3.0, the rest 5.0", "1.00")
    assert pandas_[3] == "20.0 [15.0, 60.0]" and pandas_[-1] == "0.50 [0.33, 0.67]"


def test_what_was_not_measured_is_left_blank():
    unknown = Results([run("ours", 1000, 0, 10.0, peak=None, first_row_seconds=None)])
    assert table_rows(unknown, 1000)[0][5:7] == ("", "")
    assert aims(unknown) == []
    assert aims(Results([run("tft", 100, 0, 30.0, part="fewer rows")])) == []


def test_the_page_shows_every_size():
    page = markdown(MEASURED)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Aims", "## Arms", "## 1k rows", "## 100 rows", "## 20 rows", "## 10k rows"]
    assert "`python -m benchmarks.preprocessing --rows 1k`" in page and "3 rounds on 2 cores" in page


# The program.

def planned(*flags):
    return [(one.arm, one.rows, one.number) for one in benchmark.plan(benchmark.build_parser().parse_args(flags))]


def test_arms_take_turns_and_the_largest_log_comes_last():
    assert planned("--rows", "1k", "--rounds", "2", "--arms", "ours", "pandas", "tft", "--tft_rows", "100", "--growth", "3") == [
        ("ours", 1000, 0), ("pandas", 1000, 0), ("pandas", 1000, 1), ("ours", 1000, 1),
        ("ours", 100, 0), ("tft", 100, 0), ("tft", 20, 0), ("ours", 3000, 0)]
    assert planned("--rows", "1k", "--rounds", "1", "--arms", "pandas") == [("pandas", 1000, 0)]


def test_nothing_is_measured_twice():
    assert planned("--rows", "1k", "--rounds", "1", "--arms", "ours", "tft", "--tft_rows", "1k", "--growth", "0") == [
        ("ours", 1000, 0), ("tft", 1000, 0), ("tft", 200, 0)]


def test_a_run_as_a_user_starts_it_and_its_continuation(tmp_path, capsys):
    output = tmp_path / "output"
    flags = ["--rows", "1k", "--arms", "pandas", "--rounds", "1", "--output", str(output)]
    assert benchmark.main(flags) == 0
    (found,) = [json.loads(line) for line in (output / "preprocessing.jsonl").read_text().splitlines()]
    assert found["arm"] == "pandas" and found["rows"] == 1000 and found["seconds"] > found["first_row_seconds"] > 0
    assert set(found["stages"]) == {"reading", "fitting", "encoding", "writing"}
    assert (output / "preprocessing.md").read_text() == markdown(Results([found]))
    capsys.readouterr()
    assert benchmark.main([*flags, "--continue", "--report", str(tmp_path / "report")]) == 0
    assert "round 1:" not in capsys.readouterr().out  # nothing was measured again
    assert (tmp_path / "report" / "preprocessing.jsonl").read_bytes() == (output / "preprocessing.jsonl").read_bytes()
