"""The signatures of a served model: raw features in, click probability out.

| signature         | inputs                                              | outputs                               |
| ----------------- | --------------------------------------------------- | ------------------------------------- |
| `serving_default` | `examples`: string `[B]`, serialized raw tf.Example | `probability`, `logit`: float32 `[B]` |
| `predict`         | one tensor a field, by its name                     | the same                              |

| field                            | in a tf.Example              | tensor of `predict`                            |
| -------------------------------- | ---------------------------- | ---------------------------------------------- |
| categorical; vector of a table   | one text; one text, the key  | string `[B]`                                   |
| numeric                          | one float                    | float32 `[B]`                                  |
| multivalued, sequence            | any number of texts          | string `[B, L]`, filled up with `""`, any L    |
| vector                           | `size` floats                | float32 `[B, size]`                            |

An absent feature, `""` and NaN all mean missing. No label, group, timestamp, key, weight or split column is an input. A
server that batches requests needs the same L in all of them.
"""

from collections.abc import Mapping

import tensorflow as tf

from preprocessing.schema import AnyField, ListField, NumericField, Schema, VectorField

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
NAMED_SIGNATURE = "predict"
EXAMPLES_INPUT = "examples"
PROBABILITY_OUTPUT = "probability"
LOGIT_OUTPUT = "logit"

MISSING_VALUE = {tf.string: "", tf.float32: float("nan")}


def raw_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """The tensors of `predict`."""
    return {field.name: _raw_spec(field) for field in schema.fields}


def _raw_spec(field: AnyField) -> tf.TensorSpec:
    if isinstance(field, NumericField):
        return tf.TensorSpec([None], tf.float32, field.name)
    if isinstance(field, ListField):
        return tf.TensorSpec([None, None], tf.string, field.name)
    if isinstance(field, VectorField) and not field.table:
        return tf.TensorSpec([None, field.size], tf.float32, field.name)
    return tf.TensorSpec([None], tf.string, field.name)


def parse_raw_examples(examples: tf.Tensor, specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """Parses serialized raw tf.Examples `[B]` into the tensors of `predict`; an absent feature is missing.

    Raises:
      tf.errors.InvalidArgumentError: a feature has another type, or another number of values than its field takes.
    """
    parsed = tf.io.parse_example(examples, {name: _feature(spec) for name, spec in specs.items()})
    return {name: tf.sparse.to_dense(x, MISSING_VALUE[x.dtype]) if isinstance(x, tf.SparseTensor) else x for name, x in parsed.items()}


def _feature(spec: tf.TensorSpec) -> tf.io.FixedLenFeature | tf.io.VarLenFeature:
    if _is_list(spec):
        return tf.io.VarLenFeature(spec.dtype)
    shape = spec.shape[1:]
    return tf.io.FixedLenFeature(shape, spec.dtype, tf.fill(shape, MISSING_VALUE[spec.dtype]))


def transform_inputs(named: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """The tensors of `predict` as the transform graph takes them: lists sparse, without what fills them up."""
    return {name: tf.sparse.from_dense(x) if _is_list(x) else x for name, x in named.items()}


def _is_list(x: tf.Tensor | tf.TensorSpec) -> bool:
    return x.dtype == tf.string and x.shape.rank == 2
