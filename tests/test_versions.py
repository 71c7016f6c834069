"""Versions, labels and the pin, the commands about them, and TensorFlow Serving's configuration file."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from google.protobuf import text_format
from published_versions import published, write
from tensorflow_serving.config import model_server_config_pb2

from preprocessing.errors import EXIT_USER_ERROR, UserError
from serving.versions.command import main
from serving.versions.folders import MAX_VERSION, exported_versions, find_versions, locked, meant_instead
from serving.versions.labels import read_register, remove_label, remove_pin, set_label, set_pin
from serving.versions.model_config import model_config

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def base(tmp_path):
    base_path = tmp_path / "clicks"
    for content in ("one", "two", "three"):
        published(base_path, content)
    return base_path


@pytest.fixture
def said(capsys):
    """Runs the command and returns its exit code, what it printed, and its error in one line."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return run


def wanted(base):
    return sorted(read_register(base).wanted(find_versions(base)))


# Which folders are versions.


def test_versions_are_the_folders_that_tensorflow_serving_would_take(tmp_path):
    for name in ("0007", "3", "8x", "+9", "-1", ".export-1", "٣", str(MAX_VERSION), str(MAX_VERSION + 1)):
        (tmp_path / name).mkdir()
    (tmp_path / "4").write_text("a file")
    (tmp_path / "5").symlink_to(tmp_path / "3")
    (tmp_path / "6").symlink_to(tmp_path / "gone")
    assert find_versions(tmp_path) == {
        3: tmp_path / "3", 5: tmp_path / "5", 7: tmp_path / "0007", MAX_VERSION: tmp_path / str(MAX_VERSION)}  # fmt: skip
    assert find_versions(tmp_path / "none") == {}


def test_an_exported_version_has_a_saved_model(base):
    (base / "9").mkdir()
    assert list(exported_versions(base)) == [1, 2, 3]


# Labels and the pin.


def test_without_labels_and_pin_the_highest_is_wanted(base, tmp_path):
    assert (dict(read_register(base)), wanted(base)) == ({"highest": 3, "labels": {}, "pin": None, "copies": {}}, [3])
    assert (read_register(tmp_path).highest, wanted(tmp_path)) == (0, [])


def test_labelled_versions_are_wanted_too(base):
    assert set_label(base, "stable", 1) is None
    assert set_label(base, "canary", 3) is None
    assert wanted(base) == [1, 3]
    assert set_label(base, "stable", 2) == 1
    assert wanted(base) == [2, 3]
    assert remove_label(base, "canary") == 3
    assert read_register(base).labels == {"stable": 2}


def test_the_pinned_version_is_wanted_instead_of_the_highest(base):
    assert set_pin(base, 2) is None
    set_label(base, "old", 1)
    published(base, "four")
    assert (read_register(base).pin, wanted(base)) == (2, [1, 2])
    assert set_pin(base, 4) == 2
    assert remove_pin(base) == 4
    assert (read_register(base).pin, wanted(base)) == (None, [1, 4])


def test_what_was_deleted_by_hand_is_not_wanted(base):
    set_label(base, "stable", 1)
    subprocess.run(["rm", "-r", base / "1"], check=True)
    assert read_register(base).labels == {"stable": 1}
    assert wanted(base) == [3]


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda base: set_label(base, "stable", 9), "clicks has no version 9 with a SavedModel: the versions are 1, 2, 3"),
        (lambda base: set_label(base, "a b", 1), "label 'a b' is not a name: expected a letter, then up to 63 letters"),
        (lambda base: set_pin(base, 9), "has no version 9 with a SavedModel"),
        (lambda base: remove_pin(base), "has no pinned version, so there is nothing to unpin"),
        (lambda base: remove_label(base, "stable"), "has no label stable: the labels are none"),
        (lambda base: (set_label(base, "canary", 3), set_pin(base, 2)),
         r"version 2 cannot be pinned while labels name higher versions: canary \(3\)\. .*move or remove these labels first"),
        (lambda base: (set_pin(base, 2), set_label(base, "canary", 3)),
         "label canary cannot name version 3 while version 2 is pinned: .*`unpin` first, or pin a higher version"),
        (lambda base: ((base / "2" / "saved_model.pb").write_text("2"), set_pin(base, 2)), "2 is damaged: saved_model.pb has 1 bytes"),
        (lambda base: set_pin(base / "none", 2), "none does not exist: give the folder that holds the version folders"),
    ],
)  # fmt: skip
def test_impossible_labels_and_pins_are_refused(base, do, message):
    with pytest.raises(UserError, match=message):
        do(base)


