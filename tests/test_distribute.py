"""Training on several devices and machines, with local processes in their place."""

import json

import pytest
import tensorflow as tf

from preprocessing.errors import UserError
from trainer.distribute import Cluster, ClusterLost, Distribution, connect, naming_lost_tasks

TWO_WORKERS = {"worker": ["a:1", "b:1"]}
SERVERS = {"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": ["d:1"]}


def cluster_of(monkeypatch, tasks, role, index=0) -> Cluster:
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": tasks, "task": {"type": role, "index": index}}))
    return Cluster.from_environment()


# TF_CONFIG.


def test_without_a_cluster_training_is_local(monkeypatch):
    for text in (None, "", '{"cluster": {}}'):
        monkeypatch.delenv("TF_CONFIG", raising=False)
        if text is not None:
            monkeypatch.setenv("TF_CONFIG", text)
        assert Cluster.from_environment() is None
    assert type(connect(None, None, table_rows=8)) is Distribution


@pytest.mark.parametrize(("tasks", "role", "index", "is_chief", "only_serves"), [
    (TWO_WORKERS, "worker", 0, True, False),
    (TWO_WORKERS, "worker", 1, False, False),
    ({"chief": ["c:1"], **TWO_WORKERS}, "chief", 0, True, False),
    ({"chief": ["c:1"], **TWO_WORKERS}, "worker", 0, False, False),
    (SERVERS, "chief", 0, True, False),
    (SERVERS, "worker", 0, False, True),
    (SERVERS, "ps", 0, False, True),
])
def test_what_each_task_does(monkeypatch, tasks, role, index, is_chief, only_serves):
    cluster = cluster_of(monkeypatch, tasks, role, index)
    assert (cluster.is_chief, cluster.only_serves) == (is_chief, only_serves)


def test_a_cluster_names_itself(monkeypatch):
    assert str(cluster_of(monkeypatch, SERVERS, "worker", 1)) == "worker 1 of a cluster of 1 chief, 2 workers, 1 ps"


@pytest.mark.parametrize(("text", "problem"), [
    ("{", "it is not JSON"),
    ("[]", "expected an object, received []"),
    ('{"cluster": ["a:1"]}', "`cluster` must map roles to addresses"),
    ('{"cluster": {"evaluator": ["a:1"]}}', "unknown role 'evaluator' (the chief evaluates"),
    ('{"cluster": {"worker": []}}', "worker must be a list of addresses, received []"),
    ('{"cluster": {"worker": ["a"]}}', "worker address 'a' is not HOST:PORT"),
    ('{"cluster": {"worker": ["a:1", "a:1"]}}', "address a:1 is given to two tasks"),
    ('{"cluster": {"chief": ["a:1", "b:1"]}}', "there can be only one chief"),
    ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "parameter servers need a chief"),
    ('{"cluster": {"worker": ["a:1"]}}', "this task's type is None, and `cluster` has worker"),
    ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index is 1, and worker has 1 tasks"),
    ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}', "index is '0'"),
])
def test_a_wrong_tf_config_is_explained(monkeypatch, text, problem):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="environment variable TF_CONFIG") as error:
        Cluster.from_environment()
    assert problem in str(error.value) and '"task": {"type": "worker", "index": 0}' in str(error.value)


# Devices of one machine.


@pytest.mark.parametrize("devices", ["two", "gpus:", "gpus:0", "cpus", "cpus:x", "tpus:1"])
def test_devices_that_are_none_are_refused(devices):
    with pytest.raises(UserError, match="expected gpus, gpus:N, or cpus:N"):
        connect(None, devices, table_rows=8)


def test_more_gpus_than_there_are_are_refused():
    found = len(tf.config.list_physical_devices("GPU"))
    with pytest.raises(UserError, match=f"TensorFlow finds {found} GPUs"):
        connect(None, f"gpus:{found + 1}", table_rows=8)


def test_devices_are_for_one_machine(monkeypatch):
    with pytest.raises(UserError, match="--devices gpus is for one machine, and TF_CONFIG is set"):
        connect(cluster_of(monkeypatch, TWO_WORKERS, "worker"), "gpus", table_rows=8)


# A task that is gone.


def test_a_lost_task_is_one_sentence_and_a_temporary_failure():
    for error in (tf.errors.UnavailableError(None, None, "Socket closed\nmore"),
                  tf.errors.InternalError(None, None, "Detected at node x\nCollective ops is aborted by: y")):
        with pytest.raises(ClusterLost, match="lost contact with another task .*start all tasks again") as caught, naming_lost_tasks():
            raise error
        assert caught.value.exit_code == 75 and "\n" not in str(caught.value)


def test_other_errors_of_tensorflow_stay_what_they_are():
    with pytest.raises(tf.errors.InternalError), naming_lost_tasks():
        raise tf.errors.InternalError(None, None, "a defect")
