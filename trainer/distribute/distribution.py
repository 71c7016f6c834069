"""One interface over the ways to train: where variables live, who takes the steps, who writes."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from preprocessing.errors import UserError
from trainer.distribute.cluster import TF_CONFIG, Cluster, ClusterLost, naming_lost_tasks
from trainer.distribute.steps import AsynchronousSteps, OpenSplit, Steps, SynchronousSteps, TrainStep

SECONDS_TO_LEAVE = 1.0  # so that what the others still fetch from this process reaches them


class Distribution:
    """One process on TensorFlow's default device; subclasses say what several devices or machines do differently.

    Attributes:
      is_chief: whether this process evaluates, prints and writes.
      is_single: whether this process trains alone on one device, so that what it needs is what the model needs.
      stops_alone: whether it may stop at any moment without telling other processes.
    """

    is_chief = True
    is_single = True
    stops_alone = True

    def scope(self) -> contextlib.AbstractContextManager:
        """Where variables are made, read, saved and restored."""
        return contextlib.nullcontext()

    def steps(self, train_step: TrainStep, open_split: OpenSplit, batch_size: int) -> Steps:
        """The training steps of a stage; `batch_size` counts the samples of a step over all devices."""
        return Steps(train_step, open_split, batch_size)

    def compile(self, function: Callable) -> Callable:
        """Compiles a function of the model for the chief alone: evaluation."""
        return tf.function(function, reduce_retracing=True)

    def chief_value(self, value: float) -> float:
        """The chief's value in every process, so that all take the same decisions. Every process waits for all others."""
        return value

    @contextlib.contextmanager
    def only_the_chief_prints(self) -> Iterator[None]:
        """Silences what the other processes would print again. Errors still show."""
        if self.is_chief:
            yield
            return
        print("training; the chief prints and writes", flush=True)
        with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
            yield

    def wait_for_all(self) -> None:
        """Returns when every process has come here."""

    def leave(self) -> None:
        """Ends the part of this process in the cluster, when all is done."""

    def require_same_start(self, step: int, run: str) -> None:
        """Refuses to train where processes continue from different steps, or with different settings or data.

        Args:
          step: the step this process continues from.
          run: what must be the same everywhere, as text.
        """


