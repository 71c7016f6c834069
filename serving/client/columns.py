"""Columns of a program to tensors of a signature, and answers back to columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import predict_pb2

from serving.client.refusals import invalid

Calls = list[dict[str, np.ndarray]]  # the inputs of each call


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a signature, by name."""

    inputs: dict[str, tf.TensorSpec]
    outputs: dict[str, tf.TensorSpec]

    @cached_property
    def inner_inputs(self) -> dict[str, tf.TensorSpec]:
        """The inputs without their first dimension."""
        return {name: tf.TensorSpec(spec.shape[1:], spec.dtype) for name, spec in self.inputs.items()}


def as_arrays(columns: Mapping[str, Sequence], specs: Mapping[str, tf.TensorSpec], asked: object) -> dict[str, np.ndarray]:
    """The columns as the signature takes them, each `[rows, ...]`.

    Args:
      asked: who takes them, for the message.

    Raises:
      PredictError: columns are missing, too many, of another type or shape, or of different length.
    """
    if set(columns) != set(specs):
        raise invalid(
            f"{asked} takes the columns {sorted(specs)}: missing {sorted(set(specs) - set(columns))}, "
            f"not known {sorted(set(columns) - set(specs))}"
        )
    arrays = {name: _as_array(name, columns[name], spec) for name, spec in specs.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise invalid(f"columns must be of one length, received {lengths}")
    return arrays


def _as_array(name: str, values: Sequence, spec: tf.TensorSpec) -> np.ndarray:
    texts = spec.dtype == tf.string
    try:
        if not len(values):
            return np.empty([0] * (spec.shape.rank or 1), object if texts else spec.dtype.as_numpy_dtype)
        if texts and spec.shape.rank == 2:
            values = _filled_up(values)
        array = np.asarray(values, dtype=object if texts else spec.dtype.as_numpy_dtype)
    except (TypeError, ValueError) as error:
        raise invalid(f"column {name}: expected {spec.dtype.name} values: {error}") from error
    if not spec.shape.is_compatible_with(array.shape):
        expected = "one value a row" if spec.shape.rank == 1 else f"{spec.shape[1] or 'several'} values a row"
        raise invalid(f"column {name}: expected {expected}, received an array of shape {array.shape}")
    return _with_empty_texts(name, array) if texts else array


def _with_empty_texts(name: str, array: np.ndarray) -> np.ndarray:
    """Texts with the empty one in place of None and NaN, by which programs say that there is none."""
    if all(issubclass(kind, str | bytes) for kind in set(map(type, array.flat))):
        return array
    array = np.where(pd.isna(array), "", array)
    if odd := sorted({type(value).__name__ for value in array.flat if not isinstance(value, str | bytes)}):
        raise invalid(
            f"column {name}: expected string values: received {', '.join(odd)}; convert them, as the log has them, with str()"
        )
    return array


def _filled_up(lists: Sequence[Sequence[str] | None]) -> list[list[str]]:
    """Lists of texts, made equally long by empty ones in front, at least one, which mean nothing to the model.

    A server that joins calls into batches may fill shorter lists up with their first text, which thus means nothing too.
    """
    if any(isinstance(one, str | bytes) for one in lists):
        raise TypeError("a sequence of texts a row, received a text")
    lists = [() if one is None else one for one in lists]
    length = 1 + max(map(len, lists))
    return [[*[""] * (length - len(one)), *one] for one in lists]


def chunks(arrays: Mapping[str, np.ndarray], rows: int) -> Calls:
    """The arrays in stretches of at most `rows` rows."""
    total = len(next(iter(arrays.values())))
    return [{name: array[start : start + rows] for name, array in arrays.items()} for start in range(0, total, rows)]


def fill(proto: TensorProto, array: np.ndarray, dtype: tf.DType) -> None:
    """As `tf.make_tensor_proto`, which spends most of its time on types and shapes that are known here."""
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype == tf.string:
        proto.string_val.extend([text.encode() if isinstance(text, str) else text for text in array.flat])
    else:
        proto.tensor_content = array.tobytes()


def outputs_of(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(proto) for name, proto in sorted(response.outputs.items())}


def joined(answers: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs of chunks, one behind the other."""
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def empty_outputs(signature: Signature, batch_dimensions: int = 1) -> dict[str, np.ndarray]:
    """The outputs for no rows, where the first `batch_dimensions` dimensions of the signature's outputs together are the rows."""
    specs = signature.outputs.items()
    return {
        name: np.zeros([0] * (1 + (spec.shape.rank or 1) - batch_dimensions), spec.dtype.as_numpy_dtype) for name, spec in specs
    }
