"""What model and optimizer need to know of replicas and shards: averages inside a step, variables of several parts or copies."""

from typing import Any

import tensorflow as tf


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
