"""Two ways to compute one thing, forward and backward, at the sizes of a DCN-V2 of 39 fields, taking turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.diffusion.loss import full_cross_entropy
from trainer.layers import BatchNorm, dropout
from trainer.products import Cross, bfloat16_products

BATCH, TOKENS_WIDTH, HIDDEN, DIM = 4096, 640, 400, 16
MASKED, VALUES = 2100, 4096
CROSSES = 3
SEED = tf.constant([1, 2])
BFLOAT16 = tf.keras.mixed_precision.Policy("mixed_bfloat16")

Loss = Callable[[], tf.Tensor]


@dataclass(frozen=True)
class Pair:
    """Two ways to compute the same loss and its gradients with respect to `inputs`."""

    name: str
    usual: Loss
    ours: Loss
    inputs: list[tf.Variable]


def _softmax_pair() -> Pair:
    queries = tf.Variable(10.0 * tf.math.l2_normalize(tf.random.stateless_normal((MASKED, DIM), SEED), axis=1))
    keys = tf.Variable(tf.math.l2_normalize(tf.random.stateless_normal((VALUES, DIM), SEED + 1), axis=1))
    log_prior = tf.nn.log_softmax(tf.random.stateless_normal((VALUES,), SEED + 2))
    true = tf.random.stateless_uniform((MASKED,), SEED, 0, VALUES, tf.int32)

    def usual() -> tf.Tensor:
        scores = tf.matmul(queries, keys, transpose_b=True) + log_prior
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=true, logits=scores))

    return Pair("full softmax loss of a field: matmul + softmax op | one pass", usual,
                lambda: tf.reduce_sum(full_cross_entropy(queries, keys, log_prior, true)), [queries, keys])


def _dropout_pair() -> Pair:
    x = tf.Variable(tf.random.stateless_normal((BATCH, HIDDEN), SEED))
    return Pair("dropout: tf.nn.dropout | raw bits", lambda: tf.reduce_sum(tf.nn.dropout(x, 0.2)),
                lambda: tf.reduce_sum(dropout(x, 0.2, SEED)), [x])


def _batch_norm_pair() -> Pair:
    x = tf.Variable(tf.random.stateless_normal((BATCH, HIDDEN), SEED))
    usual, ours = tf.keras.layers.BatchNormalization(), BatchNorm()
    for layer in (usual, ours):
        layer(x)
    return Pair("batch norm: Keras on vectors | fused kernel", lambda: tf.reduce_sum(usual(x, training=True) ** 2),
                lambda: tf.reduce_sum(ours(x, training=True) ** 2), [x])


def _cross_tower(layers: list[tf.keras.layers.Layer], dtype: tf.DType = tf.float32) -> Callable[[tf.Tensor], tf.Tensor]:
    def tower(x: tf.Tensor) -> tf.Tensor:
        start = crossed = tf.cast(x, dtype)
        for layer in layers:
            crossed = layer(start, crossed)
        return tf.reduce_sum(tf.cast(crossed, tf.float32) ** 2)

    tower(tf.zeros((1, TOKENS_WIDTH)))
    return tower


def _cross_pairs() -> list[Pair]:
    x = tf.Variable(tf.random.stateless_normal((BATCH, TOKENS_WIDTH), SEED))
    plain = _cross_tower([Cross() for _ in range(CROSSES)])
    policy = _cross_tower([tfrs.layers.dcn.Cross(dtype=BFLOAT16) for _ in range(CROSSES)], tf.bfloat16)
    compiled = tf.function(plain, jit_compile=True)

    def rounded() -> tf.Tensor:
        with bfloat16_products():
            return plain(x)

    return [
        Pair("crosses: float32 | runtime.matmul=bfloat16", lambda: plain(x), rounded, [x]),
        Pair("crosses: Keras' mixed_bfloat16 policy | runtime.matmul=bfloat16", lambda: policy(x), rounded, [x]),
        Pair("crosses: XLA | no XLA", lambda: compiled(x), lambda: plain(x), [x]),
    ]


def _compiled_step(loss: Loss, inputs: list[tf.Variable]) -> Callable[[], list[tf.Tensor]]:
    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, inputs)

    return step


def _milliseconds(step: Callable[[], list[tf.Tensor]], repetitions: int) -> float:
    start = time.perf_counter()
    for _ in range(repetitions):
        gradients = step()
    tf.convert_to_tensor(gradients[0]).numpy()
    return 1e3 * (time.perf_counter() - start) / repetitions


def pairs() -> list[Pair]:
    return [_softmax_pair(), _dropout_pair(), _batch_norm_pair(), *_cross_pairs()]


def measure(pair: Pair, rounds: int, repetitions: int) -> tuple[str, ...]:
    """Name, median milliseconds of both ways, and the median of the rounds' ratios, as texts."""
    usual, ours = _compiled_step(pair.usual, pair.inputs), _compiled_step(pair.ours, pair.inputs)
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):  # the first one compiles
        times.append((_milliseconds(usual, repetitions), _milliseconds(ours, repetitions)))
    of_usual, of_ours = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratio = statistics.median(before / after for before, after in times[1:])
    return pair.name, f"{of_usual:.1f}", f"{of_ours:.1f}", f"{ratio:.2f}"
