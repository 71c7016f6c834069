"""The signatures of a served model: raw features in, click probability out.

| signature         | inputs                                                 | outputs                                         |
| ----------------- | ------------------------------------------------------ | ----------------------------------------------- |
| `serving_default` | `examples`: string `[B]`, serialized raw tf.Example    | `probability`, `logit`: float32 `[B]`           |
| `predict`         | one tensor a field, by its name                        | the same                                        |
| `classify`        | `inputs`: as `examples`                                | `classes`: string `[B, 2]`, `0` and `1`;        |
|                   |                                                        | `scores`: float32 `[B, 2]`, their probabilities |
| `regress`         | `inputs`: as `examples`                                | `outputs`: float32 `[B]`, the probability       |
| `candidates`      | one tensor a field; `candidate_count`, `shared_fields` | `probability`, `logit`: float32 `[R, K]`        |
| `explain`         | one tensor a field, by its name                        | `probability`, `logit`: float32 `[B]`; `field`: |
|                   |                                                        | string, `contribution`: float32, both `[B, F]`  |

| field                          | in a tf.Example             | tensor of `predict`, `explain`       | tensor of `candidates` |
| ------------------------------ | --------------------------- | ------------------------------------ | ---------------------- |
| categorical; vector of a table | one text; one text, the key | string `[B]`                         | string `[R, k]`        |
| numeric                        | one float                   | float32 `[B]`                        | float32 `[R, k]`       |
| multivalued, sequence          | any number of texts         | string `[B, L]`, filled up with `""` | string `[R, k, L]`     |
| vector                         | `size` floats               | float32 `[B, size]`                  | float32 `[R, k, size]` |

An absent feature, `""` and NaN all mean missing. No label, group, timestamp, key, weight or split column is an input. Every
input and output has the batch (B rows, or R requests) as its first dimension, so that a server can join requests.

Lists are filled up with `""` at any place: the transform graph drops it and keeps the order of the rest. A server that joins
requests refuses different L, or fills up itself (`pad_variable_length_inputs`): with the first element of the request's tensor.
So a request to such a server begins its lists with `""` (`joinable`); else the first list's first value comes back at the end of
all lists.

`classify` and `regress` are what the Classify and Regress calls ask for, and read one tensor, so that MultiInference can ask
for both. `candidates` scores up to K candidates of each of R requests, with what they have in common sent once (see
`serving.export.candidate_rows`). `explain` is there where the model has learnt what a masked feature means (see `serving.export.explain`).
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from preprocessing.schema import AnyField, ListField, NumericField, Schema, VectorField

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
NAMED_SIGNATURE = "predict"
CLASSIFY_SIGNATURE = "classify"
REGRESS_SIGNATURE = "regress"
CANDIDATES_SIGNATURE = "candidates"
EXPLAIN_SIGNATURE = "explain"

EXAMPLES_INPUT = "examples"
CLASSIFY_INPUT = tf.saved_model.CLASSIFY_INPUTS
REGRESS_INPUT = tf.saved_model.REGRESS_INPUTS
CANDIDATE_COUNT_INPUT = "candidate_count"
SHARED_FIELDS_INPUT = "shared_fields"

PROBABILITY_OUTPUT = "probability"
LOGIT_OUTPUT = "logit"
CLASSES_OUTPUT = tf.saved_model.CLASSIFY_OUTPUT_CLASSES
SCORES_OUTPUT = tf.saved_model.CLASSIFY_OUTPUT_SCORES
REGRESS_OUTPUT = tf.saved_model.REGRESS_OUTPUTS
FIELD_OUTPUT = "field"
CONTRIBUTION_OUTPUT = "contribution"

CLASSES = ("0", "1")  # no click, click
MISSING_VALUE = {tf.string: "", tf.float32: float("nan")}


def raw_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """The tensors of `predict` and `explain`."""
    return {field.name: _raw_spec(field) for field in schema.fields}


def _raw_spec(field: AnyField) -> tf.TensorSpec:
    if isinstance(field, NumericField):
        return tf.TensorSpec([None], tf.float32, field.name)
    if isinstance(field, ListField):
        return tf.TensorSpec([None, None], tf.string, field.name)
    if isinstance(field, VectorField) and not field.table:
        return tf.TensorSpec([None, field.size], tf.float32, field.name)
    return tf.TensorSpec([None], tf.string, field.name)


def candidate_specs(specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    """The tensors of `candidates`, from those of `predict`: each has the candidates of a request as its second dimension."""
    fields = {name: tf.TensorSpec([None, None, *spec.shape[1:]], spec.dtype, name) for name, spec in specs.items()}
    return {
        **fields,
        CANDIDATE_COUNT_INPUT: tf.TensorSpec([None], tf.int64, CANDIDATE_COUNT_INPUT),
        SHARED_FIELDS_INPUT: tf.TensorSpec([None], tf.string, SHARED_FIELDS_INPUT),
    }


def parse_raw_examples(examples: tf.Tensor, specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """Parses serialized raw tf.Examples `[B]` into the tensors of `predict`; an absent feature is missing.

    Raises:
      tf.errors.InvalidArgumentError: a feature has another type, or another number of values than its field takes.
    """
    parsed = parse_to_transform(examples, specs)
    return {
        name: tf.sparse.to_dense(x, MISSING_VALUE[x.dtype]) if isinstance(x, tf.SparseTensor) else x for name, x in parsed.items()
    }


def joinable(named: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The tensors of `predict` with an empty text in front of each list, so that a server may fill them up."""
    return {name: tf.pad(x, [[0, 0], [1, 0]], constant_values="") if is_list(x) else x for name, x in named.items()}


def parse_to_transform(examples: tf.Tensor, specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """The same as `transform_inputs` of `parse_raw_examples`, without filling lists up and emptying them again."""
    return tf.io.parse_example(examples, {name: _feature(spec) for name, spec in specs.items()})


def _feature(spec: tf.TensorSpec) -> tf.io.FixedLenFeature | tf.io.VarLenFeature:
    if is_list(spec):
        return tf.io.VarLenFeature(spec.dtype)
    shape = spec.shape[1:]
    return tf.io.FixedLenFeature(shape, spec.dtype, np.full(shape, MISSING_VALUE[spec.dtype]))


def transform_inputs(named: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """The tensors of `predict` as the transform graph takes them: lists sparse, without what fills them up."""
    return {name: tf.sparse.from_dense(x) if is_list(x) else x for name, x in named.items()}


def is_list(x: tf.Tensor | tf.TensorSpec) -> bool:
    """Whether a tensor of `predict` is a field's lists."""
    return x.dtype == tf.string and x.shape.rank == 2
