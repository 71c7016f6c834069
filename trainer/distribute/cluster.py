"""The cluster that TF_CONFIG names: which of its tasks this process is, and what is said when another one is gone."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from preprocessing.errors import UserError

TF_CONFIG = "TF_CONFIG"
ROLES = ("chief", "worker", "ps")
LOST_CONTACT = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class ClusterLost(UserError):
    """Another task of the cluster is gone; started again, the run continues from its last checkpoint."""

    exit_code = os.EX_TEMPFAIL


@dataclass(frozen=True)
class Cluster:
    """TF_CONFIG: the addresses of all tasks by role, and which of them this process is."""

    tasks: dict[str, list[str]]
    role: str
    index: int

    @classmethod
    def from_environment(cls) -> "Cluster | None":
        """Reads TF_CONFIG; None where it is not set or names no cluster.

        Raises:
          UserError: it cannot be understood, with what is wrong.
        """
        text = os.environ.get(TF_CONFIG, "").strip()
        if not text:
            return None
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise _wrong(f"it is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise _wrong(f"expected an object, received {text}")
        if not content.get("cluster"):
            return None
        tasks, task = _tasks(content["cluster"]), content.get("task") or {}
        if not isinstance(task, dict):
            raise _wrong(f"`task` must be an object with type and index, received {task!r}")
        role, index = task.get("type"), task.get("index")
        if not isinstance(role, str) or role not in tasks:
            raise _wrong(f"this task's type is {role!r}, and `cluster` has {', '.join(tasks)}")
        if not isinstance(index, int) or not 0 <= index < len(tasks[role]):
            raise _wrong(f"this task's index is {index!r}, and {role} has {len(tasks[role])} tasks, counted from 0")
        return cls(tasks, role, index)

    @property
    def has_servers(self) -> bool:
        return "ps" in self.tasks

    @property
    def workers(self) -> int:
        """How many tasks read rows: without parameter servers the chief, too."""
        return len(self.tasks.get("worker", [])) + (not self.has_servers) * len(self.tasks.get("chief", []))

    @property
    def is_chief(self) -> bool:
        return self.role == "chief" or ("chief" not in self.tasks and (self.role, self.index) == ("worker", 0))

    @property
    def only_serves(self) -> bool:
        """Whether this process does what a chief elsewhere tells it to."""
        return self.has_servers and self.role != "chief"

    def __str__(self) -> str:
        counts = ", ".join(f"{len(addresses)} {role}{'s' * (role == 'worker' and len(addresses) > 1)}"
                           for role, addresses in self.tasks.items())
        return f"{self.role} {self.index} of a cluster of {counts}"


def _wrong(reason: str) -> UserError:
    return UserError(
        f'environment variable {TF_CONFIG}: {reason}. Expected, for example, {{"cluster": {{"worker": ["host1:2222", '
        '"host2:2222"]}, "task": {"type": "worker", "index": 0}}, with the same cluster in every process; add "chief" and '
        f'"ps" lists for parameter servers; or unset {TF_CONFIG} to train in one process')


def _tasks(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict):
        raise _wrong(f"`cluster` must map roles to addresses, received {cluster!r}")
    for role, addresses in cluster.items():
        if role not in ROLES:
            raise _wrong(f"unknown role {role!r} (the chief evaluates; there is no evaluator)")
        if not isinstance(addresses, list) or not addresses:
            raise _wrong(f"{role} must be a list of addresses, received {addresses!r}")
        for address in addresses:
            if not isinstance(address, str) or not address.rpartition(":")[2].isdigit():
                raise _wrong(f"{role} address {address!r} is not HOST:PORT")
    everyone = [address for addresses in cluster.values() for address in addresses]
    if twice := {address for address in everyone if everyone.count(address) > 1}:
        raise _wrong(f"address {min(twice)} is given to two tasks")
    if len(cluster.get("chief", [""])) != 1:
        raise _wrong("there can be only one chief")
    if "ps" in cluster and not {"chief", "worker"} <= cluster.keys():
        raise _wrong("parameter servers need a chief, which coordinates, and workers")
    return dict(cluster)


def serve(cluster: Cluster) -> None:
    """Lends this process to the chief as a worker or parameter server, until it is stopped."""
    address = cluster.tasks[cluster.role][cluster.index]
    try:
        server = tf.distribute.Server(cluster.tasks, job_name=cluster.role, task_index=cluster.index, protocol="grpc")
    except tf.errors.OpError as error:
        raise UserError(f"{cluster}: cannot listen on {address}, perhaps because another process does: "
                        f"stop that one, or give another address in {TF_CONFIG}") from error
    print(f"{cluster}: serving on {address} until stopped", flush=True)
    threading.Event().wait()  # server.join() would not let Ctrl-C through
    del server


@contextlib.contextmanager
def naming_lost_tasks() -> Iterator[None]:
    """Turns what TensorFlow says when a task of the cluster is gone into one sentence."""
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, LOST_CONTACT) and "Collective ops is aborted" not in error.message:
            raise
        reason = error.message.rpartition("Collective ops is aborted by:")[2].strip().splitlines()[0]
        raise ClusterLost(f"lost contact with another task of the cluster ({reason}): start all tasks again with the same commands, "
                          "and the run continues from its last checkpoint") from error
