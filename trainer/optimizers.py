"""Lazy Adam for the shared table, stock Adam for the rest."""

import math
from functools import partial

import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.distribute import joined, shards


class LazyAdam(tf.keras.optimizers.Optimizer):
    """Adam whose cost is that of the rows a step looks up, not of the table.

    For every row r with a gradient g_r in step t (duplicates summed), and only for those:

        g_r <- g_r + decay * E_r
        m_r <- beta_1 m_r + (1 - beta_1) g_r
        v_r <- beta_2 v_r + (1 - beta_2) g_r^2
        E_r <- E_r - learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m_r / (sqrt(v_r) + epsilon)

    With every row looked up in every step this is Adam (arXiv 1412.6980, section 2, end) with a coupled L2 penalty.

    Args:
      learning_rate: step size.
      decay: L2 coefficient, gradient of decay/2 |E_r|^2, applied to looked-up rows only.
      beta_1, beta_2, epsilon: as in Adam.
    """

    def __init__(self, learning_rate: float = 1e-3, decay: float = 0.0, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-8, name: str = "LazyAdam"):
        # weight_decay=0 instead of None would multiply the whole table in every step.
        super().__init__(name=name, weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.decay = decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, var_list: list[tf.Variable]) -> None:
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._momentums = [self.add_variable_from_reference(v, "m") for v in var_list]
        self._velocities = [self.add_variable_from_reference(v, "v") for v in var_list]
        self._built = True

    @property
    def moments(self) -> dict[str, list[tf.Variable]]:
        return {"momentum": self._momentums, "velocity": self._velocities}

    def update_step(self, gradient: tf.IndexedSlices, variable: tf.Variable) -> None:
        if not isinstance(gradient, tf.IndexedSlices):
            raise TypeError(f"LazyAdam needs sparse gradients (tf.IndexedSlices), received {type(gradient).__name__} "
                            f"for {variable.name}: use Adam for variables that every step touches as a whole")
        slot = self._index_dict[self._var_key(variable)]
        momentum, velocity = self._momentums[slot], self._velocities[slot]
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = self.learning_rate * tf.sqrt(1.0 - tf.pow(self.beta_2, step)) / (1.0 - tf.pow(self.beta_1, step))
        rows, g = gradient.indices, gradient.values  # rows are distinct: the base class sums duplicates
        old = tf.gather(variable, rows)
        g += self.decay * old
        m = self.beta_1 * tf.gather(momentum, rows) + (1.0 - self.beta_1) * g
        v = self.beta_2 * tf.gather(velocity, rows) + (1.0 - self.beta_2) * tf.square(g)
        momentum.scatter_update(tf.IndexedSlices(m, rows))
        velocity.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_update(tf.IndexedSlices(old - rate * m / (tf.sqrt(v) + self.epsilon), rows))

    def get_config(self) -> dict:
        return {**super().get_config(), "learning_rate": self._serialize_hyperparameter(self._learning_rate),
                "decay": self.decay, "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


def build_optimizer(model, learning_rate: float, table_decay: float) -> tfrs.experimental.optimizers.CompositeOptimizer:
    """The optimizer of a stage: LazyAdam on the shared table, Adam on every other variable the stage trains."""
    table = shards(model.embedding.table)
    sparse = {id(part) for part in table}
    dense = [variable for variable in model.stage_variables if id(variable) not in sparse]
    lazy = LazyAdam(learning_rate, table_decay)
    adam = tf.keras.optimizers.Adam(learning_rate, epsilon=1e-8, jit_compile=False)
    lazy.build(table)
    adam.build(dense)
    return tfrs.experimental.optimizers.CompositeOptimizer([(lazy, partial(list, table)), (adam, partial(list, dense))])


def optimizer_checkpoint(optimizer: tfrs.experimental.optimizers.CompositeOptimizer) -> tf.train.Checkpoint:
    """What is saved of the optimizer of a stage, the moments of a sharded table whole. Learning rates are the caller's."""
    lazy, adam = optimizer.optimizers
    return tf.train.Checkpoint(table_iterations=lazy.iterations, dense=adam,
                               **{f"table_{name}": joined(parts) for name, parts in lazy.moments.items()})


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
