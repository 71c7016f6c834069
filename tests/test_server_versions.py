"""What a server loads and when: swaps, failures, policies, labels and pins, reloads, and what is given back."""

import logging
import re
import shutil
import weakref

import grpc
import pytest
import tensorflow as tf
import tiny_saved_models as tiny
from running_server import SECONDS, Status, copy_in, refusal, running, served
from tensorflow_serving.apis import model_management_pb2
from tensorflow_serving.apis.prediction_log_pb2 import ClassifyLog, PredictionLog, PredictLog, RegressLog, SessionRunLog

from preprocessing.errors import UserError
from serving.server.command import say_ready
from serving.server.config import read_model_config
from serving.server.config_file import ModelConfigFile
from serving.server.example_inference import REGRESS_METHOD
from serving.server.health import SERVING
from serving.server.loading import Loader
from serving.server.metrics import ServerMetrics
from serving.server.model_server import Listening, wait_for_first_versions
from serving.server.models import REMEMBERED_VERSIONS, ServedVersions
from serving.server.served_models import ServedModels
from serving.server.status import StatusError
from serving.versions.checksums import write_checksums
from serving.versions.folders import SAVED_MODEL_FILE
from serving.versions.labels import REGISTER_FILE
from serving.warmup import WARMUP_FILE

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("saved") / "version")


@pytest.fixture
def base_path(saved, tmp_path):
    """A base path with the versions 1, 2 and 3."""
    base_path = tmp_path / "base"
    base_path.mkdir()
    for version in (1, 2, 3):
        copy_in(saved, base_path, version)
    return base_path


def polled(base_path, **changes):
    versions = ServedVersions(served(base_path, **changes), Loader(), ServerMetrics())
    versions.poll()
    return versions


def states(versions):
    return {version: status.state for version, status in versions.statuses().items()}


def asked(**spec):
    return tiny.predict_request(**spec).model_spec


# Which versions.


@pytest.mark.parametrize(
    ("policy", "live"),
    [
        ({}, [3]),
        ({"latest": 2, "by_operator": False}, [2, 3]),
        ({"latest": 0, "by_operator": False}, [1, 2, 3]),
        ({"specific": (1, 2), "by_operator": False}, [1, 2]),
        ({"specific": (2, 9), "by_operator": False}, [2]),
    ],
)
def test_a_policy_says_what_is_loaded(base_path, policy, live):
    assert polled(base_path, **policy).live_versions == live


def test_a_model_rolls_back_and_unloads(base_path):
    versions = polled(base_path)
    for version in (3, 2):
        shutil.rmtree(base_path / str(version))
        versions.poll()
        assert versions.live_version == version - 1
    shutil.rmtree(base_path / "1")
    versions.poll()
    assert versions.live_version is None and set(states(versions).values()) == {Status.END}
    with pytest.raises(StatusError, match=r"Latest\(tiny\)"):
        versions.servable(asked())


def test_a_base_path_that_goes_away_unloads_nothing(base_path, caplog):
    versions = polled(base_path)
    base_path.rename(base_path.with_name("elsewhere"))
    for _ in range(3):
        versions.poll()
    assert versions.live_versions == [3]
    assert caplog.text.count("base is gone; what is live stays so") == 1
    base_path.with_name("elsewhere").rename(base_path)
    versions.poll()
    assert versions.live_versions == [3]


def register(base_path, text):
    (base_path / REGISTER_FILE).write_text(text)


def test_labels_and_pin_of_the_operator_are_followed(base_path):
    versions = polled(base_path)
    register(base_path, '{"labels": {"stable": 1, "canary": 2}, "pin": 2}')
    versions.poll()
    assert versions.live_versions == [1, 2]
    assert [versions.servable(asked(label=label)).version for label in ("stable", "canary", "")] == [1, 2, 2]
    assert versions.servable(asked(version=1)).version == 1
    with pytest.raises(StatusError, match=r"Specific\(tiny, 3\)"):
        versions.servable(asked(version=3))
    register(base_path, "{}")
    versions.poll()
    assert versions.live_versions == [3]
    with pytest.raises(StatusError, match="Unrecognized servable version label: stable"):
        versions.servable(asked(label="stable"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "labels and pin stay as they were"), ('{"pin": 9}', "lacks the pinned version 9; what is live stays so")],
)
def test_a_register_that_makes_no_sense_changes_nothing(base_path, caplog, text, complaint):
    register(base_path, '{"labels": {"stable": 2}, "pin": 2}')
    versions = polled(base_path)
    register(base_path, text)
    versions.poll()
    assert versions.live_versions == [2] and complaint in caplog.text


