"""The speed benchmark: its log, its figures by hand, and a tiny run of it."""

import argparse
import copy
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import training_speed
from benchmarks.processes import Processes
from benchmarks.speed import floor, ours, worker
from benchmarks.speed.keras_dcn import batches_of_columns
from benchmarks.speed.log import draw_rows, field_values, spread, write_log
from benchmarks.speed.network import step_flops
from benchmarks.speed.report import GROWTH, aims_of, judge, markdown, ratio, shorten, table_rows
from benchmarks.training_speed import Arm, Contestant, parse_values, plan
from preprocessing.errors import UserError
from trainer.data_folder import DataFolder
from trainer.input import TrainingSplit

VALUES, ROWS, BATCH = 10_000, 600, 64


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("speed") / "log", VALUES, ROWS)


def options(log, arm):
    return worker.build_parser().parse_args(["--arm", arm, "--folder", str(log), "--batch_size", str(BATCH)])


# The log.

def test_only_the_large_fields_grow():
    small, large = field_values(100_000), field_values(10_000_000)
    assert sum(small) == 100_000 and sum(large) == 10_000_000 and len(small) == 39
    assert small[:29] == large[:29] and all(a < b for a, b in zip(small[29:], large[29:], strict=True))
    assert min(small[29:]) > 4096  # sampled in pre-training at every size that is measured


def test_too_few_values_are_refused():
    with pytest.raises(UserError, match="a log of 500 distinct values: expected at least 10000, for example --values 100k"):
        field_values(500)


def test_frequent_values_come_first_and_clicks_depend_on_them():
    values = [50, 2000]
    ids, clicks = draw_rows(values, 20_000, seed=0)
    assert ids.min() == 2 and (ids.max(axis=0) <= np.array(values) + 1).all()
    counts = np.bincount(ids[:, 1])
    assert counts[2] == counts.max() and counts[2:12].sum() > counts[500:510].sum() > 0
    rates = [clicks[ids[:, 0] == value].mean() for value in range(2, 12)]
    assert max(rates) - min(rates) > 0.1  # 10 values of about 1,000 rows: by chance alone about 0.04


def test_spread_keeps_the_lookups_apart():
    ids = np.array([[2, 2], [3, 7]])
    assert spread(ids, [2, 6], [10, 12]).tolist() == [[2, 2], [7, 12]]  # strides 5 and 2


def test_the_three_forms_hold_the_same_rows(log):
    data = DataFolder.open(log)
    ids, labels = np.load(log / "arrays" / "ids.npy"), np.load(log / "arrays" / "labels.npy")
    assert data.rows("train") == len(ids) == ROWS and data.schema.table_rows == VALUES + 2 * 39
    assert data.frequencies.sum() == ids.size and data.frequencies[data.schema.fields[5].offset + 2] == (ids[:, 5] == 2).sum()
    split = TrainingSplit(data, ROWS, seed=1, window_rows=ROWS)
    packed = next(iter(split.epoch(0)))
    columns, label = next(iter(batches_of_columns(log, data.schema, ROWS)))
    rows = np.concatenate([ids, labels[:, None]], axis=1)
    for other in (tf.concat([tf.cast(packed["ids"], tf.float32), packed["label"][:, None]], axis=1),
                  tf.stack([*(tf.cast(columns[field.name], tf.float32) for field in data.schema.fields), label], axis=1)):
        np.testing.assert_array_equal(_sorted(other.numpy()), _sorted(rows))


def _sorted(rows):
    return rows[np.lexsort(rows.T)]


def test_a_written_log_is_kept(log):
    before = (log / "manifest.json").stat().st_mtime_ns
    write_log(log, VALUES, ROWS)
    assert (log / "manifest.json").stat().st_mtime_ns == before


# The arms.

def test_settling_is_not_measured():
    asked = []
    result = worker.measure(lambda steps: asked.append(steps) or {"steps": steps, "loss": 0.5}, settle=3, steps=7)
    assert asked == [3, 7] and result["steps"] == 7 and result["loss"] == 0.5
    assert result["seconds"] >= 0 and result["peak_bytes"] > 1e6


