"""Training on several devices or machines: what TF_CONFIG or --devices ask of tf.distribute, behind one interface.

    nothing given           one process on TensorFlow's default device
    --devices gpus[:N]      MirroredStrategy: every GPU of this machine holds the model and takes a part of each batch
    TF_CONFIG               MultiWorkerMirroredStrategy: the same over machines, one process each
    TF_CONFIG with "ps"     ParameterServerStrategy: variables live on servers, the table sharded over them by rows;
                            the chief hands steps to workers that do not wait for each other

The chief (task "chief", or worker 0 where there is none) evaluates, prints, and writes the model folder.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from preprocessing.errors import UserError
from trainer.batch import Batch
from trainer.input import TrainingSplit

TF_CONFIG = "TF_CONFIG"
ROLES = ("chief", "worker", "ps")
STEPS_IN_FLIGHT_PER_WORKER = 2
STOPPING = "stopping"
SECONDS_TO_LEAVE = 1.0  # so that what the others still fetch from this process reaches them
LOST_CONTACT = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)

Scalars = dict[str, tf.Tensor]
TrainStep = Callable[[Batch], Scalars]
OpenSplit = Callable[[int, int, int], TrainingSplit]  # (batch size, worker, workers)
StepInputs = Callable[[int], Batch]


class ClusterLost(UserError):
    """Another task of the cluster is gone; started again, the run continues from its last checkpoint."""

    exit_code = os.EX_TEMPFAIL


# What runs inside a training step, on every replica.


def average_over_replicas(values: Any) -> Any:
    """The mean over the replicas of a synchronous strategy, of tensors and tf.IndexedSlices in any nesting.

    With equally large parts of a batch on the replicas, the mean of their gradients is the gradient of the whole batch.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)


def replica_seed(seed: tf.Tensor) -> tf.Tensor:
    """A step's seed int [2] for this replica, as replicas must not draw the same masks for different samples."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return seed
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.random.experimental.stateless_fold_in(seed, replica)


# Variables of several parts or copies.


def shards(variable: tf.Variable) -> list[tf.Variable]:
    """The variables that a logical variable consists of: its parts on the servers, or itself."""
    return list(variable.variables) if isinstance(variable, tf.__internal__.distribute.ShardedVariable) else [variable]


def own_name(variable: tf.Variable) -> str:
    """The name its layer gave to a logical variable."""
    return shards(variable)[0].name.removesuffix(":0").removesuffix("/part_0").split("/")[-1]


def joined(parts: list[tf.Variable]) -> tf.Variable:
    """The logical variable of parts that are shards of one; undoes `shards`."""
    return tf.__internal__.distribute.ShardedVariable(parts) if len(parts) > 1 else parts[0]


def first_copy(variable: tf.Variable) -> tf.Variable:
    """This process' first copy of a variable that every replica has: what to save, without asking the other workers."""
    return tf.distribute.get_strategy().experimental_local_results(variable)[0]


# The cluster.


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


# The ways to train.


class Steps:
    """The training steps of a stage in one process on one device.

    Args:
      train_step: a batch to the scalars of its step.
      open_split: the training split of (batch size, worker, workers).
      batch_size: samples of a step.

    Attributes:
      rows: samples of a step.
      per_epoch: steps of an epoch.
      batch: what the last step was taken on, where this process has it.
      stopped: whether the steps ended because this process, or another that takes them together with it, is to stop.
    """

    batch: Batch | None = None
    stopped = False

    def __init__(self, train_step: TrainStep, open_split: OpenSplit, batch_size: int):
        self._split = open_split(batch_size, 0, 1)
        self._train_step = self._compiled(train_step)
        self.rows = self._split.batch_size
        self.per_epoch = self._split.steps

    def _compiled(self, function: Callable[..., Scalars]) -> tf.types.experimental.PolymorphicFunction:
        """The function with all its scalars in one vector, so that a step costs a single fetch."""

        def stacked(*args):
            scalars = function(*args)
            self._names = list(scalars)  # known once this is traced
            return tf.stack([tf.cast(value, tf.float32) for value in scalars.values()])

        return tf.function(stacked, reduce_retracing=True)

    def _named(self, vector: tf.Tensor) -> dict[str, float]:
        return dict(zip(self._names, vector.numpy().tolist(), strict=True))

    def run(self, epoch: int, first_step: int, inputs: StepInputs, stopping: Callable[[], bool]) -> Iterator[dict[str, float]]:
        """Takes the steps of an epoch from `first_step` on, and yields the scalars of each.

        Args:
          inputs: what to add to the batch of the epoch's k-th step; called just before that step starts.
          stopping: asked after each step whether it shall be the last.

        Raises:
          ClusterLost: another task of the cluster is gone.
        """
        for step, batch in enumerate(self._split.iterate(self._split.epoch(epoch, first_step)), first_step):
            self.batch = {**batch, **inputs(step)}
            yield self._named(self._train_step(self.batch))
            if stopping():
                self.stopped = True
                return