def test_a_pinned_version_whose_folder_is_moved_away_answers_on(base_path, saved, caplog):
    register(base_path, '{"labels": {"stable": 1}, "pin": 2}')
    versions = polled(base_path)
    (base_path / "2").rename(base_path / ".away")
    copy_in(saved, base_path, 4)
    for _ in range(2):
        versions.poll()
    assert versions.live_versions == [1, 2]
    assert [versions.servable(asked(label=label)).version for label in ("stable", "")] == [1, 2]
    assert caplog.text.count("lacks the pinned version 2; what is live stays so") == 1
    register(base_path, '{"labels": {"stable": 3}, "pin": 2}')
    versions.poll()
    assert versions.live_versions == [1, 2, 3], "what is wanted besides is loaded all the same"
    (base_path / ".away").rename(base_path / "2")
    versions.poll()
    assert versions.live_versions == [2, 3], "the pinned folder is back"
    register(base_path, "{}")
    versions.poll()
    assert versions.live_versions == [4]


def test_a_version_that_fails_leaves_unlabelled_calls_where_they_were(base_path, saved):
    register(base_path, '{"labels": {"stable": 1}}')
    versions = polled(base_path)
    (base_path / "4").mkdir()
    versions.poll()
    assert versions.live_versions == [1, 3], "not those of the label"
    copy_in(saved, base_path, 5)
    versions.poll()
    assert versions.live_versions == [1, 5]


def test_a_register_that_cannot_be_read_changes_nothing(base_path, caplog):
    register(base_path, '{"labels": {"stable": 1}, "pin": 2}')
    versions = polled(base_path)
    (base_path / REGISTER_FILE).rename(base_path / "before.json")
    (base_path / REGISTER_FILE).mkdir()
    for _ in range(2):
        versions.poll()
    assert versions.live_versions == [1, 2] and versions.servable(asked(label="stable")).version == 1
    assert caplog.text.count("labels and pin stay as they were: ") == 1 and "versions.json cannot be read (Is a directory)" in caplog.text
    shutil.rmtree(base_path / "1")
    versions.poll()
    assert versions.live_versions == [2], "the versions are still looked at"


def test_a_model_that_cannot_be_looked_at_keeps_no_other_from_it(base_path, saved, monkeypatch):
    models = models_of(served(base_path, "bad"), served(base_path, "worse"), served(base_path, "good"))
    models.poll()
    copy_in(saved, base_path, 4)
    for name in ("bad", "worse"):
        monkeypatch.setattr(models.models[name], "poll", lambda: 1 / 0)
    with pytest.raises(ExceptionGroup, match="looking for versions") as caught:
        models.poll()
    assert [error.__notes__ for error in caught.value.exceptions] == [[f"while looking for versions of model {name}"] for name in ("bad", "worse")]
    assert {name: model.live_version for name, model in models.models.items()} == {"bad": 3, "worse": 3, "good": 4}


def test_a_label_whose_version_is_gone_is_not_found(base_path):
    register(base_path, '{"labels": {"stable": 7}}')
    with pytest.raises(StatusError, match=r"Specific\(tiny, 7\)") as caught:
        polled(base_path).servable(asked(label="stable"))
    assert caught.value.code == Code.NOT_FOUND


def test_a_configured_policy_ignores_the_register(base_path):
    register(base_path, '{"labels": {"stable": 1}, "pin": 1}')
    versions = polled(base_path, latest=1, by_operator=False, labels=(("canary", 3),))
    assert versions.live_versions == [3] and versions.servable(asked(label="canary")).version == 3


# Failures.


def _remove_graph(folder):
    (folder / SAVED_MODEL_FILE).unlink()


def _spoil_graph(folder):
    (folder / SAVED_MODEL_FILE).write_bytes(b"\xff" * 100)


