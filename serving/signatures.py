"""The signatures of a served model: raw features in, click probability out.

| signature         | inputs                                                   | outputs                               |
| ----------------- | -------------------------------------------------------- | ------------------------------------- |
| `serving_default` | `examples`: string `[B]`, serialized raw tf.Example      | `probability`, `logit`: float32 `[B]` |
| `predict`         | one tensor a field, `[B]`, string or float32, field name | the same                              |

An absent feature, `""` and NaN all mean missing. No label, group, timestamp or split column is an input.
"""

from collections.abc import Mapping

import tensorflow as tf

from preprocessing.schema import NumericField, Schema

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
NAMED_SIGNATURE = "predict"
EXAMPLES_INPUT = "examples"
PROBABILITY_OUTPUT = "probability"
LOGIT_OUTPUT = "logit"

MISSING_VALUE = {tf.string: "", tf.float32: float("nan")}


def raw_dtypes(schema: Schema) -> dict[str, tf.DType]:
    """The dtype of each raw feature: float32 for a numeric field, string for any other."""
    return {field.name: tf.float32 if isinstance(field, NumericField) else tf.string for field in schema.fields}


def parse_raw_examples(examples: tf.Tensor, dtypes: Mapping[str, tf.DType]) -> dict[str, tf.Tensor]:
    """Parses serialized raw tf.Examples `[B]` into one `[B]` tensor a feature; an absent feature is missing.

    Raises:
      tf.errors.InvalidArgumentError: a feature has another type, or a number of values other than one.
    """
    spec = {name: tf.io.FixedLenFeature([], dtype, MISSING_VALUE[dtype]) for name, dtype in dtypes.items()}
    return tf.io.parse_example(examples, spec)