@pytest.mark.parametrize(
    ("content", "place"),
    [("{", "the file: Invalid JSON"), ('{"highest": 3, "label": {}}', "label: Extra inputs"), ('{"highest": -1}', "highest: Input should be"),
     ('{"labels": {"a b": 1}}', "labels.a b.*: String should match"), ('{"pin": "two"}', "pin: Input should be")],
)  # fmt: skip
def test_a_register_changed_by_hand_is_refused(base, content, place):
    (base / "versions.json").write_text(content)
    with pytest.raises(UserError, match=rf"versions.json is not readable: {place}.*; it was changed by hand .*\{{\"highest\": N\}}"):
        read_register(base)
    with pytest.raises(UserError, match="versions.json is not readable"):
        published(base)
    assert list(find_versions(base)) == [1, 2, 3]


def test_a_register_that_cannot_be_read_is_told(base):
    (base / "versions.json").unlink()
    (base / "versions.json").mkdir()
    with pytest.raises(UserError, match=r"versions.json cannot be read \(Is a directory\): it holds labels and pin, so it must be"):
        read_register(base)


def test_a_file_system_without_locks_is_refused(base, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"\.lock cannot be locked \(No locks available\): put the model base path on a file system"):
        set_pin(base, 1)


def test_who_has_to_wait_is_told_so(base, capsys):
    entered = threading.Event()

    def pin():
        entered.set()
        set_pin(base, 1)

    with locked(base):
        waiting = threading.Thread(target=pin)
        waiting.start()
        assert entered.wait(30)
        for _ in range(600):
            if said := capsys.readouterr().err:
                break
            time.sleep(0.05)
        assert said == f"waiting: another process is changing {base}\n"
        assert read_register(base).pin is None
    waiting.join(30)
    assert read_register(base).pin == 1


# The commands.


def test_the_list_says_what_each_version_is_for(base, said):
    (base / "2026").mkdir()
    set_label(base, "canary", 3)
    said("rollback", base)
    set_label(base, "stable", 1)
    set_label(base, "old", 1)
    code, out, _ = said("list", base)
    lines = [line.split("MB")[1].strip() for line in out.splitlines()]
    assert (code, lines) == (0, ["to answer requests, copy of 3", "no saved_model.pb: not exported here", "canary", "", "old, stable"])

    subprocess.run(["rm", "-r", base / "1"], check=True)
    _, out, _ = said("list", base)
    assert out.splitlines()[-2:] == ["label stable names version 1, which is gone", "label old names version 1, which is gone"]
    _, out, _ = said("list", base, "--json")
    listed = json.loads(out)
    assert (listed["highest_ever"], listed["gone"]) == (2027, {"label stable": 1, "label old": 1})
    assert [(one["version"], one["serves"], one["labels"], one["copy_of"], one["has_saved_model"]) for one in listed["versions"]] == [
        (2027, True, [], 3, True), (2026, False, [], None, False), (3, False, ["canary"], None, True), (2, False, [], None, True)]  # fmt: skip


def test_an_empty_base_path_is_said_to_be_empty(tmp_path, said):
    assert said("list", tmp_path) == (0, f"{tmp_path} holds no version\n", "")


def test_the_commands_say_what_they_have_done(base, said):
    for arguments, text in (
        (("rollback", base), "version 4 has the content of version 2 and is the highest now, before version 3"),
        (("label", base, "canary", 4), "label canary names version 4"),
        (("rollback", base, "--to", 3), "version 5 has the content of version 3 and is the highest now, before version 4; moved to it: canary"),
        (("label", base, "canary", 2), "label canary names version 2, before it named version 5"),
        (("pin", base, 4), "version 4 is pinned"),
        (("pin", base, 3), "version 3 is pinned, instead of version 4"),
        (("remove", base, 4), "removed 4; kept 1, 2, 3, 5"),
        (("keep", base, 1), "removed 1; kept 2, 3, 5"),
        (("keep", base, 1), "removed none; kept 2, 3, 5"),
        (("unpin", base), "version 3 is no longer pinned: the highest version answers"),
        (("label", base, "canary", "--remove"), "label canary is gone; it named version 2"),
    ):
        assert said(*arguments) == (0, f"{text}\n", "")


def test_the_commands_speak_json(base, said):
    for arguments, result in (
        (("rollback", base), {"version": 4, "copy_of": 2, "replaced": 3, "moved_labels": []}),
        (("label", base, "canary", 4), {"label": "canary", "version": 4, "before": None}),
        (("label", base, "canary", "--remove"), {"label": "canary", "version": None, "before": 4}),
        (("pin", base, 4), {"pin": 4, "before": None}),
        (("unpin", base), {"pin": None, "before": 4}),
        (("remove", base, 1), {"removed": [1], "kept": [2, 3, 4]}),
        (("keep", base, 2), {"removed": [2], "kept": [3, 4]}),
    ):
        code, out, _ = said(*arguments, "--json")
        assert (code, json.loads(out)) == (0, result)


