"""Writes the transform graph and a trained model as one SavedModel."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import tensorflow as tf
import tensorflow_transform as tft

from preprocessing.schema import MISSING_ROW, Schema
from serving.export.candidate_rows import as_rows
from serving.export.explain import can_explain, contributions
from serving.signature_defs import finish_signature_defs
from serving.signatures import (
    CANDIDATES_SIGNATURE,
    CLASSES,
    CLASSES_OUTPUT,
    CLASSIFY_INPUT,
    CLASSIFY_SIGNATURE,
    CONTRIBUTION_OUTPUT,
    DEFAULT_SIGNATURE,
    EXAMPLES_INPUT,
    EXPLAIN_SIGNATURE,
    FIELD_OUTPUT,
    LOGIT_OUTPUT,
    NAMED_SIGNATURE,
    PROBABILITY_OUTPUT,
    REGRESS_INPUT,
    REGRESS_OUTPUT,
    REGRESS_SIGNATURE,
    SCORES_OUTPUT,
    candidate_specs,
    parse_to_transform,
    raw_specs,
    transform_inputs,
)

Tensors = dict[str, tf.Tensor]
RawFeatures = Mapping[str, tf.Tensor | tf.SparseTensor]


class ClickModel(Protocol):
    """What export needs of a trained model; one that can be explained is a `serving.export.explain.MaskableModel` too."""

    schema: Schema

    def click_logits(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Features -> float32 logits `[B]`; callable inside a tf.function.

        Features are "ids" int `[B, N]`, of `schema.id_fields` and local to each, and each of `schema.list_fields` by its name,
        int `[B, L]` filled up with -1.
        """


def save_served_model(model: ClickModel, data_dir: Path, folder: Path) -> None:
    """Saves raw features -> transform graph of `data_dir` -> `model` under the signatures of `serving.signatures`.

    Only the variables that a click prediction reads are written: optimizer and generative heads stay behind.
    """
    module = tf.Module(name="dgenctr")
    module.transform = tft.TFTransformOutput(str(data_dir)).transform_features_layer()
    signatures = _ServedGraph(model, module.transform).signatures()
    module.click_variables = _variables_read_by(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)
    finish_signature_defs(folder)


class _ServedGraph:
    """The signatures as functions of their inputs.

    Args:
      model: the trained model.
      transform: raw features, lists sparse, to the outputs of the transform graph.
    """

    def __init__(self, model: ClickModel, transform: Callable[[RawFeatures], Tensors]):
        self._model = model
        self._schema = model.schema
        self._transform = transform
        self._specs = raw_specs(model.schema)

    def signatures(self) -> dict[str, Callable]:
        """A concrete function for each signature that the model has."""
        found = {
            DEFAULT_SIGNATURE: _of_examples(self._predict_examples, EXAMPLES_INPUT),
            NAMED_SIGNATURE: _concrete(self._predict, self._specs),
            CLASSIFY_SIGNATURE: _of_examples(self._classify, CLASSIFY_INPUT),
            REGRESS_SIGNATURE: _of_examples(self._regress, REGRESS_INPUT),
            CANDIDATES_SIGNATURE: _concrete(self._score_candidates, candidate_specs(self._specs)),
        }
        if can_explain(self._model):
            found[EXPLAIN_SIGNATURE] = _concrete(self._explain, self._specs)
        return found

    def _predict_examples(self, examples: tf.Tensor) -> Tensors:
        return _answers(self._logits_of_examples(examples))

    def _predict(self, named: Tensors) -> Tensors:
        return _answers(self._model.click_logits(self._features(transform_inputs(named))))

    def _classify(self, examples: tf.Tensor) -> Tensors:
        logits = self._logits_of_examples(examples)
        classes = tf.tile(tf.constant([CLASSES]), [tf.size(logits), 1])  # (B, 2)
        return {CLASSES_OUTPUT: classes, SCORES_OUTPUT: tf.sigmoid(tf.stack([-logits, logits], axis=1))}

    def _regress(self, examples: tf.Tensor) -> Tensors:
        return {REGRESS_OUTPUT: tf.sigmoid(self._logits_of_examples(examples))}

    def _score_candidates(self, inputs: Tensors) -> Tensors:
        raw, chosen = as_rows(inputs)
        features = {name: chosen.of_candidates(name, x) for name, x in self._features(raw).items()}
        return _answers(chosen.by_request(self._model.click_logits(features)))

    def _explain(self, named: Tensors) -> Tensors:
        logits, of_fields = contributions(self._model, self._features(transform_inputs(named)))
        names = tf.constant([[field.name for field in self._schema.token_fields]])  # (1, F)
        return {**_answers(logits), FIELD_OUTPUT: tf.tile(names, [tf.size(logits), 1]), CONTRIBUTION_OUTPUT: of_fields}

    def _logits_of_examples(self, examples: tf.Tensor) -> tf.Tensor:
        return self._model.click_logits(self._features(parse_to_transform(examples, self._specs)))

    def _features(self, raw: RawFeatures) -> Tensors:
        """What the model reads of the transform graph's outputs, whose lists are filled up with the row of missing values."""
        transformed, places = self._transform(raw), self._schema.places
        ids = tf.cast(transformed["ids"], tf.int32)
        lists = {field.name: tf.cast(transformed[field.name], tf.int32) for field in self._schema.list_fields}
        return {
            "ids": ids if len(places) == len(self._schema.record_id_fields) else tf.gather(ids, places, axis=1),
            **{name: tf.where(ids == MISSING_ROW, -1, ids) for name, ids in lists.items()},
        }


def _answers(logits: tf.Tensor) -> Tensors:
    return {PROBABILITY_OUTPUT: tf.sigmoid(logits), LOGIT_OUTPUT: logits}


def _of_examples(function: Callable[[tf.Tensor], Tensors], name: str) -> Callable:
    return _concrete(lambda inputs: function(inputs[name]), {name: tf.TensorSpec([None], tf.string, name)})


def _concrete(function: Callable[[Tensors], Tensors], specs: Mapping[str, tf.TensorSpec]) -> Callable:
    return tf.function(function, autograph=False).get_concrete_function(dict(specs))


def _variables_read_by(functions: Iterable[Callable]) -> list[tf.Variable]:
    variables = [variable for function in functions for variable in function.graph.variables]
    return list({variable.ref(): variable for variable in variables}.values())
