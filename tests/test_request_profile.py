"""The profile of a request: every signature is measured, and what it cannot measure is said."""

import pytest
import served_kinds

from benchmarks import request_profile
from preprocessing.errors import EXIT_USER_ERROR
from serving.export.served_model import save_served_model
from serving.signatures import raw_specs
from serving.warmup import WARMUP_FILE, write_warmup
from trainer.config import load_config
from trainer.models import build_model

ROW = {"user": ["ann"], "price": [0.5], "item": ["i1"], "device": ["d"], "history": [["i2"]], "tags": [None], "image": [None]}


@pytest.fixture(scope="module")
def version_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("profile") / "data"
    schema = served_kinds.write_data_folder(data_dir)
    model = build_model(schema, load_config(None, ["model.dcn.hidden_units=[4]", "finetune.feature_mask_rate=0.1"]))
    folder = data_dir.parent / "1"
    save_served_model(model, data_dir, folder)
    write_warmup(folder, served_kinds.raw_examples(ROW), raw_specs(schema))
    return folder


@pytest.fixture
def profile(version_dir, capsys, monkeypatch):
    some = {name: request_profile._thread_settings()[name] for name in ("default", request_profile.ONE_THREAD)}
    monkeypatch.setattr(request_profile, "_thread_settings", lambda: some)  # optimising the graphs takes most of the time
    monkeypatch.setattr(request_profile, "TRACED_RUNS", 1)

    def run(*arguments):
        code = request_profile.main(["--model", str(version_dir), "--rounds", "1", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run


def test_every_signature_is_measured_by_its_parts_and_kinds(profile, monkeypatch):
    code, out, said = profile("--candidates", "3", "--shared", "user,history")
    assert code == 0, said
    assert "a request of 3 candidates, milliseconds" in out and "the run alone, milliseconds" in out
    for signature in ("serving_default", "predict", "candidates", "explain"):
        assert f"{signature}: operations of one run, on one thread" in out
    monkeypatch.setattr(request_profile, "KINDS", 1000)  # which of them cost most is a matter of the moment
    assert "LookupTableFindV2" in profile("--candidates", "3")[1]


def test_shared_fields_that_there_are_not_are_named(profile):
    code, _, said = profile("--shared", "user,cost")
    assert code == EXIT_USER_ERROR
    assert "--shared names ['cost']" in said and "expected some of ['device', 'history'" in said


def test_a_version_without_warm_up_requests_is_refused(profile, version_dir, tmp_path):
    (version_dir / WARMUP_FILE).rename(tmp_path / "kept")
    try:
        code, _, said = profile()
    finally:
        (tmp_path / "kept").rename(version_dir / WARMUP_FILE)
    assert code == EXIT_USER_ERROR
    assert "has no warm-up requests of serving_default and predict" in said and "serving.export" in said


@pytest.mark.parametrize("wrong", [("--candidates", "0"), ("--rounds", "0")])
def test_impossible_sizes_are_refused(profile, wrong, capsys):
    with pytest.raises(SystemExit):
        profile(*wrong)
    assert "--candidates and --rounds must be at least 1, received" in capsys.readouterr().err