def test_refusals_have_an_exit_code_and_change_nothing(base, said):
    before = (base / "versions.json").read_text()
    for arguments, message in (
        (("remove", base, 3), "error: version 3 stays, because it answers requests"),
        (("keep", base, 0), "error: cannot keep 0 versions"),
        (("list", base / "none"), "none does not exist: give the folder"),
        (("list", base / "3"), "is a version itself"),
        (("rollback", base / "versions.json"), "versions.json is a file"),
        (("list", base.parent), f"holds no version itself, but a folder in it does: did you mean {base}?"),
    ):
        code, out, err = said(*arguments)
        assert (code, out) == (EXIT_USER_ERROR, "") and message in err
    assert ((base / "versions.json").read_text(), list(find_versions(base))) == (before, [1, 2, 3])


def test_what_was_meant_is_told_of_folders_without_versions_only(base, tmp_path):
    assert meant_instead(tmp_path) == f"did you mean {base}?"
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    write(tmp_path / ".hidden" / "1")
    (tmp_path / "logs" / "20261122").mkdir(parents=True)
    (tmp_path / "zoo").symlink_to(base)
    assert meant_instead(tmp_path) == f"did you mean {base} or {tmp_path / 'zoo'}?"
    assert [meant_instead(path) for path in (base, tmp_path / "logs", tmp_path / "none", base / "versions.json")] == [""] * 4


@pytest.mark.parametrize(("arguments", "message"), [
    (["label", "x", "canary"], "serving.versions label: error: give either the VERSION that gets the label, or --remove"),
    (["label", "x", "canary", "3", "--remove"], "label: error: give either the VERSION that gets the label, or --remove"),
    (["pin", "x", "-1"], "expected the number of a version, such as 7, received '-1'"),
    (["pin", "x", "seven"], "expected the number of a version, such as 7, received 'seven'"),
    ([], "the following arguments are required: COMMAND"),
])  # fmt: skip
def test_flags_that_make_no_sense_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", ["list", "rollback", "pin", "unpin", "label", "keep", "remove", "model-config"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and "--json" in out and "model base path: the folder with the version folders" in out


def test_the_command_runs_without_tensorflow(base):
    code = f"import sys, runpy\nsys.argv = ['versions', 'list', {str(base)!r}, '--json']\ntry:\n    runpy.run_module('serving.versions', "
    code += "run_name='__main__')\nexcept SystemExit as stop:\n    print(stop.code, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    listed, end = done.stdout.splitlines()
    assert [one["version"] for one in json.loads(listed)["versions"]] == [3, 2, 1]
    assert end == "0 False"


# TensorFlow Serving's file.


def parsed(text):
    [model] = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    return model


def test_without_labels_and_pin_tensorflow_serving_follows_the_highest(base):
    model = parsed(model_config(base, "clicks", "/models/clicks"))
    assert (model.name, model.base_path, model.model_platform) == ("clicks", "/models/clicks", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1 and not model.version_labels


def test_labels_are_written_with_their_versions_and_the_highest(base):
    set_label(base, "stable", 1)
    text = model_config(base, "clicks", "/models/clicks")
    assert "--allow_version_labels_for_unavailable_models=true" in text
    assert list(parsed(text).model_version_policy.specific.versions) == [1, 3]
    assert dict(parsed(text).version_labels) == {"stable": 1}

    everything = parsed(model_config(base, "clicks", "/models/clicks", load_all=True))
    assert everything.model_version_policy.WhichOneof("policy_choice") == "all" and dict(everything.version_labels) == {"stable": 1}


def test_a_pin_is_written_without_the_highest(base):
    set_pin(base, 2)
    set_label(base, "old", 1)
    assert list(parsed(model_config(base, "clicks", "/m")).model_version_policy.specific.versions) == [1, 2]
    with pytest.raises(UserError, match="version 2 is pinned: with all versions loaded, TensorFlow Serving would answer from the highest"):
        model_config(base, "clicks", "/m", load_all=True)


def test_a_file_that_tensorflow_serving_could_not_follow_is_not_written(base, tmp_path):
    with pytest.raises(UserError, match="holds no version, and TensorFlow Serving would wait for one"):
        model_config(tmp_path, "clicks", "/m")
    set_label(base, "stable", 1)
    subprocess.run(["rm", "-r", base / "1"], check=True)
    with pytest.raises(UserError, match="label stable names version 1, which is not under .* any more: move or remove it first"):
        model_config(base, "clicks", "/m")


def test_the_file_is_replaced_as_a_whole(base, said, tmp_path):
    output = tmp_path / "etc" / "models.config"
    arguments = ("model-config", base, "--name", "clicks", "--output", output)
    assert said(*arguments) == (0, f"wrote {output}\n", "")
    assert parsed(output.read_text()).base_path == str(base)
    assert [path.name for path in output.parent.iterdir()] == ["models.config"]
    _, out, _ = said(*arguments[:4], "--served_path", "/models/clicks")
    assert parsed(out).base_path == "/models/clicks"
    _, out, _ = said(*arguments, "--json")
    assert json.loads(out) == {"model_config": output.read_text(), "output": str(output)}