def _cut_graph(folder):
    content = (folder / SAVED_MODEL_FILE).read_bytes()
    (folder / SAVED_MODEL_FILE).write_bytes(content[: len(content) // 2])


def _empty_graph(folder):
    (folder / SAVED_MODEL_FILE).write_bytes(b"")


def _remove_variables(folder):
    shutil.rmtree(folder / "variables")


def _cut_variables(folder):
    [data] = (folder / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:1])


def _warm_up(*records):
    return lambda folder: tiny.write_warmup(folder, *records)


def _spoil_warm_up(folder):
    (folder / WARMUP_FILE).write_bytes(b"garbage" * 10)


def _predict_log(**changes):
    return PredictionLog(predict_log=PredictLog(request=tiny.predict_request(**changes)))


def _classify_log(xs=(1.0, 2.0)):
    return PredictionLog(classify_log=ClassifyLog(request=tiny.classify_request(xs)))


def _without_x():
    record = _predict_log()
    del record.predict_log.request.inputs["x"]
    return record


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (_remove_graph, Code.NOT_FOUND, "has no saved_model.pb"),
        (_spoil_graph, Code.DATA_LOSS, "saved_model.pb cannot be read"),
        (_cut_graph, Code.DATA_LOSS, "saved_model.pb cannot be read"),
        (_empty_graph, Code.NOT_FOUND, "no graph with the tag `serve`"),
        (_remove_variables, None, "does not load"),
        (_cut_variables, None, "does not load"),
        (_spoil_warm_up, Code.INVALID_ARGUMENT, "warm-up: .* is not an uncompressed TFRecord of PredictionLog"),
        (_warm_up(_predict_log(signature="rank")), Code.FAILED_PRECONDITION, 'warm-up request 0: Serving signature key "rank"'),
        (_warm_up(_predict_log(), _without_x()), Code.INVALID_ARGUMENT, "warm-up request 1: input size does not match signature"),
        (_warm_up(PredictionLog(session_run_log=SessionRunLog())), Code.UNIMPLEMENTED, "unsupported log_type session_run_log"),
        (_warm_up(_classify_log(())), Code.INVALID_ARGUMENT, "warm-up request 0: Input is empty."),
    ],
)  # fmt: skip
def test_a_broken_version_leaves_the_old_one_answering_and_says_why(saved, tmp_path, spoil, code, message):
    copy_in(saved, tmp_path, 1)
    versions = polled(tmp_path)
    broken = shutil.copytree(saved, tmp_path / ".spoilt")
    spoil(broken)
    broken.rename(tmp_path / "2")
    versions.poll()
    status = versions.statuses()[2]
    assert versions.live_versions == [1] and status.state == Status.END
    assert code in (None, status.error.code)
    with pytest.raises(StatusError, match=message):
        raise status.error


def test_a_version_whose_files_have_changed_does_not_load(saved, tmp_path):
    version = shutil.copytree(saved, tmp_path / "1")
    write_checksums(version)
    assert polled(tmp_path).live_versions == [1]
    [data] = (version / "variables").glob("variables.data-*")
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    error = polled(tmp_path).failure()[1]
    assert error.code == Code.DATA_LOSS and "does not have the checksum it was published with" in str(error)


def test_warm_up_of_every_kind_is_run(saved, tmp_path):
    version = copy_in(saved, tmp_path, 1)
    multi = PredictionLog()
    task = multi.multi_inference_log.request.tasks.add(method_name=REGRESS_METHOD)
    tiny.fill_spec(task.model_spec, "any", "regress")
    multi.multi_inference_log.request.input.example_list.examples.append(tiny.example(1.0))
    tiny.write_warmup(
        version,
        _predict_log(),
        _classify_log(),
        PredictionLog(regress_log=RegressLog(request=tiny.regress_request())),
        multi,
    )
    assert polled(tmp_path).live_versions == [1]


def test_a_failed_version_is_left_alone_until_it_is_gone(saved, tmp_path):
    copy_in(saved, tmp_path, 1)
    versions = polled(tmp_path)
    (tmp_path / "2").mkdir()
    versions.poll()
    shutil.copytree(saved, tmp_path / "2", dirs_exist_ok=True)
    versions.poll()
    assert versions.live_versions == [1], "completing it in place does not revive it"
    copy_in(saved, tmp_path, 3)
    versions.poll()
    assert versions.live_versions == [3], "a newer one goes live all the same"
    shutil.rmtree(tmp_path / "3")
    shutil.rmtree(tmp_path / "2")
    versions.poll()
    assert versions.live_versions == [1] and versions.failure() is None


def test_a_version_that_fails_takes_no_other_down_whatever_the_policy(saved, tmp_path):
    for version in (1, 2):
        copy_in(saved, tmp_path, version)
    versions = polled(tmp_path, latest=2, by_operator=False)
    (tmp_path / "3").mkdir()
    versions.poll()
    assert versions.live_versions == [2], "of the two highest one has failed; the third is not wanted"


