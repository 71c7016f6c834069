"""Beam's RunInference over a SavedModel's signature, a record batch at a time.

Beam's own handlers for TensorFlow load a Keras model, element by element, and need tensorflow_hub; an export is neither a Keras
model nor made for single rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler, PredictionResult
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from preprocessing.errors import UserError
from serving.signature_defs import read_signature_defs


def read_signature(version_dir: Path, signature: str) -> SignatureDef:
    """A signature of a SavedModel, without loading the model.

    Raises:
      UserError: the folder holds no SavedModel, or one without that signature.
    """
    try:
        found = read_signature_defs(version_dir)
    except (OSError, DecodeError, LookupError) as error:
        raise UserError(f"model {version_dir} is not a SavedModel ({error}): export the model again") from error
    if signature not in found:
        raise UserError(f"model {version_dir} has no signature {signature!r}: it has {sorted(found)}; choose another --signature")
    return found[signature]


class _Loaded:
    """A signature, and the model whose variables it reads; Beam shares it between the threads of a process."""

    def __init__(self, folder: str, signature: str):
        self._model = tf.saved_model.load(folder)  # a signature alone does not keep the variables alive
        self.signature = self._model.signatures[signature]


class SavedModelHandler(ModelHandler[pa.RecordBatch, PredictionResult, _Loaded]):
    """Answers record batches of features with record batches of outputs.

        beam.Create(batches) | RunInference(SavedModelHandler("exports/clicks/7"))

    An example holds one column an input of the signature, by its name; types as of `serving.reading.Column.read`. Other
    columns are not looked at. The inference of its `PredictionResult` has one column an output, of as many rows.

    Args:
      folder: the SavedModel, where each worker reaches it.
      signature: its inputs are one tensor a column.
      call_rows: rows that one call of the model takes at most, which bounds its memory.
    """

    def __init__(self, folder: str, signature: str = "predict", call_rows: int = 4096):
        super().__init__(min_batch_size=1, max_batch_size=1)  # an example is a batch already
        self._folder, self._signature, self._call_rows = folder, signature, call_rows

    def load_model(self) -> _Loaded:
        return _Loaded(self._folder, self._signature)

    def run_inference(self, batch: Sequence[pa.RecordBatch], model: _Loaded,
                      inference_args: Mapping[str, Any] | None = None) -> Iterator[PredictionResult]:  # fmt: skip
        for example in batch:
            yield PredictionResult(example, self._answered(example, model.signature), self._folder)

    def get_num_bytes(self, batch: Sequence[pa.RecordBatch]) -> int:
        return sum(example.nbytes for example in batch)

    def _answered(self, example: pa.RecordBatch, signature) -> pa.RecordBatch:
        names = signature.structured_input_signature[1]
        starts = range(0, max(len(example), 1), self._call_rows)  # without rows the outputs' types are still wanted
        parts = [example.slice(start, self._call_rows) for start in starts]
        answers = [signature(**{name: _tensor(part[name]) for name in names}) for part in parts]
        columns = {name: np.concatenate([answer[name].numpy() for answer in answers]) for name in sorted(answers[0])}
        return pa.RecordBatch.from_pydict({name: _column(values) for name, values in columns.items()})


def _tensor(column: pa.Array) -> tf.Tensor:
    """A column as the signature takes it: texts `[B]` or `[B, L]`, filled up with "", numbers `[B]` or `[B, size]`."""
    if pa.types.is_fixed_size_list(column.type):
        return tf.constant(column.flatten().to_numpy().reshape(len(column), column.type.list_size))
    if pa.types.is_list(column.type):
        return _list_tensor(column)
    if pa.types.is_dictionary(column.type):
        return _gathered(column.dictionary, pc.fill_null(column.indices, len(column.dictionary)).to_numpy())
    return tf.constant(column.to_numpy())


def _list_tensor(column: pa.ListArray) -> tf.Tensor:
    texts, lengths = column.flatten(), column.value_lengths().to_numpy()
    places = np.full((len(column), lengths.max(initial=0)), len(texts.dictionary), np.int32)
    places[np.arange(places.shape[1]) < lengths[:, None]] = texts.indices.to_numpy()
    return _gathered(texts.dictionary, places)


def _gathered(texts: pa.Array, places: np.ndarray) -> tf.Tensor:
    """The texts at these places, "" behind the last one. Each different text crosses over to TensorFlow once."""
    return tf.gather(tf.constant([*texts.to_pylist(), ""]), places)


def _column(values: np.ndarray) -> pa.Array:
    flat = values.ravel()
    column = pa.array([value.decode() for value in flat], pa.string()) if flat.dtype == object else pa.array(flat)
    return column if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(column, int(np.prod(values.shape[1:])))
