"""Lazy Adam for the shared table, stock Adam for the rest."""

import math
from functools import partial

import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.distribute.replicas import joined, shards

BLOCK_ROWS = 1 << 20


def log_kept(steps: tf.Tensor, factor: float) -> tf.Tensor:
    """log D_t = sum_{j=1..t} log d_j, d_j = min(factor, (1 + j) / (10 + j)): how much t steps leave of what an average was before.

    Weights travel far in their first steps. A factor near 1 from the start on would keep these in the average for 1 / (1 - factor)
    steps; with this one their mean age is a tenth of the steps so far, until that is as many.

    Args:
      steps: t, int of any shape.
      factor: in (0, 1).

    Returns:
      float64 of the same shape: in closed form log(10! (t + 1)! / (t + 10)!) as long as the factors grow.
    """
    steps = tf.cast(steps, tf.float64)
    growing = tf.minimum(steps, max(0, math.floor((10 * factor - 1) / (1 - factor))))
    while_growing = math.lgamma(11) + tf.math.lgamma(growing + 2) - tf.math.lgamma(growing + 11)
    return while_growing + (steps - growing) * math.log(factor)


class LazyAdam(tf.keras.optimizers.Optimizer):
    """Adam whose cost is that of the rows a step looks up, not of the table.

    For every row r with a gradient g_r in step t (duplicates summed), and only for those:

        g_r <- g_r + decay * (E_r - E_r^0)        E^0 = 0, or the values at the start
        m_r <- beta_1 m_r + (1 - beta_1) g_r
        v_r <- beta_2 v_r + (1 - beta_2) g_r^2
        E_r <- E_r - learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m_r / (sqrt(v_r) + epsilon)

    With every row looked up in every step this is Adam (arXiv 1412.6980, section 2, end) with a coupled L2 penalty.

    With `averaging` d it also keeps the bias-corrected exponential moving average of every row's values E_r^1, ..., E_r^t after
    each step, with factors that grow with the steps (`log_kept`),

        A_r^t = sum_{j=1..t} (1 - d_j) (D_t / D_j) E_r^j / (1 - D_t)        d_j = min(d, (1 + j) / (10 + j)),  D_t = d_1 d_2 ... d_t

    Nothing is done for rows that a step leaves alone. A row whose average is that of step s, and whose value has been E_r since,
    is brought up to step t when it is next looked up or read:

        A_r^t = E_r + (D_t / D_s) (1 - D_s) / (1 - D_t) (A_r^s - E_r)

    Args:
      learning_rate: step size.
      decay: L2 coefficient, gradient of decay/2 |E_r - E_r^0|^2, applied to looked-up rows only.
      beta_1, beta_2, epsilon: as in Adam.
      rate_factor: multiplies the learning rate.
      towards_start: whether decay pulls towards the values at the start, `remember_start`, instead of zero.
      averaging: d in [0, 1); 0: no average is kept.
    """

    def __init__(self, learning_rate: float = 1e-3, decay: float = 0.0, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-8, rate_factor: float = 1.0, towards_start: bool = False, averaging: float = 0.0,
                 name: str = "LazyAdam"):
        # weight_decay=0 instead of None would multiply the whole table in every step.
        super().__init__(name=name, weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.decay = decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.rate_factor = rate_factor
        self.towards_start = towards_start
        self.averaging = averaging

    def build(self, var_list: list[tf.Variable]) -> None:
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._parts = list(var_list)
        self._momentums = [self.add_variable_from_reference(v, "m") for v in var_list]
        self._velocities = [self.add_variable_from_reference(v, "v") for v in var_list]
        self._starts = [self.add_variable_from_reference(v, "start") for v in var_list] if self.towards_start else []
        self._averages = [self.add_variable_from_reference(v, "average") for v in var_list] if self.averaging else []
        self._averaged_at = [self._add_steps(v) for v in var_list] if self.averaging else []
        self._built = True

    def _add_steps(self, variable: tf.Variable) -> tf.Variable:
        """The step of each row's average; float32, as the other slots are, could not count beyond 16.7 million."""
        steps = tf.Variable(tf.zeros(variable.shape[:1], tf.int64), trainable=False, name="averaged_at")
        self._variables.append(steps)
        return steps

    @property
    def slots(self) -> dict[str, list[tf.Variable]]:
        """What is kept of each part of the table, beside the count of steps."""
        kept = {"momentum": self._momentums, "velocity": self._velocities, "start": self._starts, "average": self._averages,
                "averaged_at": self._averaged_at}
        return {name: variables for name, variables in kept.items() if variables}

    def remember_start(self) -> None:
        """Makes the present values those that decay pulls towards; with `towards_start` only."""
        for start, part in zip(self._starts, self._parts, strict=True):
            start.assign(part)

    @property
    def parts(self) -> list[tf.Variable]:
        """The variables that it was built for."""
        return self._parts

    def assign_averages(self) -> None:
        """Puts the averages in the place of the values; with `averaging` only. Block by block, as a table may be most of the memory."""
        for part, average, steps in zip(self._parts, self._averages, self._averaged_at, strict=True):
            for first in range(0, part.shape[0], BLOCK_ROWS):
                rows = tf.range(first, min(first + BLOCK_ROWS, part.shape[0]), dtype=tf.int64)
                values = self._brought_up(tf.gather(average, rows), tf.gather(steps, rows), tf.gather(part, rows))
                part.scatter_update(tf.IndexedSlices(values, rows))

    def _brought_up(self, averages: tf.Tensor, steps: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        """Averages [R, d] of the last step taken, from those of `steps` [R], since when the values have not changed."""
        before, now = log_kept(steps, self.averaging), log_kept(self.iterations, self.averaging)
        share = tf.math.divide_no_nan(tf.exp(now - before) * tf.math.expm1(before), tf.math.expm1(now))  # (R,)
        return values + tf.cast(share, values.dtype)[:, tf.newaxis] * (averages - values)

    def update_step(self, gradient: tf.IndexedSlices, variable: tf.Variable) -> None:
        if not isinstance(gradient, tf.IndexedSlices):
            raise TypeError(f"LazyAdam needs sparse gradients (tf.IndexedSlices), received {type(gradient).__name__} "
                            f"for {variable.name}: use Adam for variables that every step touches as a whole")
        slot = self._index_dict[self._var_key(variable)]
        momentum, velocity = self._momentums[slot], self._velocities[slot]
        step = tf.cast(self.iterations + 1, variable.dtype)
        root = tf.sqrt(1.0 - tf.pow(self.beta_2, step))
        rate = self.rate_factor * self.learning_rate * root / (1.0 - tf.pow(self.beta_1, step))
        rows, g = gradient.indices, gradient.values  # rows are distinct: the base class sums duplicates
        old = tf.gather(variable, rows)
        if self._averages:
            average, steps = self._averages[slot], self._averaged_at[slot]
            brought_up = self._brought_up(tf.gather(average, rows), tf.gather(steps, rows), old)
            average.scatter_update(tf.IndexedSlices(brought_up, rows))
            steps.scatter_update(tf.IndexedSlices(tf.fill(tf.shape(rows), tf.cast(self.iterations, tf.int64)), rows))
        g += self.decay * (old - tf.gather(self._starts[slot], rows) if self._starts else old)
        m = self.beta_1 * tf.gather(momentum, rows) + (1.0 - self.beta_1) * g
        v = self.beta_2 * tf.gather(velocity, rows) + (1.0 - self.beta_2) * tf.square(g)
        momentum.scatter_update(tf.IndexedSlices(m, rows))
        velocity.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_update(tf.IndexedSlices(old - rate * m / (tf.sqrt(v) + self.epsilon), rows))

    def get_config(self) -> dict:
        return {**super().get_config(), "learning_rate": self._serialize_hyperparameter(self._learning_rate),
                "decay": self.decay, "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon,
                "rate_factor": self.rate_factor, "towards_start": self.towards_start, "averaging": self.averaging}


def build_optimizer(model, learning_rate: float, table_decay: float, table_learning_rate: float = 1.0,
                    decay_towards_start: bool = False, averaging: float = 0.0) -> tfrs.experimental.optimizers.CompositeOptimizer:
    """The optimizer of a stage: a LazyAdam for each table that the stage trains, Adam for every other variable that it trains.

    Args:
      model: a `trainer.click_model.ClickModel`.
      learning_rate: start value for all.
      table_decay, table_learning_rate, decay_towards_start, averaging: of the tables, see `LazyAdam`.
    """
    trained = {id(variable) for variable in model.stage_variables}
    tables = {name: shards(table) for name, table in model.tables.items()}
    tables = {name: parts for name, parts in tables.items() if id(parts[0]) in trained}
    sparse = {id(part) for parts in tables.values() for part in parts}
    dense = [variable for variable in model.stage_variables if id(variable) not in sparse]
    adam = tf.keras.optimizers.Adam(learning_rate, epsilon=1e-8, jit_compile=False)
    adam.build(dense)
    pairs = []
    for name, parts in tables.items():
        lazy = LazyAdam(learning_rate, table_decay, rate_factor=table_learning_rate, towards_start=decay_towards_start,
                        averaging=averaging, name=name)
        lazy.build(parts)
        pairs.append((lazy, partial(list, parts)))
    return tfrs.experimental.optimizers.CompositeOptimizer([*pairs, (adam, partial(list, dense))])


def lazy_optimizers(optimizer: tfrs.experimental.optimizers.CompositeOptimizer) -> list[LazyAdam]:
    """Those of the tables."""
    return optimizer.optimizers[:-1]


def optimizer_checkpoint(optimizer: tfrs.experimental.optimizers.CompositeOptimizer, **more) -> tf.train.Checkpoint:
    """What is saved of the optimizer of a stage, the slots of a sharded table whole. Learning rates are the caller's.

    Args:
      more: what else is saved with it, by name.
    """
    saved = {"dense": optimizer.optimizers[-1], **more}
    for lazy in lazy_optimizers(optimizer):
        saved[f"{lazy.name}_iterations"] = lazy.iterations
        saved |= {f"{lazy.name}_{name}": joined(parts) for name, parts in lazy.slots.items()}
    return tf.train.Checkpoint(**saved)


def scaled_to_norm(gradients: list, norm: tf.Tensor, limit: float) -> list:
    """g * min(1, limit / norm) for every gradient, and zeros where the norm is not finite."""
    scale = tf.where(tf.math.is_finite(norm), limit / tf.maximum(norm, limit), 0.0)

    def scaled(gradient):
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(scaled(gradient.values), gradient.indices, gradient.dense_shape)
        return tf.math.multiply_no_nan(gradient, scale)

    return [scaled(gradient) for gradient in gradients]


COSINE_FLOOR = 0.01


def cosine_learning_rate(start: float, progress: float) -> float:
    """rate = start * (floor + (1 - floor) (1 + cos(pi progress)) / 2), progress from 0 to 1 (arXiv 1608.03983)."""
    return start * (COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def set_learning_rate(optimizer: tfrs.experimental.optimizers.CompositeOptimizer, rate: float) -> None:
    for part in optimizer.optimizers:
        part.learning_rate = rate