# What a swap gives back.


def test_swaps_give_everything_back(saved, tmp_path):
    copy_in(saved, tmp_path, 1)
    versions = polled(tmp_path)
    sessions = []
    for version in range(2, 8):
        servable = versions.servable(asked())
        sessions.append((weakref.ref(servable), servable.signatures["predict"]._call._session))
        del servable
        copy_in(saved, tmp_path, version)
        versions.poll()
    assert [reference() for reference, _ in sessions] == [None] * 6
    assert all(session._closed for _, session in sessions)


def test_a_call_in_progress_keeps_its_version_alive(saved, tmp_path):
    copy_in(saved, tmp_path, 1)
    versions = polled(tmp_path)
    servable = versions.servable(asked())
    copy_in(saved, tmp_path, 2)
    versions.poll()
    assert versions.live_versions == [2]
    assert servable.predict(tiny.predict_request()).model_spec.version.value == 1


def test_only_so_many_ended_versions_are_remembered(tmp_path):
    versions = ServedVersions(served(tmp_path), Loader(), ServerMetrics())
    for version in range(1, REMEMBERED_VERSIONS + 11):
        (tmp_path / str(version)).mkdir()
        versions.poll()
        shutil.rmtree(tmp_path / str(version))
    assert len(versions.statuses()) == REMEMBERED_VERSIONS and max(versions.statuses()) == REMEMBERED_VERSIONS + 10


# Start.


def models_of(*configs):
    return ServedModels(configs, Loader(), ServerMetrics())


def test_a_server_does_not_start_on_a_version_that_does_not_load(tmp_path):
    (tmp_path / "4").mkdir()
    configs = [served(tmp_path)]
    with pytest.raises(
        UserError, match=r"model tiny version 4 failed to load \(NOT_FOUND\): .* has no saved_model.pb; mend that, or serve .* rollback "
    ):
        wait_for_first_versions(models_of(*configs), configs, lambda: True)


@pytest.mark.parametrize(
    ("register_text", "config"), [('{"labels": {"stable": 2}}', {}), ('{"labels": {"stable": 2}, "pin": 3}', {}), ("{}", {"latest": 2, "by_operator": False})]
)
def test_a_server_starts_on_what_loads_and_says_what_does_not(base_path, register_text, config, caplog, capsys):
    register(base_path, register_text)
    _remove_graph(base_path / "3")
    with running(served(base_path, **config)) as asked:
        assert asked.prediction.Predict(tiny.predict_request(), timeout=SECONDS).model_spec.version.value == 2
        assert asked.health("tiny") == asked.health() == SERVING
        states = {entry["version"]: (entry["state"], entry["status"]["error_code"]) for entry in
                  asked.get("/v1/models/tiny")[1]["model_version_status"]}  # fmt: skip
        assert states == {"2": ("AVAILABLE", "OK"), "3": ("END", "NOT_FOUND")}
        metrics = asked.get("/monitoring/prometheus/metrics")[1]
        assert 'dgenctr_serving_live_version{model_name="tiny"} 2\n' in metrics
        assert 'dgenctr_serving_failed_version{model_name="tiny"} 3\n' in metrics
        say_ready(asked.server, asked.models, Listening())
    assert re.match(
        r"serving tiny version 2 on 127\.0\.0\.1:\d+ \(NOT version 3, which failed to load: NOT_FOUND: .* has no saved_model.pb\)\n",
        capsys.readouterr().out,
    )
    assert re.search("tiny version 3 failed to load: NOT_FOUND: .*; version 2 answers calls that name no version", caplog.text)


def test_a_failed_version_is_named_only_while_it_should_answer(saved, base_path):
    _remove_graph(base_path / "3")
    register(base_path, '{"labels": {"stable": 2}}')
    versions = polled(base_path)
    assert versions.failed_above_live()[0] == 3
    register(base_path, '{"pin": 2}')
    versions.poll()
    assert versions.failed_above_live() is None, "a pin says that 2 answers"
    register(base_path, "{}")
    versions.poll()
    assert versions.failed_above_live()[0] == 3
    copy_in(saved, base_path, 4)
    versions.poll()
    assert (versions.live_version, versions.failed_above_live()) == (4, None)