class SynchronousSteps(Steps):
    """Each step is taken by all replicas together, each on its part of the batch."""

    def __init__(self, strategy: tf.distribute.Strategy, worker: int, workers: int,
                 train_step: TrainStep, open_split: OpenSplit, batch_size: int):
        replicas = strategy.num_replicas_in_sync
        self._strategy = strategy
        self._devices = replicas // workers
        self._split = open_split(max(batch_size // replicas, 1), worker, workers)
        self.rows = self._split.batch_size * replicas
        self.per_epoch = self._split.steps // self._devices
        if not self.per_epoch:
            raise UserError(f"a worker's share of the training split has fewer than {self._devices} batches of "
                            f"{self._split.batch_size} rows, one for each of its devices: set a smaller batch_size, or use fewer devices")

        def step_on_replicas(batch: Batch) -> Scalars:
            scalars = strategy.run(_train_and_ask(train_step), args=(batch,))
            return {name: strategy.experimental_local_results(value)[0] for name, value in scalars.items()}

        self._train_step = self._compiled(step_on_replicas)

    def run(self, epoch: int, first_step: int, inputs: StepInputs, stopping: Callable[[], bool]) -> Iterator[dict[str, float]]:
        # Endless, so that the workers need not ask each other in every step whether there is a next batch.
        batches = self._strategy.distribute_datasets_from_function(
            lambda _: self._split.epoch(epoch, first_step * self._devices).repeat())
        with naming_lost_tasks():
            for step, batch in zip(range(first_step, self.per_epoch), self._split.iterate(batches)):
                added = {**inputs(step), STOPPING: tf.constant(float(stopping()))}
                scalars = self._named(self._train_step({**batch, **added}))
                last = scalars.pop(STOPPING) > 0
                yield scalars
                if last:
                    self.stopped = True
                    return


def _train_and_ask(train_step: TrainStep) -> TrainStep:
    """A step that also finds out whether any worker wants it to be the last, as all must stop after the same one."""

    def step(batch: Batch) -> Scalars:
        scalars = train_step({name: value for name, value in batch.items() if name != STOPPING})
        # A copy, as an input that all replicas share has no device to be reduced on.
        return {**scalars, STOPPING: average_over_replicas(tf.identity(batch[STOPPING]))}

    return step


class AsynchronousSteps(Steps):
    """The chief hands each step to the next free worker, which reads the variables from the servers and updates them there.

    A step is the configured batch on one worker, so an epoch has as many updates as in one process. A worker that is
    lost costs nothing but its share of the speed: its step goes to another, and when it is started again it joins.
    Each worker reads files of its own, anew when they are used up, so in an epoch a fast worker's rows may be seen more
    often than a slow one's.
    """

    def __init__(self, coordinator: tf.distribute.coordinator.ClusterCoordinator, workers: int,
                 train_step: TrainStep, open_split: OpenSplit, batch_size: int):
        self._coordinator = coordinator
        self._splits = [open_split(batch_size, worker, workers) for worker in range(workers)]
        self.rows = self._splits[0].batch_size
        self.per_epoch = self._splits[0].steps * workers

        def step_on_a_worker(batches: Iterator[Batch], added: Batch) -> Scalars:
            return coordinator.strategy.run(train_step, args=({**next(batches), **added},))

        self._train_step = self._compiled(step_on_a_worker)

    def _rows_of_this_worker(self, epoch: int, first_step: int) -> tf.data.Dataset:
        """Runs on each worker; all get the same graph, so the choice is a part of it."""
        worker = tf.distribute.coordinator.experimental_get_current_worker_index()
        passes = [split.epoch(epoch, first_step // len(self._splits)).repeat() for split in self._splits]
        return tf.data.Dataset.choose_from_datasets(passes, tf.data.Dataset.from_tensors(tf.cast(worker, tf.int64)).repeat())

    def run(self, epoch: int, first_step: int, inputs: StepInputs, stopping: Callable[[], bool]) -> Iterator[dict[str, float]]:
        batches = iter(self._coordinator.create_per_worker_dataset(lambda: self._rows_of_this_worker(epoch, first_step)))
        waiting, started = deque(range(first_step, self.per_epoch)), deque()
        with naming_lost_tasks():
            while waiting or started:
                if stopping():
                    self.stopped = True
                    waiting.clear()
                while waiting and len(started) < STEPS_IN_FLIGHT_PER_WORKER * len(self._splits):
                    step = waiting.popleft()
                    started.append((step, self._coordinator.schedule(self._train_step, args=(batches, inputs(step)))))
                if not started:
                    return
                step, result = started.popleft()
                try:
                    vector = result.get()
                except (tf.errors.UnavailableError, tf.errors.CancelledError):
                    # The worker died with the step or its scalars. If more than a worker is lost, `schedule` will say so.
                    waiting.appendleft(step)
                    continue
                yield self._named(vector)


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
        return ParameterServers(strategy, len(cluster.tasks["worker"]))
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
