"""The serving benchmark: its rows and requests, its clients, its figures by hand, and a tiny run of it."""

import argparse
import bisect
import json
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from benchmarks.processes import Processes
from benchmarks.serving import __main__ as benchmark
from benchmarks.serving import models, offline, report, swaps, worker
from benchmarks.serving.aims import aims_of, ratios
from benchmarks.serving.figures import before_and_during, growth, line, percentile, summary
from benchmarks.serving.latency import Cell, cells
from benchmarks.serving.models import CLICKS
from benchmarks.serving.programs import Clients, Sample, Target, models_config, started_server
from benchmarks.serving.requests import address, request_path
from benchmarks.serving.rows import NUMERIC, candidates_of_one_user, columns_of, field_names, texts, user_fields
from benchmarks.speed.log import draw_rows, field_values
from preprocessing.errors import UserError
from preprocessing.transform import read_buckets
from serving.export import parity
from serving.export.parity import read_samples
from serving.versions.folders import exported_versions

ROOT = Path(__file__).resolve().parents[1]
VALUES = field_values(10_000)[:16]  # of fewer fields than the benchmark's, so that versions load faster


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """An output folder whose models are there already. The check in a new process is export's, and tested with it."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "require_parity", lambda *_: 0.0)
        models.write_all(folder / "models-10k", VALUES, [1, 20])
    return folder


@pytest.fixture(scope="module")
def loaded(output):
    [version] = exported_versions(output / "models-10k" / "exports" / CLICKS).values()
    return tf.saved_model.load(str(version))


# Rows and requests.


def test_numbers_lie_in_their_buckets_and_texts_tell_values_apart(output):
    ids, _ = draw_rows(VALUES, 50, seed=3)
    columns = columns_of(ids)
    boundaries = read_buckets(output / "models-10k" / "data")[NUMERIC[0]].boundaries
    assert [bisect.bisect_right(boundaries, number) + 2 for number in columns[NUMERIC[0]]] == ids[:, 0].tolist()
    assert len(set(texts(13, np.arange(200_000)))) == 200_000
    assert set(texts(13, np.arange(100))).isdisjoint(texts(14, np.arange(100)))


def test_the_graph_gives_the_ids_of_the_sample_records(output, loaded):
    raw, records = read_samples(output / "models-10k" / "data")
    spec = {name: tf.io.FixedLenFeature([], tf.float32 if name in NUMERIC else tf.string) for name in field_names(VALUES)}
    expected = tf.io.parse_example(records, {"ids": tf.io.FixedLenFeature([len(VALUES)], tf.int64)})["ids"]
    np.testing.assert_array_equal(loaded.transform(tf.io.parse_example(raw, spec))["ids"], expected)


def test_the_candidates_of_a_request_share_the_user_and_nothing_else():
    values = field_values(10_000)
    ids, names = draw_rows(values, 400, seed=0)[0], field_names(values)
    same = [name for name, column in zip(names, candidates_of_one_user(ids).T, strict=True) if len(set(column)) == 1]
    assert set(same) == set(user_fields(names)) and len(same) == 20


def test_all_forms_of_a_request_are_answered_alike(output, loaded):
    answers = {}
    for signature in ("predict", "candidates", "serving_default"):
        content = request_path(output / "models-10k" / "requests", signature, 20, 3).read_bytes()
        name, arrays = worker.inputs_of(content)
        assert name == signature
        outputs = loaded.signatures[name](**{key: tf.constant(array) for key, array in arrays.items()})
        answers[signature] = np.ravel(outputs["logit"])
    assert answers["predict"].shape == (20,) and np.std(answers["predict"]) > 0
    np.testing.assert_allclose(answers["candidates"], answers["predict"], atol=1e-5)
    np.testing.assert_allclose(answers["serving_default"], answers["predict"], atol=1e-5)


@pytest.mark.parametrize("way", ["function", "session"])
def test_a_model_is_asked_without_a_server(output, way):
    [version] = exported_versions(output / "models-10k" / "exports" / CLICKS).values()
    content = request_path(output / "models-10k" / "requests", "predict", 20, 3).read_bytes()
    assert worker.WAYS[way](argparse.Namespace(version=version))(content)() == "OK"


def test_requests_of_another_size_are_added_and_nothing_else_is_written(output):
    folder = output / "models-10k"
    assert models.is_complete(folder, [1, 20]) and not models.is_complete(folder, [1, 20, 3])
    before = (folder / "rows.csv").stat().st_mtime_ns
    models.write_all(folder, VALUES, [3])
    assert models.is_complete(folder, [1, 3, 20]) and (folder / "rows.csv").stat().st_mtime_ns == before


def test_requests_get_the_name_of_the_model(output, tmp_path):
    folder = address(output / "models-10k" / "requests", tmp_path, "mine")
    request = predict_pb2.PredictRequest.FromString(request_path(folder, "predict", 1, 0).read_bytes())
    assert (request.model_spec.name, request.model_spec.signature_name, len(request.inputs)) == ("mine", "predict", len(VALUES))


# Clients.


def test_only_calls_that_begin_in_the_window_are_counted():
    times = iter([0.0, 1.0, 1.25, 2.0, 3.0])  # before the window; begin and end; begin of a call that fails; too late
    statuses = iter(["OK", "OK", "UNAVAILABLE"])
    found = worker.measure([lambda: next(statuses)], begin=0.5, end=3.0, clock=lambda: next(times))
    assert found == {"begins": [1.0], "milliseconds": [250.0], "statuses": {"OK": 1, "UNAVAILABLE": 1}}


def test_a_file_stops_a_client(tmp_path):
    stop = tmp_path / "stop"
    found = worker.measure([lambda: stop.touch() or "OK"], begin=0.0, end=time.monotonic() + 3600, stop=str(stop))
    assert found["statuses"] == {"OK": 1}


def test_requests_take_turns_and_are_prepared_once(tmp_path):
    prepared, asked = [], []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())

    def prepare(content):
        prepared.append(content)
        return lambda: asked.append(content) or "OK"

    now = time.monotonic()
    lines = [json.dumps({"files": [str(tmp_path / "a"), str(tmp_path / "b")], "begin": now, "end": now + 0.05, "stop": None})] * 2
    [first, second] = worker.answers(prepare, lines)
    assert prepared == [b"a", b"b"] and asked[:4] == [b"a", b"b", b"a", b"b"]
    assert first["statuses"]["OK"] == len(first["begins"]) == len(asked) and second["statuses"] == {}


def test_a_server_that_is_not_there_is_a_status(output):
    request = request_path(output / "models-10k" / "requests", "predict", 1, 0).read_bytes()
    options = argparse.Namespace(server="127.0.0.1:1")
    assert worker.bytes_way(options)(request)() == "UNAVAILABLE"


@pytest.fixture
def processes():
    with Processes(ROOT) as started:
        yield started


def test_a_client_that_ends_is_told(processes, tmp_path):
    clients = Clients(processes, "bytes", ("--server", "127.0.0.1:1"), tmp_path / "printed.txt")
    message = "a client ended early or gave no answer in time: see what it printed in .*printed.txt"
    with closing(clients), pytest.raises(UserError, match=message):
        clients.ask(1, [tmp_path / "absent.pb"], 0.0, 0.1)
    assert "FileNotFoundError" in (tmp_path / "printed.txt").read_text()


def test_a_server_that_does_not_start_is_told(processes, tmp_path):
    exports = tmp_path / "exports"
    exports.mkdir()
    (exports / CLICKS).write_text("a file")
    server = started_server(processes, exports, tmp_path / "printed" / "server.txt")
    with pytest.raises(UserError, match="the server did not start within 600 s: see what it printed in .*server.txt"), server:
        pass
    assert "is a file: give the folder" in " ".join((tmp_path / "printed" / "server.txt").read_text().split())


# Figures.


def test_percentiles_are_measured_values():
    assert [percentile([5, 1, 4, 2, 3], share) for share in (0.5, 0.99, 0.2)] == [3, 5, 1]
    assert percentile(list(range(1, 201)), 0.99) == 198


def test_a_summary_by_hand():
    sample = Sample([0.0] * 4, [1.0, 2.0, 3.0, 10.0], Counter(OK=4, UNAVAILABLE=1), seconds=2.0)
    assert summary(sample, 100) == {"calls": 4, "p50": 2.0, "p99": 10.0, "rows_per_second": 200.0, "failures": {"UNAVAILABLE": 1}}


def test_no_answer_at_all_is_told():
    with pytest.raises(UserError, match=r"no call was answered within 0.5 s \(statuses: {'NOT_FOUND': 3}\): see what the server printed"):
        summary(Sample(statuses=Counter(NOT_FOUND=3), seconds=0.5), 1)


def test_calls_under_way_when_a_version_is_published_belong_to_the_swap():
    sample = Sample([1.0, 1.95, 2.5, 4.0], [50.0, 100.0, 70.0, 60.0])
    assert before_and_during(sample, published=2.0, done=3.0) == ([50.0], [100.0, 70.0])


def test_growth_leaves_out_the_first_fifth():
    assert growth([1, 100, 110, 120, 150]) == 1.5
    assert growth([7.0]) == 1.0


def test_the_line_through_two_sizes():
    assert line([1000, 5000], [12.0, 20.0]) == (10.0, 500.0)


def test_cells_heed_how_many_clients_an_arm_takes():
    assert cells(["session", "client", "predict"], [10], [1, 4, 32]) == [
        Cell("session", 10, 1), Cell("client", 10, 1), Cell("client", 10, 4), *(Cell("predict", 10, number) for number in (1, 4, 32))]
    assert Cell.of(Cell("predict", 10, 4).key) == Cell("predict", 10, 4)


# Swaps.


def served_by(processes, clients, found):
    """A model whose versions have these states."""
    return swaps.ServedModel(processes, Target("127.0.0.1:1", {}), lambda: found, Path(), clients, [], 1)


def test_a_version_that_does_not_become_the_only_one_is_told(processes, monkeypatch):
    monkeypatch.setattr(swaps, "SWAP_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"version 4 was not the only one to answer after 0.1 s \(versions: {3: .*does the server poll"):
        served_by(processes, None, {3: ("AVAILABLE", ""), 4: ("LOADING", "")}).wait_until_alone(4)


def test_a_server_that_tells_no_versions_is_told():
    message = r"the server on 127.0.0.1:1 does not tell the versions of mine \(UNAVAILABLE: .*\): see what it printed; the name is --model"
    with pytest.raises(UserError, match=message):
        swaps.status_reader(Target("127.0.0.1:1", {CLICKS: "mine"}), CLICKS)()


class _Clients:
    """Clients whose calls all began, after so many seconds, and took a millisecond."""

    def __init__(self, *begins: float):
        self._begins = begins

    def begin(self, number, files, settle, seconds, stop):
        self._begin, self._stop = time.monotonic(), stop
        return self._begin

    def answers(self):
        assert self._stop.exists()
        return Sample([self._begin + begin for begin in self._begins], [1.0] * len(self._begins), Counter(OK=len(self._begins)))


@pytest.fixture
def swap_of(processes, monkeypatch):
    """A swap without a server, which takes no time, after 0.05 s; the calls begin after so many seconds."""

    @contextmanager
    def copied_version(base_path):
        yield lambda: 5

    monkeypatch.setattr(swaps, "copied_version", copied_version)
    monkeypatch.setattr(swaps, "keep_highest", lambda *_: [])
    return lambda *begins: swaps.swap_under_load(
        served_by(processes, _Clients(*begins), {5: ("AVAILABLE", "")}), number=1, before_seconds=0.05)


def test_a_swap_by_hand(swap_of):
    found = swap_of(0.0, 0.01, 0.1)
    assert (found["before"], found["during"], found["calls"], found["failures"]) == (1.0, 1.0, 3, {})
    assert 0 <= found["seconds"] < 60


def test_a_swap_that_no_call_saw_is_told(swap_of):
    with pytest.raises(UserError, match=r"2 calls before the swap and 0 during it were answered \(statuses: {'OK': 2}\): see what"):
        swap_of(0.0, 0.01)


# Offline scoring.


def test_a_log_repeats_the_rows(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,x\n2,y\n")
    offline.write_log(tmp_path / "rows.csv", tmp_path / "log.csv", 5)
    assert (tmp_path / "log.csv").read_text() == "a,b\n1,x\n2,y\n1,x\n2,y\n1,x\n"


def test_sizes_are_scored_by_turns(tmp_path, monkeypatch):
    (tmp_path / "rows.csv").write_text("a\n1\n")
    (tmp_path / "logs").mkdir()
    commands = []

    class Fake:
        def run(self, command):
            commands.append(command)
            Path(command[command.index("--output") + 1]).mkdir()

    found = list(offline.rounds(Fake(), tmp_path / "3", tmp_path / "rows.csv", tmp_path / "logs", [2, 9], 2))
    assert [(one["rows"], one["round"]) for one in found] == [(2, 0), (9, 0), (9, 1), (2, 1)]
    assert commands[1][:4] == ["-m", "serving.batch", "--model", str(tmp_path / "3")]
    assert not (tmp_path / "logs" / "scores").exists()


# The page.


def cell(p50, rate=100.0, failures=None):
    return {"calls": 10, "p50": p50, "p99": 2 * p50, "rows_per_second": rate, "failures": failures or {}}


def record(scenario, **content):
    return {"scenario": scenario, "command": "python -m benchmarks.serving", "server": "ours", "cores": 2, "processor": "a processor",
            "load": 0.5, "finished": "today", "versions": {"tensorflow": "2"}, "settings": {"values": 10}, **content}  # fmt: skip


LATENCY = record("latency", rounds=[
    {"session 100 1": cell(4.0), "predict 100 1": cell(6.0), "plain 100 1": cell(5.0), "predict 100 4": cell(20.0, 200.0),
     "batched 100 4": cell(10.0, 300.0)},
    {"session 100 1": cell(4.0), "predict 100 1": cell(8.0), "plain 100 1": cell(8.0), "predict 100 4": cell(20.0, 200.0),
     "batched 100 4": cell(10.0, 500.0, {"UNAVAILABLE": 2})},
])  # fmt: skip


def test_ratios_compare_turns_of_one_round():
    found = {(one.key, one.base, one.measure): (spread.lowest, spread.median, spread.highest) for one, _, spread in ratios(LATENCY)}
    assert found == {
        ("predict", "session", "p50"): (1.5, 1.75, 2.0), ("predict", "plain", "p50"): (1.0, 1.1, 1.2),
        ("batched", "predict", "p50"): (0.5, 0.5, 0.5), ("batched", "predict", "rows_per_second"): (1.5, 2.0, 2.5),
    }  # fmt: skip


def test_aims_of_latency():
    [cost, failed] = aims_of(LATENCY)
    assert "plain DCN-V2, server; 100 rows, 1 client: at most 1.15 times" in cost[0] and cost[1:] == ("1.10 [1.00, 1.20]", "reached")
    assert failed == ("latency: no call fails", 'failed: {"UNAVAILABLE": 2}', "NOT reached")


def swap(before, during, failures=None, memory=1e9):
    return {"before": before, "during": during, "seconds": 2.0, "calls": 50, "failures": failures or {}, "bytes": memory, "version": 2}


def window(memory, right=True, failures=None):
    return {"seconds": 60.0, "swapped": True, "right": right, "bytes": memory, **cell(5.0, failures=failures)}


def test_aims_of_the_other_scenarios():
    verdicts = {
        record_["scenario"]: [(measured, verdict) for _, measured, verdict in aims_of(record_)]
        for record_ in (
            record("swap", swaps=[swap(10.0, 20.0), swap(10.0, 50.0, {"UNAVAILABLE": 1})]),
            record("swaps", swaps=[swap(1, 1, memory=size) for size in (1e9, 2e9, 2e9, 2e9, 2.1e9)]),
            record("faults", faults=[{"fault": "x", "right": True}, {"fault": "y", "right": False}]),
            record("soak", settings={"minutes": 1}, windows=[window(1e9), window(1e9), window(3e9, right=False)]),
            record("batch", runs=[]),
        )
    }  # fmt: skip
    assert verdicts == {
        "swap": [('failed: [{"UNAVAILABLE": 1}] of 100 calls', "NOT reached"), ("3.50 [2.00, 5.00]", "NOT reached")],
        "swaps": [("none failed", "reached"), ("1.05", "reached")],
        "faults": [("1 of 2", "NOT reached")],
        "soak": [("none failed of 30 calls", "reached"), ("2 of 3", "NOT reached"), ("3.00", "NOT reached")],
        "batch": [],
    }


def test_a_foreign_server_has_no_memory_that_we_know(tmp_path):
    found = record("swaps", swaps=[swap(1, 1, memory=None)] * 3)
    assert len(aims_of(found)) == 1 and "](" not in report.markdown([found])


def test_the_page_tells_fixed_cost_and_rate_of_offline_scoring():
    runs = [{"rows": rows, "seconds": seconds, "round": 0} for rows, seconds in ((1000, 12.0), (5000, 20.0))]
    page = report.markdown([record("batch", runs=runs)])
    assert "| 1,000 | 12.0 [12.0, 12.0] | 83 |" in page and "| 10.0 | 500 |" in page


# The command.


def test_the_models_config_names_both_models(tmp_path):
    assert models_config(tmp_path).count(f'base_path: "{tmp_path}/') == 2


@pytest.mark.parametrize(("flags", "message"), [
    (["--rows", "0"], "--rows must be at least 1, received [0]"),
    (["--seconds", "0"], "--seconds must be above 0, received 0.0"),
    (["--only", "soak"], "--only soak needs --soak MINUTES"),
])  # fmt: skip
def test_flags_that_measure_nothing_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(flags)
    assert message in capsys.readouterr().err


def test_flags_override_what_quick_sets():
    found = benchmark.parse(["--quick", "--swaps", "7"])
    assert (found.swaps, found.values, found.rows) == (7, 10_000, [1, 20])
    assert benchmark.chosen(found) == ["latency", "swap", "swaps", "faults", "batch"]
    assert benchmark.chosen(benchmark.parse(["--server", "h:1", "--soak", "1"])) == ["latency", "swap", "swaps", "faults", "soak"]


def test_a_quick_run_measures_swaps_and_fails_nothing(output, capsys):
    command = ["--quick", "--only", "latency", "swap", "swaps", "faults", "soak", "--soak", "0.03", "--swaps", "1",
               "--arms", "predict", "candidates", "--output", str(output), "--report", str(output / "report")]  # fmt: skip
    assert benchmark.main(command) == 0, capsys.readouterr()
    records = report.load_records(output / "report" / "serving.jsonl")
    assert list(records) == ["latency", "swap", "swaps", "faults", "soak"]
    assert set(records["latency"]["rounds"][0]) == {
        f"{arm} {rows} {clients}" for arm in ("predict", "candidates") for rows in (1, 20) for clients in (1, 2)}
    assert [one for one in records["faults"]["faults"] if not one["right"]] == []
    assert [one["fault"] for one in records["faults"]["faults"] if one.get("reason")] == [
        "an empty version", "a version with a corrupt graph", "a version copied by half"]
    for scenario, key in (("swap", "swaps"), ("swaps", "swaps"), ("soak", "windows")):
        assert records[scenario][key] and not any(one["failures"] for one in records[scenario][key])
    page = (output / "report" / "serving.md").read_text()
    assert "## Aims" in page and "](serving_swaps.png)" in page and (output / "report" / "serving_swaps.png").stat().st_size > 1000