def test_a_server_does_not_start_on_a_label_of_no_version(base_path):
    configs = [served(base_path, labels=(("stable", 9),), by_operator=False)]
    with pytest.raises(
        UserError, match="Request to assign label to version 9 of model tiny, .* let version_labels name versions that exist"
    ):
        wait_for_first_versions(models_of(*configs), configs, lambda: True)


def test_a_server_that_waits_at_the_parent_of_models_says_so(base_path, caplog):
    configs = [served(base_path.parent)]
    assert not wait_for_first_versions(models_of(*configs), configs, lambda: True)
    assert f"waiting for a version to be published there (did you mean {base_path}?)" in caplog.text


def test_a_server_waits_for_every_model(saved, base_path, tmp_path, caplog):
    empty = tmp_path / "empty"
    empty.mkdir()
    configs = [served(base_path), served(empty, "other")]
    models = models_of(*configs)
    waits = iter([lambda: copy_in(saved, empty, 1)])
    assert wait_for_first_versions(models, configs, lambda: next(waits)() is None)
    assert f"{empty} holds no version folder; waiting for a version to be published there" in caplog.text
    assert [model.live_version for model in models.models.values()] == [3, 1]
    assert not wait_for_first_versions(models_of(served(tmp_path / "none")), (), lambda: True)


# Reload.


@pytest.fixture
def server(base_path):
    with running(served(base_path)) as asked:
        yield asked


def reload_request(*models):
    request = model_management_pb2.ReloadConfigRequest()
    for name, base_path, specific, labels in models:
        config = request.config.model_config_list.config.add(name=name, base_path=str(base_path), model_platform="tensorflow")
        config.model_version_policy.specific.versions.extend(specific)
        config.version_labels.update(labels)
    return request


def test_a_reload_changes_versions_labels_and_models(server, base_path, saved):
    call = server.model.HandleReloadConfigRequest
    other = base_path.with_name("other")
    other.mkdir()
    copy_in(saved, other, 8)
    call(reload_request(("tiny", base_path, [1, 3], {})), timeout=SECONDS)
    assert server.models.models["tiny"].live_versions == [1, 3]
    call(reload_request(("tiny", base_path, [1, 3], {"stable": 1}), ("second", other, [8], {})), timeout=SECONDS)
    assert server.prediction.Predict(tiny.predict_request(label="stable"), timeout=SECONDS).model_spec.version.value == 1
    assert server.prediction.Predict(tiny.predict_request(model="second"), timeout=SECONDS).model_spec.version.value == 8
    call(reload_request(("second", other, [8], {})), timeout=SECONDS)
    assert refusal(server.prediction.Predict, tiny.predict_request())[0] == Code.NOT_FOUND


def _empty(base_path):
    (base_path.with_name("empty")).mkdir()
    return base_path.with_name("empty")


def _parent_of_models(base_path):
    (base_path.with_name("several") / "clicks" / "1").mkdir(parents=True)
    (base_path.with_name("several") / "clicks" / "1" / SAVED_MODEL_FILE).touch()
    return base_path.with_name("several")


@pytest.mark.parametrize(
    ("models_of", "code", "message"),
    [
        (
            lambda base: [("tiny", base, [1, 3], {"stable": 1})],
            Code.FAILED_PRECONDITION,
            "label to version 1 of model tiny, which is not",
        ),
        (
            lambda base: [("tiny", base, [3], {}), ("new", base, [3], {"stable": 3})],
            Code.FAILED_PRECONDITION,
            "version 3 of model new",
        ),
        (
            lambda base: [("tiny", base, [3], {}), ("tiny", base, [1], {})],
            Code.INVALID_ARGUMENT,
            "has several models of one name",
        ),
        (lambda base: [("tiny", "", [3], {})], Code.INVALID_ARGUMENT, "needs `name` and `base_path`"),
        (
            lambda base: [("new", base.parent.parent, [3], {})],
            Code.PERMISSION_DENIED,
            "is not beside one that this server was started with",
        ),
        (lambda base: [("new", base / ".." / ".." / "base", [3], {})], Code.PERMISSION_DENIED, "is not beside one"),
        (lambda base: [("new", _empty(base), [3], {})], Code.UNAVAILABLE, "model new has no version under"),
        (lambda base: [("new", _parent_of_models(base), [3], {})], Code.UNAVAILABLE, "several yet; did you mean"),
    ],
)
def test_a_reload_that_cannot_be_changes_nothing(server, base_path, models_of, code, message):
    received, details = refusal(server.model.HandleReloadConfigRequest, reload_request(*models_of(base_path)))
    assert received == code and message in details
    assert server.prediction.Predict(tiny.predict_request(), timeout=SECONDS).model_spec.version.value == 3
    assert list(server.models.models) == ["tiny"]