@pytest.mark.parametrize("arm", ["input", "input_streamed"])
def test_reading_alone_takes_whole_passes(log, arm):
    run = ours.build(options(log, arm))
    steps = run(1)["steps"]
    assert 1 < steps <= ROWS // BATCH  # streamed, each window drops its last, smaller batch
    assert run(steps + 1)["steps"] == 2 * steps


def test_the_floor_is_measured(log):
    result = floor.build(options(log, "floor"))(1)
    assert set(result) == {"steps", "float32_flops", "bfloat16_flops", "bytes_per_second"}
    assert min(result.values()) > 0


def test_flops_by_hand():
    # One field: 2 tokens, width 32, hidden 432. Crosses 3 * 32 * 32 = 3072, tower 32 * 400 + 2 * 400 * 400 = 332800, label's
    # query 432 * 16 = 6912: 342784 products a row. In pre-training the field's query, 6912 more, and for the 3 of 4 tokens
    # masked 5 scores of width 16: 60. Each takes 2 operations, forward and for two gradients.
    assert step_flops("finetune", 8, [5], 4096, 512) == 6 * 8 * 342784
    assert step_flops("pretrain", 8, [5], 4096, 512) == 6 * 8 * (342784 + 6912 + 60)
    # A field above the limit scores candidates only, no more than there are rows in the batch: 8 * 12 = 96.
    assert step_flops("pretrain", 8, [5000], 4096, 512) == 6 * 8 * (342784 + 6912 + 96)


# The figures.

def answers(**milliseconds):
    return {key: {"steps": 10, "seconds": value / 100, "cpu_seconds": value / 50, "peak_bytes": 2e9}
            for key, value in milliseconds.items()}


def record(name, values, *rounds):
    settings = {"rows": 1000, "batch_size": 4096, "dropout": 0.2, "rounds": len(rounds), "warmup": 1, "settle": 1, "steps": 10,
                "arms": [], "assignments": []}
    return {"experiment": name, "values": values, "settings": settings, "cores": 2, "load": 0.5, "finished": "today",
            "flops": {"finetune": 4e9, "pretrain": 8e9}, "rounds": list(rounds)}


ROUNDS = (answers(finetune=100, keras=120, pretrain=200), answers(finetune=200, keras=300, pretrain=600),
          answers(finetune=100, keras=140, pretrain=300))


def test_ratios_compare_turns_of_one_round():
    found = ratio(record("100k", 100_000, *ROUNDS), "finetune", "keras")
    assert (found.lowest, found.median, found.highest) == pytest.approx((1.2, 1.4, 1.5))


def test_a_row_has_throughput_time_memory_ratio_and_floor():
    result = record("100k", 100_000, *copy.deepcopy(ROUNDS))
    result["rounds"][0]["floor"] = {"float32_flops": 1e11, "bfloat16_flops": 2e11, "bytes_per_second": 1e10}
    result["rounds"][0]["finetune"]["matmul"] = "float32"
    result["rounds"][0]["pretrain"]["matmul"] = "bfloat16"
    ours_, keras, pretraining = table_rows(result)
    # 4096 rows in 100 ms; products of 4 GFLOP at 100 GFLOP/s take 40 ms, and of 8 GFLOP at 200 as long.
    assert pretraining[-1] == "40 ms, 13% of the step"
    assert ours_[1:] == ("40,960", "100.0 [100.0, 200.0]", "200.0", "2.00", "1.00 [1.00, 1.00]", "40 ms, 40% of the step")
    assert keras[1] == "29,257" and keras[5:] == ("0.71 [0.67, 0.83]", "")


def test_aims_are_judged_by_the_median():
    result = record("100k", 100_000, *copy.deepcopy(ROUNDS))
    for answers_ in result["rounds"]:
        answers_["keras"]["cpu_seconds"] *= 2
    verdicts = {aim.key + aim.base: judge(result, aim)[2:] for aim in aims_of(result)}
    assert verdicts == {"pretrainfinetune": ("0.33 [0.33, 0.50]", "0.33", "NOT reached"),
                        "finetunekeras": ("1.40 [1.20, 1.50]", "2.80", "reached")}
    (aim,) = [aim for aim in aims_of(record("10m", 10_000_000, *ROUNDS)) if aim.base == "keras"]
    assert aim.bound == 10


