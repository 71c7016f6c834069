"""Products in bfloat16: what is rounded, and that nothing else is."""

import numpy as np
import pytest
import tensorflow as tf
from data_folders import table_counts, tiny_schema

from trainer.config import load_config
from trainer.model import DGenCTR
from trainer.products import Cross, Dense, bfloat16_products, matmul

FINE = 1.0 + 2.0**-10  # bfloat16 has 8 significant bits: this is rounded to 1


def test_operands_are_rounded_inside_only():
    x, identity = tf.fill((2, 4), FINE), tf.eye(4)
    with bfloat16_products():
        assert matmul(x, identity).numpy().tolist() == [[1.0] * 4] * 2
    with bfloat16_products(enabled=False):
        assert matmul(x, identity).numpy().tolist() == [[FINE] * 4] * 2
    assert matmul(x, identity).numpy().tolist() == [[FINE] * 4] * 2


def test_float32_is_restored_after_an_error():
    with pytest.raises(KeyError), bfloat16_products():
        raise KeyError
    assert matmul(tf.fill((1, 1), FINE), tf.eye(1)).numpy() == FINE


def test_gradients_are_those_of_the_rounded_product():
    # y = x w, so dy/dx = w and dy/dw = x, both rounded.
    x, w = tf.constant([[FINE, 2.0]]), tf.Variable([[FINE], [4.0]])
    with tf.GradientTape() as tape, bfloat16_products():
        tape.watch(x)
        y = matmul(x, w)
    of_x, of_w = tape.gradient(y, [x, w])
    assert (of_x.numpy().tolist(), of_w.numpy().tolist()) == ([[1.0, 4.0]], [[1.0], [2.0]])


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3), (0, 3)])
def test_a_dense_layer_is_keras_own_but_for_rounding(shape):
    layer = Dense(4, activation="relu", bias_initializer="ones")
    x = tf.random.stateless_normal(shape, (1, 2))
    exact = layer(x)
    with bfloat16_products():
        rounded = layer(x)
    assert rounded.dtype == tf.float32
    assert rounded.shape == exact.shape
    np.testing.assert_allclose(rounded, exact, atol=0.05)


def test_the_sum_of_a_cross_layer_is_not_rounded():
    # With a kernel of zeros x_0 * 0 + x is x itself.
    layer, x = Cross(), tf.fill((1, 3), FINE)
    layer(x, x)
    layer.set_weights([np.zeros((3, 3)), np.zeros(3)])
    with bfloat16_products():
        assert layer(x, x).numpy().tolist() == [[FINE] * 3]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("backbone", ["dcn", "hstu", "transformer", "mlp"])
def test_training_rounds_where_it_is_asked_to_and_prediction_never_does(stage, backbone):
    def model(matmul_setting):
        tf.keras.utils.set_random_seed(1)
        config = load_config(None, [f"runtime.matmul={matmul_setting}", f"model.backbone={backbone}", "model.mlp.batch_norm=false",
                                    "model.dcn.batch_norm=false"])
        return DGenCTR(tiny_schema(), config, stage, table_counts(tiny_schema(), np.full(40, 10)))

    batch = {"ids": tf.constant([[2, 3, 4], [5, 1, 0]]), "label": tf.constant([1.0, 0.0]), "seed": tf.constant([1, 2])}
    exact, rounded = model("float32"), model("bfloat16")
    np.testing.assert_array_equal(rounded.click_logits(batch), exact.click_logits(batch))
    losses = [float(each.loss_parts(batch, training=True)["loss"]) for each in (exact, rounded)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