# The configuration file of a running server.


@pytest.fixture
def followed(base_path):
    """Writes the configuration file and has the server look at it; the models by name."""
    path = base_path.with_name("models.config")

    def configured(*blocks):
        path.write_text(f"model_config_list {{ {' '.join(f'config {{ {block} }}' for block in blocks)} }}")

    configured(block(base_path))
    configs = read_model_config(path)
    models = models_of(*configs)
    assert wait_for_first_versions(models, configs, lambda: True)
    file = ModelConfigFile(path, configs, models)

    def follow(*blocks, text=None):
        configured(*blocks) if text is None else path.write_text(text)
        file.look()
        return models.models

    return follow


def block(base_path, name="tiny", specific=(), labels=()):
    policy = f"model_version_policy {{ specific {{ versions: {list(specific)} }} }}" if specific else ""
    named = " ".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels)
    return f'name: "{name}" base_path: "{base_path}" {policy} {named}'


def test_a_changed_configuration_file_is_followed(followed, base_path, saved, tmp_path, caplog):
    caplog.set_level(logging.INFO, "serving.server")
    other = tmp_path / "elsewhere" / "deeper"
    other.mkdir(parents=True)
    copy_in(saved, other, 8)
    before = followed(block(base_path))["tiny"]
    assert before.live_versions == [3] and "has changed" not in caplog.text
    models = followed(block(base_path, specific=[1, 2], labels=[("stable", 1)]), block(other, "second"))
    assert {name: model.live_versions for name, model in models.items()} == {"tiny": [1, 2], "second": [8]}
    assert models["tiny"] is before and before.servable(asked(label="stable")).version == 1
    assert "models.config has changed; now serving tiny, second" in caplog.text
    assert list(followed(block(other, "second"))) == ["second"] and before.live_versions == []


@pytest.mark.parametrize(
    ("blocks_of", "text", "reason"),
    [
        (None, "model_config_list { config { name: ", "is not a model config file of TensorFlow Serving"),
        (None, "", "has no model: expected model_config_list"),
        (lambda base: [block(base, specific=[1, 2], labels=[("stable", 9)])], None, "assign label to version 9 of model tiny, which is not"),
        (lambda base: [block(base, specific=[1, 2], labels=[("old", 3)])], None, "assign label to version 3 of model tiny, which is not"),
        (lambda base: [block(base, specific=[1]), block(base / "none", "new")], None, "model new has no version under"),
        (lambda base: [block(base, specific=[1]), block(base / "3", "new")], None, "is a version itself"),
    ],
)  # fmt: skip
def test_a_configuration_file_that_cannot_be_served_changes_nothing(followed, base_path, blocks_of, text, reason, caplog):
    blocks = blocks_of(base_path) if blocks_of else ()
    for _ in range(2):
        models = followed(*blocks, text=text)
    assert {name: model.live_versions for name, model in models.items()} == {"tiny": [3]}
    complaints = [record.getMessage() for record in caplog.records if "is not followed, the models stay" in record.getMessage()]
    assert len(complaints) == 1 and reason in complaints[0]
    assert followed(block(base_path, specific=[2]))["tiny"].live_versions == [2], "the next change is followed"


def test_a_configuration_file_is_followed_as_soon_as_what_it_names_is_there(followed, base_path, saved):
    blocks = block(base_path), block(base_path.with_name("later"), "later")
    assert list(followed(*blocks)) == ["tiny"]
    base_path.with_name("later").mkdir()
    copy_in(saved, base_path.with_name("later"), 1)
    assert list(followed(*blocks)) == ["tiny", "later"]


def test_several_models_are_served_side_by_side(base_path):
    with running([served(base_path), served(base_path, "other", latest=2, by_operator=False)]) as asked:
        for model in ("tiny", "other"):
            assert asked.prediction.Predict(tiny.predict_request(model=model), timeout=SECONDS).model_spec.name == model
        assert (
            asked.prediction.Predict(tiny.predict_request(model="other", version=2), timeout=SECONDS).model_spec.version.value
            == 2
        )
        assert tf.make_ndarray(asked.prediction.Predict(tiny.predict_request(), timeout=SECONDS).outputs["score"]).tolist() == [
            1.0,
            2.0,
        ]
