"""Export: what is written, what is refused, and that a kill leaves nothing that a server would load."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import serving_stand_in as stand_in
import tensorflow as tf

import trainer.checkpoints
from preprocessing.errors import EXIT_USER_ERROR, UserError
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, train_checksum
from serving import warmup
from serving.export import command as export_command
from serving.export import exporter, parity
from serving.export.exporter import publish
from serving.export.parity import RAW_SAMPLES, RECORD_SAMPLES
from serving.signatures import DEFAULT_SIGNATURE, NAMED_SIGNATURE
from serving.versions.folders import find_versions
from serving.versions.labels import set_pin
from serving.warmup import read_warmup


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return stand_in.write_data_folder(tmp_path_factory.mktemp("export") / "data")


@pytest.fixture(scope="module")
def version_dir(data_dir, tmp_path_factory):
    base_path = tmp_path_factory.mktemp("base")
    killed = base_path / ".export-killed"
    killed.mkdir()
    (killed / "saved_model.pb").write_bytes(b"half of a graph")
    (base_path / "0007").mkdir()
    (base_path / "8x").mkdir()
    return publish(stand_in.TableModel(bias=0.25), data_dir, base_path)


@pytest.fixture(scope="module")
def exported(version_dir):
    return tf.saved_model.load(str(version_dir))


@pytest.fixture
def answers_without_a_process(monkeypatch):
    """Lets a test of the parity gate choose the exported answers, and saves the process."""

    def set_difference(probability: float, logit: float):
        def answers(version_dir, data_dir):
            logits = np.array([stand_in.expected_logit(*row) for row in stand_in.ROWS], np.float32)
            return {
                f"{signature}/{name}": values
                for signature in (DEFAULT_SIGNATURE, NAMED_SIGNATURE)
                for name, values in (("logit", logits + logit), ("probability", stand_in.sigmoid(logits) + probability))
            }

        monkeypatch.setattr(parity, "_exported_answers", answers)

    return set_difference


def test_the_next_version_follows_the_highest_and_leftovers_go(version_dir):
    assert version_dir.name == "8"
    assert sorted(path.name for path in version_dir.parent.iterdir()) == [".lock", "0007", "8", "8x", "versions.json"]
    assert {"saved_model.pb", "variables", "assets", "assets.extra"} <= {path.name for path in version_dir.iterdir()}


def test_other_users_may_read_a_version(version_dir):
    umask = os.umask(0)
    os.umask(umask)
    assert version_dir.stat().st_mode & 0o777 == 0o777 & ~umask


def test_both_signatures_give_the_hand_computed_logits(exported):
    logits = [stand_in.expected_logit(*row, bias=0.25) for row in stand_in.ROWS]
    examples = tf.constant([stand_in.raw_example(*row) for row in stand_in.ROWS])
    users, prices = zip(*stand_in.ROWS, strict=True)
    for outputs in (
        exported.signatures[DEFAULT_SIGNATURE](examples=examples),
        exported.signatures[NAMED_SIGNATURE](user=tf.constant(users), price=tf.constant(prices)),
    ):
        assert sorted(outputs) == ["logit", "probability"]
        np.testing.assert_allclose(outputs["logit"], logits, rtol=1e-6)
        np.testing.assert_allclose(outputs["probability"], stand_in.sigmoid(logits), rtol=1e-6)


def test_only_the_variables_of_a_click_prediction_are_exported(version_dir):
    shapes = tf.train.load_checkpoint(str(version_dir / "variables" / "variables")).get_variable_to_shape_map()
    assert sorted(shape for name, shape in shapes.items() if name.startswith("click_variables")) == [[], [8]]
    assert [100] not in shapes.values()


def test_warm_up_requests_are_the_sample_rows(version_dir):
    requests = [log.predict_log.request for log in read_warmup(version_dir)]
    [first, *_] = [request for request in requests if request.model_spec.signature_name == DEFAULT_SIGNATURE]
    assert tf.make_ndarray(first.inputs["examples"]).tolist() == [stand_in.raw_example(*stand_in.ROWS[0])]


def test_the_largest_difference_is_printed(data_dir, tmp_path, answers_without_a_process, capsys):
    answers_without_a_process(probability=4e-6, logit=0.0)
    publish(stand_in.TableModel(), data_dir, tmp_path)
    assert re.search(r"largest difference from the trainer over 12 rows 4\.\de-06 \(at most 1e-05\)", capsys.readouterr().out)


@pytest.mark.parametrize("difference", [{"probability": 2e-5, "logit": 0.0}, {"probability": 0.0, "logit": 1e-3},
                                        {"probability": float("nan"), "logit": 0.0}])  # fmt: skip
def test_nothing_is_published_when_answers_differ(data_dir, tmp_path, answers_without_a_process, difference):
    answers_without_a_process(**difference)
    with pytest.raises(UserError, match="answers differently from the trainer"):
        publish(stand_in.TableModel(), data_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_saved_model_that_does_not_load_is_not_published(data_dir, tmp_path, monkeypatch):
    write_warmup = warmup.write_warmup
    monkeypatch.setattr(warmup, "write_warmup", lambda folder, *rest: (write_warmup(folder, *rest), shutil.rmtree(folder / "variables")))
    with pytest.raises(UserError, match="does not answer in a new process.*variables"):
        publish(stand_in.TableModel(), data_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.fixture
def model_dir(data_dir, tmp_path, monkeypatch):
    """A model folder as training leaves it, with the stand-in for a trained model."""
    folder = tmp_path / "model"
    folder.mkdir()
    content = {"data_folder": str(data_dir), "train_checksum": train_checksum(data_dir)}
    (folder / "environment.json").write_text(json.dumps(content))
    monkeypatch.setattr(trainer.checkpoints, "load_trained", lambda model_dir: stand_in.TableModel())
    return folder


def test_a_model_folder_is_exported(model_dir, data_dir, tmp_path, answers_without_a_process, monkeypatch, capsys):
    answers_without_a_process(probability=0.0, logit=0.0)
    monkeypatch.setattr(exporter, "read_facts", lambda *_: None)  # the folder holds no training; see test_model_card.py
    assert exporter.export(str(model_dir), str(data_dir), str(tmp_path / "base")) == tmp_path / "base" / "1"
    assert f"export: published {tmp_path / 'base' / '1'}" in capsys.readouterr().out


def test_the_command_publishes_labels_and_keeps(model_dir, data_dir, tmp_path, answers_without_a_process, monkeypatch, capsys):
    answers_without_a_process(probability=0.0, logit=0.0)
    monkeypatch.setattr(exporter, "read_facts", lambda *_: None)
    command = ["--model_dir", str(model_dir), "--data_dir", str(data_dir), "--base_path", str(tmp_path / "base"), "--keep", "1"]
    assert export_command.main(command) == 0
    assert export_command.main([*command, "--label", "canary", "--json"]) == 0
    out, err = capsys.readouterr()
    path = str(tmp_path / "base" / "2")
    assert json.loads(out.splitlines()[-1]) == {"version": 2, "path": path, "label": "canary", "versions": [2]}
    assert f"export: published {path} with label canary\nexport: removed versions 1\n" in err

    set_pin(tmp_path / "base", 2)
    assert export_command.main(command) == 0
    assert "export: version 2 is pinned, so servers stay with it until `python -m serving.versions unpin" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [(["--keep", "0"], "cannot keep 0 versions"),
                                                    (["--label", "a b"], "label 'a b' is not a name")])  # fmt: skip
def test_flags_that_cannot_be_followed_are_refused_before_any_work(model_dir, data_dir, tmp_path, capsys, arguments, message):
    command = ["--model_dir", str(model_dir), "--data_dir", str(data_dir), "--base_path", str(tmp_path / "base")]
    assert export_command.main([*command, *arguments]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err and not (tmp_path / "base").exists()


def test_a_damaged_register_is_refused_before_any_work(data_dir, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "versions.json").write_text("{")
    with pytest.raises(UserError, match="versions.json"):
        exporter.export(tmp_path / "no model is looked for", data_dir, tmp_path / "base")


def test_a_data_folder_of_another_schema_is_refused(model_dir, data_dir, tmp_path, monkeypatch):
    model = stand_in.TableModel()
    model.schema = stand_in.schema(name="other", missing=["?"])
    monkeypatch.setattr(trainer.checkpoints, "load_trained", lambda model_dir: model)
    with pytest.raises(UserError, match=f"does not belong to model folder .*: their {SCHEMA_FILE} differ in name, missing;"):
        exporter.export(model_dir, data_dir, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_data_folder_of_other_training_rows_is_refused(model_dir, data_dir, tmp_path):
    other = shutil.copytree(data_dir, tmp_path / "other")
    manifest = json.loads((other / MANIFEST_FILE).read_text())
    manifest["splits"]["train"]["rows"] += 1
    (other / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="other was not written from the rows that the model in .* was trained on"):
        exporter.export(model_dir, other, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_model_folder_that_does_not_say_its_rows_is_refused(model_dir, data_dir, tmp_path):
    for content in ("{}", None):
        (model_dir / "environment.json").write_text(content) if content else (model_dir / "environment.json").unlink()
        with pytest.raises(UserError, match="environment.json is absent or does not say which rows"):
            exporter.export(model_dir, data_dir, tmp_path / "base")


def test_a_changed_field_is_named():
    trained = stand_in.schema()
    given = trained.resolve({"user": 5, "price": 4})
    with pytest.raises(UserError, match="differ in field user, field price;"):  # the offset of price moves too
        exporter._require_same_schema(trained, given, "m", "d")
    turned = trained.model_copy(update={"fields": trained.fields[::-1]})
    with pytest.raises(UserError, match="differ in the order of fields;"):
        exporter._require_same_schema(trained, turned, "m", "d")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["class"], "field name 'class' cannot name a served tensor; choose another name and give `column: class`"),
        (["self"], "field name 'self' cannot name a served tensor"),
        (["Item", "item"], r"must differ in more than upper and lower case .*received \['item'\] more than once"),
    ],
)
def test_names_that_a_signature_cannot_carry_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        stand_in.schema(fields=[{"name": name, "kind": "categorical"} for name in names])


@pytest.mark.parametrize(
    ("raw", "records", "message"),
    [
        ([], [], "received 0 and 0: preprocess again, with rows in the validation split"),
        ([stand_in.raw_example("ann", 1.0)], [], "received 1 and 0"),
        (None, None, "cannot be read"),
    ],
)
def test_unusable_samples_are_refused(tmp_path, raw, records, message):
    if raw is not None:
        stand_in.write_samples(tmp_path, raw, records)
    with pytest.raises(UserError, match=message):
        publish(stand_in.TableModel(), tmp_path, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_truncated_samples_are_refused(tmp_path):
    stand_in.write_samples(tmp_path, [stand_in.raw_example("ann", 1.0)], [stand_in.record((2, 2))])
    for name in (RAW_SAMPLES, RECORD_SAMPLES):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    with pytest.raises(UserError, match="cannot be read"):
        publish(stand_in.TableModel(), tmp_path, tmp_path / "base")


KILLED_EXPORT = """
import preprocessing
import sys, time
sys.path.insert(0, {tests!r})
import serving_stand_in as stand_in
from pathlib import Path
from serving.export import exporter, parity
def stand_still(*_):
    print("written", flush=True)
    time.sleep(600)
parity._exported_answers = stand_still
exporter.publish(stand_in.TableModel(), Path({data!r}), Path({base!r}))
"""


def test_a_killed_export_leaves_nothing_to_load_and_its_rest_is_removed(data_dir, tmp_path, answers_without_a_process):
    program = KILLED_EXPORT.format(tests=str(stand_in.REPOSITORY / "tests"), data=str(data_dir), base=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=stand_in.REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert "written\n" in iter(process.stdout.readline, "")
        [staging] = tmp_path.glob(".export-*")
        assert (staging / "version" / "saved_model.pb").is_file() and not find_versions(tmp_path)

        answers_without_a_process(probability=0.0, logit=0.0)
        assert publish(stand_in.TableModel(), data_dir, tmp_path).name == "1"
        assert staging.exists(), "an export that is still running must be left alone"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert publish(stand_in.TableModel(), data_dir, tmp_path).name == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "1", "2", "versions.json"]