class Synchronous(Distribution):
    """Several devices, of one machine or of many, that take every step together."""

    is_single = False

    def __init__(self, strategy: tf.distribute.Strategy, worker: int = 0, workers: int = 1, is_chief: bool = True):
        self._strategy = strategy
        self._worker = worker
        self._workers = workers
        self.is_chief = is_chief
        self.stops_alone = workers == 1
        self._first_value = tf.function(lambda value: strategy.run(self._of_first_replica, args=(value,)))
        self._all_values = tf.function(lambda values: strategy.run(self._of_all_replicas, args=(values,)))

    @staticmethod
    def _of_first_replica(value: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        only_first = tf.where(replica.replica_id_in_sync_group == 0, value, tf.zeros_like(value))
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, only_first)

    @staticmethod
    def _of_all_replicas(values: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(values[tf.newaxis], axis=0)

    def scope(self) -> contextlib.AbstractContextManager:
        return self._strategy.scope()

    def steps(self, train_step: TrainStep, open_split: OpenSplit, batch_size: int) -> Steps:
        return SynchronousSteps(self._strategy, self._worker, self._workers, train_step, open_split, batch_size)

    def compile(self, function: Callable) -> Callable:
        compiled = tf.function(function, reduce_retracing=True)

        def on_every_device(*args):
            results = self._strategy.run(compiled, args=args)
            return tf.nest.map_structure(lambda result: self._strategy.experimental_local_results(result)[0], results)

        return on_every_device

    def chief_value(self, value: float) -> float:
        with naming_lost_tasks():
            return float(self._on_this_worker(self._first_value(tf.constant(value, tf.float64))))

    def wait_for_all(self) -> None:
        self.chief_value(0.0)

    def leave(self) -> None:
        with contextlib.suppress(ClusterLost):  # a task that is gone has done its work: the chief leaves last
            self.wait_for_all()
            time.sleep(SECONDS_TO_LEAVE)

    def require_same_start(self, step: int, run: str) -> None:
        fingerprint = int.from_bytes(hashlib.sha256(run.encode()).digest()[:7], "big")
        with naming_lost_tasks():
            everywhere = self._on_this_worker(self._all_values(tf.constant([step, fingerprint], tf.int64))).numpy()
        if len(set(everywhere[:, 0])) > 1:
            raise UserError(f"the workers would continue from steps {', '.join(map(str, everywhere[:, 0]))}: --model_dir must be "
                            "one folder that all of them see (a shared file system)")
        if len(set(everywhere[:, 1])) > 1:
            raise UserError("the workers were started with different settings or data: give all of them the same command and "
                            "the same data folder")

    def _on_this_worker(self, value: Any) -> tf.Tensor:
        return self._strategy.experimental_local_results(value)[0]


class ParameterServers(Distribution):
    """The chief of a cluster with parameter servers."""

    is_single = False

    def __init__(self, strategy: tf.distribute.ParameterServerStrategy, workers: int):
        self._strategy = strategy
        self._workers = workers
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    def scope(self) -> contextlib.AbstractContextManager:
        return self._strategy.scope()

    def steps(self, train_step: TrainStep, open_split: OpenSplit, batch_size: int) -> Steps:
        return AsynchronousSteps(self._coordinator, self._workers, train_step, open_split, batch_size)


def connect(cluster: Cluster | None, devices: str | None, table_rows: int) -> Distribution:
    """Joins the cluster, or takes the devices of this machine. Must come before TensorFlow's first operation.

    Args:
      cluster: from TF_CONFIG; waits until all its tasks are there.
      devices: "gpus", "gpus:N" or "cpus:N" (logical devices that share the processor, to try a run without GPUs).
      table_rows: rows of the shared table, the variable that is sharded over parameter servers.

    Raises:
      UserError: both are given, or the devices are not there.
    """
    if devices is not None:
        require_one_machine(cluster, devices)
        return _on_devices(local_devices(devices))
    if cluster is None:
        return Distribution()
    print(f"{cluster}: waiting for the other tasks", flush=True)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if cluster.has_servers:
        partitioner = _sharding_only(table_rows, len(cluster.tasks["ps"]))
        strategy = tf.distribute.ParameterServerStrategy(resolver, variable_partitioner=partitioner)
        return ParameterServers(strategy, cluster.workers)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    everyone = [("chief", 0)] * ("chief" in cluster.tasks) + [("worker", i) for i in range(len(cluster.tasks.get("worker", [])))]
    return Synchronous(strategy, everyone.index((cluster.role, cluster.index)), len(everyone), cluster.is_chief)


def _sharding_only(table_rows: int, servers: int) -> Callable:
    """A partitioner that cuts the shared table over all servers and leaves every other variable whole."""

    def partition(shape: tf.TensorShape, **_) -> list[int]:
        return [servers if shape[0] == table_rows else 1] + [1] * (shape.rank - 1)

    return partition


def local_devices(devices: str) -> list[str]:
    """Names of the devices of this machine that --devices asks for, such as GPU:0.

    Raises:
      UserError: it asks for nothing, or for GPUs that TensorFlow does not find.
    """
    kind, _, count = devices.partition(":")
    if kind not in ("gpus", "cpus") or not (count.isdigit() and int(count) or devices == "gpus"):
        raise UserError(f"--devices {devices!r}: expected gpus, gpus:N, or cpus:N")
    found = len(tf.config.list_physical_devices("GPU"))
    wanted = int(count) if count else max(found, 1)
    if kind == "gpus" and wanted > found:
        raise UserError(f"--devices {devices}: TensorFlow finds {found} GPUs on this machine (see `nvidia-smi` and the "
                        "CUDA libraries, `pip install tensorflow[and-cuda]`); leave --devices away to train on the processor")
    return [f"{kind[:-1].upper()}:{number}" for number in range(wanted)]


def require_one_machine(cluster: Cluster | None, devices: str) -> None:
    """Refuses --devices in a cluster."""
    if cluster is not None:
        raise UserError(f"--devices {devices} is for one machine, and {TF_CONFIG} is set: with it every worker uses all its GPUs")


def _on_devices(names: list[str]) -> Synchronous:
    if names[0].startswith("CPU"):
        processor = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * len(names))
    return Synchronous(tf.distribute.MirroredStrategy(names))