@pytest.mark.parametrize(("large", "verdict"), [(115, "reached"), (125, "NOT reached")])
def test_growth_is_a_cost(large, verdict):
    result = record(GROWTH, 10_000_000, answers(**{"finetune-100k": 100, "finetune-10m": large}))
    (aim,) = aims_of(result)
    assert judge(result, aim) == (GROWTH, "finetune-10m costs at most 1.2 times finetune-100k",
                                  f"{large / 100:.2f} [{large / 100:.2f}, {large / 100:.2f}]", f"{large / 100:.2f}", verdict)


def test_values_are_read_and_written_short():
    assert [parse_values(text) for text in ("100k", "10m", "12345")] == [100_000, 10_000_000, 12_345]
    assert [shorten(values) for values in (100_000, 10_000_000, 12_345)] == ["100k", "10m", "12345"]
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number such as 100k or 10m, received '1g'"):
        parse_values("1g")


# The program.

def test_growth_compares_the_same_rows_in_the_smallest_and_the_largest_table(monkeypatch):
    monkeypatch.setattr(training_speed, "write_log", lambda _, output, rows, *values: output / "-".join(map(str, values)))
    arguments = training_speed.build_parser().parse_args(["--values", "10m", "100k", "--output", "out"])
    *sizes, growth = [build() for build in plan(None, arguments, ["finetune", "keras"])]
    assert [experiment.name for experiment in sizes] == ["100k", "10m"]
    assert [(one.key, str(one.folder)) for one in growth.contestants] == [
        ("finetune-100k", "out/100000"), ("finetune-10m", "out/100000-10000000")]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of a tiny run of two arms, as a user starts it."""
    output = tmp_path_factory.mktemp("speed") / "output"
    assert training_speed.main(flags(output)) == 0
    return output


def flags(output, *more):
    return ["--values", "10k", "--rows", "600", "--batch_size", str(BATCH), "--arms", "finetune", "keras", "--rounds", "2", "--warmup", "1",
            "--settle", "0", "--steps", "2", "--output", str(output), *more]


def test_a_run_writes_rounds_and_a_page(measured):
    (result,) = [json.loads(line) for line in (measured / "training_speed.jsonl").read_text().splitlines()]
    assert [set(answers) for answers in result["rounds"]] == [{"finetune", "keras"}] * 2
    for answer in (answer for answers in result["rounds"] for answer in answers.values()):
        assert answer["steps"] == 2 and answer["seconds"] > 0 and 0 < answer["loss"] < 5
    page = (measured / "training_speed.md").read_text()
    assert page == markdown([result]) and f"--values 10k --rows 600 --batch_size {BATCH} " in page
    assert " --rounds 2 --warmup 1 --settle 0 --steps 2`" in page
    assert page.count("| plain tf_keras DCN-V2, stock Adam |") == 2  # what it is, and what was measured


def test_what_was_measured_is_kept_and_reported(measured, tmp_path, capsys):
    before = (measured / "training_speed.jsonl").read_bytes()
    assert training_speed.main(flags(measured, "--continue", "--report", str(tmp_path))) == 0
    assert "ready after" not in capsys.readouterr().out
    assert (tmp_path / "training_speed.jsonl").read_bytes() == (measured / "training_speed.jsonl").read_bytes() == before


def test_an_absent_peer_is_named_with_what_to_install(tmp_path, capsys):
    assert training_speed.main(["--arms", "fuxictr", "--peers_python", "false", "--output", str(tmp_path)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "arm fuxictr: false cannot import torch and fuxictr: `pip install -e '.[peers]'`" in message


def test_an_arm_that_ends_early_is_named_with_what_it_printed(tmp_path):
    contestant = Contestant("keras", "keras", tmp_path)
    with Processes(tmp_path) as processes, processes.started(["-c", "pass"], sys.executable, stdin=-1, stdout=-1) as process:
        process.wait()
        with pytest.raises(UserError, match="arm keras ended early .* see what it printed in printed.txt"):
            Arm(contestant, process, processes, "printed.txt").ask(0, 1)
