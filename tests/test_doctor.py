"""The doctor: one line a check, and for each usual mistake one sentence that says what mends it."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import sys
import types
from pathlib import Path

import pytest
import tensorflow as tf
from data_folders import write_data_folder, write_folder_of_all_kinds

from preprocessing.errors import UserError
from preprocessing.schema import train_checksum
from trainer import lock, memory, task
from trainer.carry_over import EarlierModel
from trainer.checkpoints import RANDOM, StageCheckpoints, TrainingState, seal
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.doctor import data_folder, diagnosis, environment, model_folder, resources
from trainer.doctor.patient import Concern, Inapplicable, Patient
from trainer.runtime import resolved
from trainer.vocabularies import keep_vocabularies

WRITTEN_BY = "python -m preprocessing.task --input log.csv --schema log.yaml --output data"


@pytest.fixture(scope="module")
def sound_data(tmp_path_factory):
    """A data folder with everything that preprocessing writes into a manifest."""
    folder = write_data_folder(tmp_path_factory.mktemp("data") / "tiny", rows=64)
    manifest = json.loads((folder / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for entry in split["files"]:
            content = (folder / entry["path"]).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest |= {"command": WRITTEN_BY, "schema_sha256": hashlib.sha256((folder / "schema.yaml").read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("samples/raw.tfrecord", "samples/records.tfrecord", "transform_fn/saved_model.pb"):
        (folder / name).parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            writer.write(b"a row")
    return folder


@pytest.fixture
def data(sound_data, tmp_path):
    return shutil.copytree(sound_data, tmp_path / "data")


@pytest.fixture
def patient(data, tmp_path):
    return Patient(data_dir=data, model_dir=tmp_path / "model")


def trained(patient, stage="pretrain", **state):
    """Gives the patient a stage with one checkpoint, and returns that."""
    checkpoints = StageCheckpoints(patient.model_dir, stage)
    folder = checkpoints.folder / "epoch-0001"
    folder.mkdir(parents=True)
    content = TrainingState(RANDOM, train_checksum(patient.data_dir), 0.001, epoch=1, best_epoch=1, best=0.5)
    (folder / "state.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(content, **state))))
    (folder / "config.yaml").write_text(resolved(load_config()).to_yaml())
    (folder / "model.data-00000-of-00001").write_bytes(b"tensors")
    seal(folder)
    (patient.model_dir / "environment.json").write_text("{}")
    return folder


def tensorflow_with_keras_3():
    model = type("Model", (), {"__module__": "keras.src.models.model"})
    return types.SimpleNamespace(keras=types.SimpleNamespace(Model=model))


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


# The whole.


def test_a_sound_folder_passes_every_check(patient, capsys):
    trained(patient)
    arguments = ["--stage=doctor", "--data_dir", str(patient.data_dir), "--model_dir", str(patient.model_dir)]
    code = task.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    assert [line[5:20].strip() for line in lines[:-1]] == [check.name for check in diagnosis.CHECKS]
    assert [line[5:] for line in lines if line.startswith(("fail", "skip"))] == ["data: workers  one process reads all files",
                                                                                 "slices         --slices is not given"]
    assert lines[-1].startswith("doctor: 0 failed")


def test_every_check_runs_although_earlier_ones_fail(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", "{")
    (data / "train").rename(data / "lost")
    (tmp_path / "model").write_text("")
    assert task.main(["--stage=doctor", "--data_dir", str(data), "--model_dir", str(tmp_path / "model"), "--set", "sead=3"]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    failed = {line[5:20].strip() for line in lines if line.startswith("fail")}
    assert failed == {"cluster", "settings", "data: files", "model folder"}
    assert "skip memory         needs settings" in lines
    assert len(lines) == len(diagnosis.CHECKS) + 1 and "Traceback" not in captured.out + captured.err


def test_a_malformed_tf_config_is_named_once(patient, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    trained(dataclasses.replace(patient, model_dir=patient.model_dir.with_name("earlier")), "finetune")
    nightly = dataclasses.replace(patient, init_from=patient.model_dir.with_name("earlier"))
    findings = {finding.check: finding for finding in diagnosis.diagnose(nightly)}
    assert [name for name, finding in findings.items() if finding.status == "fail"] == ["cluster"]
    waiting = {name for name, finding in findings.items() if finding.text == "needs cluster"}
    assert waiting == {"devices", "data: workers", "memory", "fine-tuning"}


def test_without_folders_the_environment_is_checked(capsys):
    assert task.main(["--stage=doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "skip data: schema   --data_dir is not given" in lines
    assert "skip model folder   --model_dir is not given" in lines


def test_without_a_sound_tensorflow_nothing_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow_with_keras_3())
    findings = {finding.check: finding for finding in diagnosis.diagnose(Patient())}
    assert findings["keras"].status == "fail"
    needing = [check.name for check in diagnosis.CHECKS if "tensorflow" in check.needs]
    assert {findings[name].text for name in needing} == {"needs tensorflow"} and findings["tensorflow"].text == "needs keras"


def test_a_check_that_breaks_is_one_line():
    def broken(_):
        raise ValueError("no\nluck")

    def not_installed(_):
        raise ModuleNotFoundError("No module named 'rich'")

    assert str(diagnosis._examine(diagnosis.Check("some", broken), Patient())) == "fail some           ValueError: no luck"
    assert "No module named 'rich': run `make setup`" in str(diagnosis._examine(diagnosis.Check("some", not_installed), Patient()))


# The environment.


def test_keras_3_first():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", tensorflow_with_keras_3())
        with pytest.raises(UserError, match="imported with Keras 3 before .* `TF_USE_LEGACY_KERAS=1`"):
            environment.check_keras(Patient())


def with_versions(monkeypatch, **versions):
    """Lets packages have other versions than they have; None: they are not installed."""
    true = importlib.metadata.version

    def version(name):
        found = versions.get(name.replace("-", "_"), true) if name.replace("-", "_") in versions else true(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_keras_of_another_tensorflow(monkeypatch):
    with_versions(monkeypatch, tf_keras="2.16.0")
    with pytest.raises(UserError, match="and tf_keras 2.16.0 do not belong together: run `make setup`"):
        environment.check_keras(Patient())


def test_an_unsupported_version(monkeypatch):
    with_versions(monkeypatch, numpy="1.26.4")
    with pytest.raises(UserError, match=r"numpy 1.26.4 is installed, and \S+ is needed: run `make setup`"):
        environment.check_packages(Patient())


def test_a_missing_package(monkeypatch):
    with_versions(monkeypatch, tfx_bsl=None)
    with pytest.raises(UserError, match="tfx-bsl is not installed: run `make setup`"):
        environment.check_packages(Patient())


def test_an_untested_version_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "LOCK_FILE", tmp_path / "requirements.lock")
    (tmp_path / "requirements.lock").write_text("numpy==2.0.1 \\\n    --hash=sha256:0\nrich==1.0\n")
    installed = importlib.metadata.version("numpy")
    with pytest.raises(Concern, match=f"numpy {installed} \\(tested: 2.0.1\\), rich .*make setup"):
        environment.check_packages(Patient())


def test_an_unsupported_python(monkeypatch):
    monkeypatch.setattr(environment, "PYTHON_VERSIONS", ((3, 6), (3, 8)))
    with pytest.raises(UserError, match="and 3.6 to 3.8 are supported: run `make setup PYTHON="):
        environment.check_python(Patient())


@pytest.mark.parametrize(("features", "error", "message"), [
    ({"sse"}, UserError, "the processor has no AVX"), ({"avx"}, Concern, "without AVX2 and FMA")])
def test_an_old_processor(monkeypatch, features, error, message):
    monkeypatch.setattr(environment, "_processor_features", lambda: features)
    with pytest.raises(error, match=message):
        environment.check_processor(Patient())


def test_an_unknown_setting():
    with pytest.raises(UserError, match=r"sead: unknown key .*--print_config` lists every setting"):
        environment.check_settings(Patient(assignments=("sead=3",)))


# Ports and TF_CONFIG.


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_serving_port(monkeypatch, taken_port):
    monkeypatch.setattr(environment, "SERVING_PORT", taken_port)
    with pytest.raises(Concern, match=f"port {taken_port} is taken .* `python -m serving.server --port {taken_port + 1}`"):
        environment.check_port(Patient())


def cluster(monkeypatch, *workers):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0}}))


def test_a_malformed_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{worker}")
    with pytest.raises(UserError, match="TF_CONFIG: it is not JSON"):
        environment.check_cluster(Patient())


def test_an_unknown_host_in_tf_config(monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    cluster(monkeypatch, "nowhere.invalid:2222")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match="host 'nowhere.invalid' of nowhere.invalid:2222 is unknown here"):
        environment.check_cluster(Patient())


def test_a_taken_port_in_tf_config(monkeypatch, taken_port):
    cluster(monkeypatch, f"127.0.0.1:{taken_port}", "127.0.0.1:1")
    with pytest.raises(UserError, match=f"port {taken_port} of this task is taken: see who has it with `ss -ltnp"):
        environment.check_cluster(Patient())


def test_devices_that_are_there():
    assert environment.check_devices(Patient()) == "one, TensorFlow's default"
    assert environment.check_devices(Patient(devices="cpus:2")) == "CPU:0, CPU:1"


def test_devices_that_training_refuses(capsys):
    assert task.main(["--stage=doctor", "--devices", "gpus:99"]) == 1
    assert "fail devices        --devices gpus:99: TensorFlow finds" in capsys.readouterr().out


def test_devices_in_a_cluster(monkeypatch):
    cluster(monkeypatch, "127.0.0.1:1", "127.0.0.1:2")
    assert environment.check_devices(Patient()) == "all GPUs of every machine, or its processor"
    with pytest.raises(UserError, match="--devices gpus is for one machine, and TF_CONFIG is set"):
        environment.check_devices(Patient(devices="gpus"))


def test_settings_that_several_devices_cannot_have():
    averaging = Patient(devices="cpus:2", assignments=("finetune.averaging=0.9",))
    with pytest.raises(UserError, match="finetune.averaging is kept by one process on one device"):
        environment.check_devices(averaging)


def test_averages_of_a_pretraining_that_is_done_are_no_obstacle(patient):
    averaging = dataclasses.replace(patient, devices="cpus:2", assignments=("pretrain.averaging=0.9",))
    with pytest.raises(UserError, match="pretrain.averaging is kept by one process"):
        environment.check_devices(averaging)
    trained(patient)
    with pytest.raises(Concern, match="pretrain.averaging is kept by one process .*; fine-tuning can be trained so"):
        environment.check_devices(averaging)
    assert environment.check_devices(dataclasses.replace(averaging, from_scratch=True)) == "CPU:0, CPU:1"


# The data folder.


def test_an_absent_data_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist: write it with `python -m preprocessing.task"):
        data_folder.check_schema(Patient(data_dir=tmp_path / "absent"))


def test_a_missing_data_folder_is_named_once(tmp_path):
    findings = {finding.check: finding for finding in diagnosis.diagnose(Patient(data_dir=tmp_path / "absent"))}
    assert findings["data: schema"].status == "fail"
    assert (findings["data: rows"].status, findings["data: rows"].text) == ("skip", "needs data: schema")


def test_an_unfinished_data_folder(patient):
    (patient.data_dir / "manifest.json").unlink()
    with pytest.raises(UserError, match="unfinished or not a data folder: write it with `python -m preprocessing.task"):
        data_folder.check_schema(patient)


def test_a_damaged_manifest(patient):
    (patient.data_dir / "manifest.json").write_text('{"splits": {}}')
    with pytest.raises(UserError, match=r"manifest.json is damaged \(it has no 'train'\): restore it from a copy"):
        data_folder.check_schema(patient)


def test_a_schema_edited_after_preprocessing(patient):
    path = patient.data_dir / "schema.yaml"
    path.write_text(path.read_text() + "# my note\n")
    with pytest.raises(UserError) as error:
        data_folder.check_schema(patient)
    assert "was edited after preprocessing" in str(error.value) and f"run `{WRITTEN_BY} --overwrite`" in str(error.value)


def with_splits(patient, **changes):
    """The patient with other entries of splits in the manifest; "unlabelled" is that of the first of two files too."""
    def change(manifest):
        for name, entries in changes.items():
            split = manifest["splits"][name]
            split.update(entries)
            if "unlabelled" in entries:
                for file in split["files"]:
                    file["unlabelled"] = entries["unlabelled"] // 2

    edit_manifest(patient.data_dir, change)
    return dataclasses.replace(patient)


EMPTY = {"rows": 0, "positives": 0, "files": []}


def test_an_empty_training_split(patient):
    with pytest.raises(UserError, match=f"split 'train' of .* has no rows: .*`{WRITTEN_BY} --overwrite`"):
        data_folder.check_rows(with_splits(patient, train=EMPTY))


def test_an_empty_validation_split(patient):
    with pytest.raises(UserError, match=f"the validation split has no rows with a label, .*`{WRITTEN_BY} --overwrite`"):
        data_folder.check_rows(with_splits(patient, valid=EMPTY))


def test_an_empty_test_split_is_a_warning_as_training_does_not_read_it(patient):
    with pytest.raises(Concern, match=r"^train 64 .*, test 0 \(no labels\): the test split has no label: evaluate with --split=valid"):
        data_folder.check_rows(with_splits(patient, test=EMPTY))


def test_a_validation_split_of_one_class(patient):
    patient = with_splits(patient, valid={"positives": 0})
    with pytest.raises(UserError, match=f"has 0 clicks in 32 rows with a label, so its AUC is undefined: .*`{WRITTEN_BY} --overwrite`"):
        data_folder.check_rows(patient)
    with pytest.raises(Concern, match="valid 32 .*: the labels of split valid are of one class"):
        data_folder.check_rows(dataclasses.replace(patient, assignments=("finetune.monitor=logloss",)))


def test_a_training_split_of_one_class_is_a_warning(patient):
    with pytest.raises(Concern, match="the labels of split train are of one class"):
        data_folder.check_rows(with_splits(patient, train={"positives": 64}))


def test_training_rows_without_labels_are_for_pretraining(patient):
    patient = with_splits(patient, train={"positives": 0, "unlabelled": 64})
    with pytest.raises(Concern, match="no training row has a label, so there is only pre-training"):
        data_folder.check_rows(patient)
    with pytest.raises(UserError, match="none of the 64 training rows has a label, and fine-tuning learns from labels"):
        data_folder.check_rows(dataclasses.replace(patient, from_scratch=True))


def test_rows_without_label_are_no_rows_without_click(patient):
    clicks = patient.manifest["splits"]["valid"]["positives"]
    patient = with_splits(patient, train={"positives": 12, "unlabelled": 16})
    assert f"train 64 (25.00% clicks, 48 with a label), valid 32 ({clicks / 32:.2%} clicks), test" in data_folder.check_rows(patient)
    patient = with_splits(patient, valid={"positives": 8, "unlabelled": 24})
    with pytest.raises(UserError, match="has 8 clicks in 8 rows with a label, so its AUC is undefined"):
        data_folder.check_rows(patient)


def test_rows_and_memory_are_those_of_the_share_of_labels_that_is_used(patient, monkeypatch):
    rows = {}
    predict = memory.predict
    monkeypatch.setattr(memory, "predict", lambda stage, config, schema, of_splits: rows.update({stage: of_splits["train"]}) or
                        predict(stage, config, schema, of_splits))
    patient = dataclasses.replace(patient, assignments=("input.label_share=0.5",))
    found = re.search(r"train 64 \(.*, (\d+) with a label\)", data_folder.check_rows(patient))
    resources.check_memory(patient)
    assert 0 < int(found[1]) < 64 and rows == {"pretrain": 64, "finetune": int(found[1])}


def test_fields_that_training_leaves_unread(tmp_path, patient):
    assert data_folder.check_fields(patient) == "training reads all 3"
    ignoring = dataclasses.replace(patient, assignments=("model.ignored_fields=[hour]",))
    assert data_folder.check_fields(ignoring) == "training reads 2 of 3, as model.ignored_fields leaves out hour"
    folder = write_folder_of_all_kinds(tmp_path / "kinds", rows=64)
    with pytest.raises(Concern, match="^image would be left unread"):
        data_folder.check_fields(Patient(data_dir=folder))


def test_more_workers_than_files(patient, monkeypatch):
    cluster(monkeypatch, "127.0.0.1:1", "127.0.0.1:2")
    assert data_folder.check_workers(patient) == "2 workers share 2 files"
    cluster(monkeypatch, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    with pytest.raises(UserError, match="has 2 files for 3 workers, and each worker reads files of its own"):
        data_folder.check_workers(patient)


def test_slices_by_a_field_that_is_not_there(patient):
    with pytest.raises(UserError, match="no slices by field 'brand': .* has the single-valued fields user, item, hour"):
        data_folder.check_slices(dataclasses.replace(patient, slices=("item", "brand")))
    assert data_folder.check_slices(dataclasses.replace(patient, slices=("item", "user"))) == "by item, user"


def test_the_memory_is_that_of_the_rows_a_stage_reads(tmp_path, monkeypatch):
    rows = {}
    predict = memory.predict
    monkeypatch.setattr(memory, "predict", lambda stage, config, schema, of_splits: rows.update({stage: of_splits["train"]}) or
                        predict(stage, config, schema, of_splits))
    resources.check_memory(Patient(data_dir=write_folder_of_all_kinds(tmp_path / "kinds", rows=64)))
    assert rows == {"pretrain": 64, "finetune": 48}


def test_counts_of_shared_vocabularies_are_a_file_that_training_reads(tmp_path):
    folder = write_folder_of_all_kinds(tmp_path / "kinds", rows=64)
    (folder / "tally.npz").unlink()
    with pytest.raises(UserError, match="tally.npz is missing: restore it"):
        data_folder.check_files(Patient(data_dir=folder))


def first_file(folder):
    return min((folder / "train").iterdir())


@pytest.mark.parametrize("name", ["train/part-00000-of-00002.tfrecord", "frequencies.npy", "vocabularies/item.txt"])
def test_a_lost_file(patient, name):
    (patient.data_dir / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing: restore it from a copy, or run `{WRITTEN_BY} --overwrite`"):
        data_folder.check_files(patient)


def test_a_shortened_file(patient):
    path = first_file(patient.data_dir)
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(UserError, match=f"has {size - 1:,} bytes and was written with {size:,}: restore it"):
        data_folder.check_files(patient)


def test_a_changed_file(patient):
    path = first_file(patient.data_dir)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is not as it was written .*SHA-256"):
        data_folder.check_files(patient)


def test_files_without_checksums_are_a_warning(tmp_path):
    folder = write_data_folder(tmp_path / "old", rows=64)
    with pytest.raises(Concern, match="6 files are there, but the manifest has no checksums"):
        data_folder.check_files(Patient(data_dir=folder))


# What a run takes.


def test_too_little_memory(patient):
    with pytest.raises(UserError, match=r"pretrain .*GB .*--set model.embedding_dim=8"):
        resources.check_memory(dataclasses.replace(patient, assignments=("memory_limit_gb=0.001",)))


def test_several_devices_whose_memory_is_not_predicted(patient):
    with pytest.raises(Inapplicable, match="nothing is predicted for several devices"):
        resources.check_memory(dataclasses.replace(patient, devices="cpus:2"))


def test_too_little_disk(patient, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1e6))
    with pytest.raises(UserError, match=r"the checkpoints of both stages take .* GB and the disk of .* has 0.00 GB free: free some space"):
        resources.check_disk(patient)


# The model folder.


def test_a_model_folder_that_is_a_file(patient):
    patient.model_dir.write_text("")
    with pytest.raises(UserError, match="is a file: give a folder"):
        model_folder.check_model_folder(patient)


def test_a_data_folder_given_as_the_model_folder(patient):
    with pytest.raises(UserError, match="is a data folder: give it as `--data_dir"):
        model_folder.check_model_folder(dataclasses.replace(patient, model_dir=patient.data_dir))


def test_a_model_folder_below_a_file(patient):
    patient.model_dir.write_text("")
    with pytest.raises(UserError, match="model is a file, so .*/model/new cannot be made: give another --model_dir"):
        model_folder.check_model_folder(dataclasses.replace(patient, model_dir=patient.model_dir / "new"))


def test_the_folder_of_a_stage_given_as_the_model_folder(patient):
    checkpoint = trained(patient)
    with pytest.raises(UserError, match=f"is the folder of one stage .* give `--model_dir {patient.model_dir}`"):
        model_folder.check_model_folder(dataclasses.replace(patient, model_dir=checkpoint.parents[1]))


def test_a_folder_with_files_of_others(patient):
    patient.model_dir.mkdir()
    (patient.model_dir / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match="is not a model folder but holds config.yaml, which training would overwrite"):
        model_folder.check_model_folder(patient)


def test_a_folder_in_use(patient):
    patient.model_dir.mkdir()
    with lock.exclusive(patient.model_dir), pytest.raises(UserError, match=f"is in use by process {os.getpid()} on .*: wait"):
        model_folder.check_model_folder(patient)


def test_a_folder_that_cannot_be_written(patient, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(model_folder.tempfile, "TemporaryFile", refused)
    parent = patient.model_dir.parent
    with pytest.raises(UserError, match=rf"{parent} cannot be written \(Permission denied\): change that with `chmod u\+w {parent}`"):
        model_folder.check_model_folder(patient)


def test_a_damaged_last_checkpoint(patient):
    checkpoint = trained(patient)
    (checkpoint / "model.data-00000-of-00001").write_bytes(b"tensorS")
    with pytest.raises(UserError, match=f"checkpoint {checkpoint} is damaged .*: remove it with `rm -r {checkpoint}`"):
        model_folder.check_checkpoints(patient)


def test_data_that_is_not_the_checkpoints(patient):
    trained(patient, data="another checksum")
    with pytest.raises(UserError, match="was trained on other data than .*: give the --data_dir that it was trained on"):
        model_folder.check_checkpoints(patient)


def test_other_settings_than_the_checkpoints(patient):
    trained(patient)
    with pytest.raises(UserError, match=r"was trained with other settings \(seed: 1 -> 9\): give them with `--config"):
        model_folder.check_same_settings(dataclasses.replace(patient, assignments=("seed=9",)))
    allowed = dataclasses.replace(patient, assignments=("seed=9",), allow_changes=True)
    assert model_folder.check_same_settings(allowed) == "pretrain (with changes: seed: 1 -> 9) would go on"


def test_no_pretraining_to_start_from(patient):
    with pytest.raises(Concern, match="first run `python -m trainer.task --stage=pretrain .*`, or fine-tune with --from_scratch"):
        model_folder.check_start(patient)
    assert model_folder.check_start(dataclasses.replace(patient, from_scratch=True)) == "without pre-training"


def test_settings_of_a_start_that_is_not_made(patient):
    patient = dataclasses.replace(patient, from_scratch=True, assignments=("finetune.transfer=embeddings",))
    with pytest.raises(UserError, match="finetune.transfer=embeddings .* has no meaning with --from_scratch"):
        model_folder.check_start(patient)


def test_another_start_than_that_of_the_run(patient):
    trained(patient, "finetune", origin="finetune 0123456789abcdef")
    with pytest.raises(UserError, match="holds a run that started from finetune 0123456789abcdef, and this call would start from random"):
        model_folder.check_start(dataclasses.replace(patient, from_scratch=True))


# --init_from.


@pytest.fixture
def nightly(patient, tmp_path):
    """A patient that is to start from an earlier model of the same data, which has a checkpoint of fine-tuning."""
    earlier = dataclasses.replace(patient, model_dir=tmp_path / "old")
    trained(earlier, "finetune")
    keep_vocabularies(DataFolder.open(patient.data_dir), earlier.model_dir)
    return dataclasses.replace(patient, init_from=earlier.model_dir)


def test_an_earlier_model_to_start_from(nightly):
    assert model_folder.check_start(nightly) == f"an earlier model, {nightly.init_from}/finetune/checkpoints/epoch-0001"


@pytest.mark.parametrize(("more", "said"), [
    (["--set", "model.kind=fm"], "--init_from absent carries over models of `model.kind: dgenctr` alone, received `model.kind: fm`"),
    ([], "--init_from absent has no checkpoint of stage finetune")])
def test_an_earlier_model_that_training_refuses(patient, more, said, capsys):
    for folders in ([], ["--data_dir", str(patient.data_dir), "--model_dir", str(patient.model_dir)]):
        assert task.main(["--stage=doctor", "--init_from", "absent", *folders, *more]) == 1
        assert f"fail fine-tuning    {said}" in capsys.readouterr().out


@pytest.mark.parametrize(("assignment", "said"), [
    ("model.embedding_dim=8", "has another network .* give its configuration with --config"),
    ("model.ignored_fields=[hour]", "backbone 'dcn' reads the fields at fixed places"),
    ("finetune.transfer=embeddings", "has no meaning with --init_from")])
def test_settings_that_an_earlier_model_does_not_fit(nightly, assignment, said):
    with pytest.raises(UserError, match=said):
        model_folder.check_start(dataclasses.replace(nightly, assignments=(assignment,)))


def test_an_earlier_model_that_is_damaged(nightly):
    checkpoint = StageCheckpoints(nightly.init_from, "finetune").best()
    (checkpoint / "model.data-00000-of-00001").write_bytes(b"tensorS")
    with pytest.raises(UserError, match=f"checkpoint {checkpoint} is damaged \\(model.data.*\\): restore it from a copy"):
        model_folder.check_start(nightly)


def test_an_earlier_model_without_fine_tuning_is_a_start_of_pretraining_alone(nightly):
    (nightly.init_from / "finetune").rename(nightly.init_from / "pretrain")
    with pytest.raises(Concern, match="has no checkpoint of stage finetune: .*; pre-training can start from .*epoch-0001"):
        model_folder.check_start(nightly)


def test_an_earlier_model_waits_for_sound_data(nightly):
    (nightly.data_dir / "manifest.json").write_text("{")
    findings = {finding.check: finding for finding in diagnosis.diagnose(nightly)}
    assert (findings["fine-tuning"].status, findings["fine-tuning"].text) == ("skip", "needs data: rows")


def test_an_earlier_model_is_carried_over_in_one_process(nightly):
    with pytest.raises(UserError, match="carries rows over in one process"):
        model_folder.check_start(dataclasses.replace(nightly, devices="cpus:2"))


def test_a_run_that_started_from_an_earlier_model_goes_on(nightly):
    trained(nightly, "finetune", origin=EarlierModel(nightly.init_from, "finetune").origin)
    assert model_folder.check_start(nightly).startswith("goes on from an earlier model, ")
    with pytest.raises(UserError, match="holds a run that started from an earlier model"):
        model_folder.check_start(dataclasses.replace(nightly, init_from=None, from_scratch=True))


def test_two_starts_are_refused_as_by_training(capsys):
    assert task.main(["--stage=doctor", "--init_from", "old", "--from_scratch"]) == 2
    assert "two different starts" in capsys.readouterr().err


def test_a_folder_without_checkpoints_has_nothing_to_check(patient):
    patient.model_dir.mkdir()
    for check in (model_folder.check_checkpoints, model_folder.check_same_settings):
        with pytest.raises(Inapplicable, match="nothing has been trained yet"):
            check(patient)


def test_a_new_model_folder_has_nothing_to_check(patient):
    for check in (model_folder.check_checkpoints, model_folder.check_same_settings):
        with pytest.raises(Inapplicable, match="is not there yet"):
            check(patient)
    assert "can be made" in model_folder.check_model_folder(patient)


# The versions.


def test_a_version_that_can_be_published(patient):
    assert model_folder.check_export(patient) == f"{patient.model_dir}/export/tiny can be written"
    asked = dataclasses.replace(patient, export_dir=patient.model_dir / "served", keep=2, label="canary")
    assert model_folder.check_export(asked) == f"{patient.model_dir}/served can be written"


@pytest.mark.parametrize(("flags", "said"), [
    (["--export_dir", "{file}/exports"], "model base path {file}/exports lies below {file}, which is a file: give the folder that"),
    (["--keep", "0"], "cannot keep 0 versions"),
    (["--label", "no name"], "label 'no name' is not a name"),
    (["--export_dir", "{file}"], "model base path {file} is a file")])
def test_what_export_would_refuse_after_training(patient, flags, said, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    folders = ["--data_dir", str(patient.data_dir), "--model_dir", str(patient.model_dir)]
    assert task.main(["--stage=doctor", *folders, *(flag.format(file=file) for flag in flags)]) == 1
    assert f"fail export         {said.format(file=file)}" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "said"), [
    ("transform_fn/saved_model.pb", "is missing: restore it from a copy, or run `python -m preprocessing.task"),
    ("samples/raw.tfrecord", "sample file .*raw.tfrecord cannot be read")])
def test_what_export_needs_of_the_data_folder(patient, name, said):
    (patient.data_dir / name).unlink()
    with pytest.raises(UserError, match=said):
        model_folder.check_export(patient)


def test_a_damaged_register_of_versions(patient):
    base_path = patient.model_dir / "export" / "tiny"
    base_path.mkdir(parents=True)
    (base_path / "versions.json").write_text("{")
    with pytest.raises(UserError, match="versions.json"):
        model_folder.check_export(patient)


def test_the_lock_file_names_the_declared_packages():
    assert Path(environment.LOCK_FILE).name == "requirements.lock" and "tensorflow" in environment._tested_versions()
