"""The training steps of a stage: on one device, on several together, or handed to the workers of a cluster one by one."""

from collections import deque
from collections.abc import Callable, Iterator

import tensorflow as tf

from preprocessing.errors import UserError
from trainer.batch import Batch
from trainer.distribute.cluster import naming_lost_tasks
from trainer.distribute.replicas import average_over_replicas
from trainer.input import TrainingSplit

STEPS_IN_FLIGHT_PER_WORKER = 2
STOPPING = "stopping"

Scalars = dict[str, tf.Tensor]
TrainStep = Callable[[Batch], Scalars]
OpenSplit = Callable[[int, int, int], TrainingSplit]  # (batch size, worker, workers)
StepInputs = Callable[[int], Batch]


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
