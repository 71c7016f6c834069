"""Writes the transform graph and a trained model as one SavedModel."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import tensorflow as tf
import tensorflow_transform as tft

from preprocessing.schema import MISSING_ROW, Schema
from serving.signatures import (
    DEFAULT_SIGNATURE,
    EXAMPLES_INPUT,
    LOGIT_OUTPUT,
    NAMED_SIGNATURE,
    PROBABILITY_OUTPUT,
    parse_raw_examples,
    raw_specs,
    transform_inputs,
)


class ClickModel(Protocol):
    """What export needs of a trained model."""

    schema: Schema

    def click_logits(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Features -> float32 logits `[B]`; callable inside a tf.function.

        Features are "ids" int `[B, N]`, of `schema.id_fields` and local to each, and each of `schema.list_fields` by its name, int
        `[B, L]` filled up with -1.
        """


def save_served_model(model: ClickModel, data_dir: Path, folder: Path) -> None:
    """Saves raw features -> transform graph of `data_dir` -> `model` under the signatures of `serving.signatures`.

    Only the variables that a click prediction reads are written: optimizer and generative heads stay behind.
    """
    module = tf.Module(name="dgenctr")
    module.transform = tft.TFTransformOutput(str(data_dir)).transform_features_layer()
    specs = raw_specs(model.schema)

    def score(features):
        transformed = module.transform(transform_inputs(features))
        logit = model.click_logits(_features(model.schema, transformed))  # (B,)
        return {PROBABILITY_OUTPUT: tf.sigmoid(logit), LOGIT_OUTPUT: logit}

    score_examples = tf.function(lambda examples: score(parse_raw_examples(examples, specs)))
    signatures = {
        DEFAULT_SIGNATURE: score_examples.get_concrete_function(tf.TensorSpec([None], tf.string, name=EXAMPLES_INPUT)),
        NAMED_SIGNATURE: tf.function(score).get_concrete_function(specs),
    }
    module.click_variables = _variables_read_by(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _features(schema: Schema, transformed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """What the model reads of the outputs of the transform graph, whose lists are filled up with the row of missing values."""
    lists = {field.name: tf.cast(transformed[field.name], tf.int32) for field in schema.list_fields}
    filled_up = {name: tf.where(ids == MISSING_ROW, -1, ids) for name, ids in lists.items()}
    return {"ids": tf.gather(transformed["ids"], schema.places, axis=1), **filled_up}


def _variables_read_by(functions: Iterable[Callable]) -> list[tf.Variable]:
    variables = [variable for function in functions for variable in function.graph.variables]
    return list({variable.ref(): variable for variable in variables}.values())
