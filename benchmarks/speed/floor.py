"""What the machine can do at best: the matrix products of one step and nothing else, and adding one array to another."""

import argparse
import time
from collections.abc import Callable

import tensorflow as tf

from benchmarks.speed.network import DIM, dense_shapes
from preprocessing.schema import load_data_folder_schema

ARRAY_BYTES = 256 << 20


def _products_of_a_step(batch_size: int, width: int, dtype: tf.DType) -> tuple[Callable, float]:
    """A function of the forward and backward products of DCN-V2, and the operations that it takes."""
    layers = [(tf.random.normal((batch_size, inputs), dtype=dtype), tf.random.normal((inputs, outputs), dtype=dtype),
               tf.random.normal((batch_size, outputs), dtype=dtype)) for inputs, outputs in dense_shapes(width)]

    @tf.function
    def products(layers):
        forward = [tf.matmul(x, kernel) for x, kernel, _ in layers]
        to_input = [tf.matmul(gradient, kernel, transpose_b=True) for _, kernel, gradient in layers]
        to_kernel = [tf.matmul(x, gradient, transpose_a=True) for x, _, gradient in layers]
        return forward + to_input + to_kernel

    return lambda: products(layers), 6.0 * batch_size * sum(inputs * outputs for inputs, outputs in dense_shapes(width))


def _seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def build(options: argparse.Namespace) -> Callable[[int], dict]:
    width = (len(load_data_folder_schema(options.folder).fields) + 1) * DIM
    single, flops = _products_of_a_step(options.batch_size, width, tf.float32)
    half, _ = _products_of_a_step(options.batch_size, width, tf.bfloat16)
    target, source = (tf.Variable(tf.ones([ARRAY_BYTES // 4])) for _ in range(2))
    add = tf.function(lambda: target.assign_add(source))

    def run(steps: int) -> dict:
        """The best of `steps` of each: what others take from the machine meanwhile is no part of its floor."""
        def best(function):
            return min(_seconds(function) for _ in range(steps))

        return {"steps": steps, "float32_flops": flops / best(single), "bfloat16_flops": flops / best(half),
                "bytes_per_second": 3 * ARRAY_BYTES / best(add)}  # two arrays read, one written

    return run
