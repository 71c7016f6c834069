"""How far a step moves the parameters."""

from collections.abc import Sequence

import tensorflow as tf

UPDATE_NORM = "update_norm/"
Gradient = tf.Tensor | tf.IndexedSlices


def touched_values(observed: tf.Tensor, gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """What a step with these gradients can change: whole variables, and of a table the rows that were looked up.

    Args:
      observed: bool scalar; where it is false nothing is read and all tensors are empty.
    """
    def read() -> list[tf.Tensor]:
        return [tf.gather(variable, tf.unique(gradient.indices)[0]) if isinstance(gradient, tf.IndexedSlices)
                else tf.identity(variable) for gradient, variable in zip(gradients, variables, strict=True)]

    return tf.cond(observed, read, lambda: [tf.zeros([0] * variable.shape.rank) for variable in variables])


def update_norms(observed: tf.Tensor, before: Sequence[tf.Tensor], gradients: Sequence[Gradient],
                 variables: Sequence[tf.Variable]) -> dict[str, tf.Tensor]:
    """Norms of a step's change: of the table, whose gradients are sparse, and of all other variables together.

        update_norm/GROUP = sqrt(sum over the group's parameters of (after - before)^2)

    A stage that trains no table has the second alone.

    Args:
      before: `touched_values` before the step. This is called after it. Zeros where `observed` is false.
    """
    after = touched_values(observed, gradients, variables)
    squares: dict[bool, list[tf.Tensor]] = {True: [], False: []}
    for gradient, old, new in zip(gradients, before, after, strict=True):
        squares[isinstance(gradient, tf.IndexedSlices)].append(tf.reduce_sum(tf.square(new - old)))
    return {UPDATE_NORM + name: tf.sqrt(tf.add_n(squares[sparse])) for name, sparse in (("table", True), ("dense", False)) if squares[sparse]}
