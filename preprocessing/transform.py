"""The transform graph: raw features to `ids` and `values`, the same in preprocessing and in the served model."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import impl_helper
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

from preprocessing.schema import BUCKETS_FILE, MISSING_ROW, SPECIAL_ROWS, VOCABULARIES, CategoricalField, Schema
from preprocessing.statistics import Buckets

VALUE_LIMIT = 5.0


@dataclass(frozen=True)
class Scale:
    """What the graph knows of a numeric field: bucket boundaries (float32 numbers), mean and standard deviation."""

    boundaries: tuple[float, ...]
    mean: float
    standard_deviation: float

    @classmethod
    def of(cls, buckets: Buckets) -> "Scale":
        return cls(tuple(buckets.boundaries.tolist()), buckets.mean, buckets.deviation)


def write_buckets(data_dir: Path, scales: dict[str, Scale]) -> None:
    """Writes `buckets.json`; Python writes floats so that they read back to the same bits."""
    (data_dir / BUCKETS_FILE).write_text(json.dumps({name: asdict(scale) for name, scale in scales.items()}, indent=1))


def read_buckets(data_dir: Path) -> dict[str, Scale]:
    content = json.loads((data_dir / BUCKETS_FILE).read_text())
    return {name: Scale(tuple(scale["boundaries"]), scale["mean"], scale["standard_deviation"])
            for name, scale in content.items()}


def raw_feature_spec(schema: Schema) -> dict[str, tf.io.FixedLenFeature]:
    """How a request's `tf.train.Example` is parsed; a feature that is absent is missing."""
    return {
        field.name: tf.io.FixedLenFeature([], tf.string, "") if isinstance(field, CategoricalField)
        else tf.io.FixedLenFeature([], tf.float32, float("nan"))
        for field in schema.fields
    }


def make_preprocessing_fn(schema: Schema, data_dir: Path) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Builds the function that tensorflow_transform traces.

    Args:
      schema: the resolved schema.
      data_dir: folder with `vocabularies/` and `buckets.json`.

    Returns:
      A function from raw features, each [B], to `ids` int64 [B, F], local to each field, and `values` float32
      [B, numeric fields]: (x - mean) / standard deviation, clipped to [-5, 5], 0 where missing.
    """
    scales = read_buckets(data_dir)

    def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids, values = [], []
        for field in schema.fields:
            x = inputs[field.name]  # [B]
            if isinstance(field, CategoricalField):
                vocabulary = str(data_dir / VOCABULARIES / f"{field.name}.txt")
                ids.append(_categorical_ids(x, schema.missing, vocabulary, field.rows - SPECIAL_ROWS))
            else:
                ids.append(_numeric_ids(x, scales[field.name]))
                values.append(_scaled(x, scales[field.name]))
        packed = tf.stack(values, axis=1) if values else tf.zeros([tf.shape(ids[0])[0], 0])
        return {"ids": tf.stack(ids, axis=1), "values": packed}  # [B, F], [B, numeric]

    return preprocessing_fn


def _categorical_ids(x: tf.Tensor, missing: tuple[str, ...], vocabulary: str, size: int) -> tf.Tensor:
    """Row 0 for missing, 1 (= -1 + 2) for a value that is not in the vocabulary, 2.. for line 0.. of the vocabulary."""
    # TensorFlow refuses an empty table.
    line = tft.apply_vocabulary(x, vocabulary, default_value=-1) if size else -tf.ones_like(x, tf.int64)
    is_missing = tf.reduce_any(x[:, None] == tf.constant(["", *missing]), axis=1)  # [B, texts] -> [B]
    return tf.where(is_missing, tf.constant(MISSING_ROW, tf.int64), line + SPECIAL_ROWS)


def _numeric_ids(x: tf.Tensor, scale: Scale) -> tf.Tensor:
    if scale.boundaries:
        bucket = tft.apply_buckets(x, tf.constant([scale.boundaries], tf.float32))
    else:
        bucket = tf.zeros_like(x, tf.int64)
    return tf.where(tf.math.is_nan(x), tf.constant(MISSING_ROW, tf.int64), bucket + SPECIAL_ROWS)


def _scaled(x: tf.Tensor, scale: Scale) -> tf.Tensor:
    # In float64: the distance of two large float32 numbers divided by a small deviation.
    scaled = (tf.cast(x, tf.float64) - scale.mean) / scale.standard_deviation
    scaled = tf.cast(tf.clip_by_value(scaled, -VALUE_LIMIT, VALUE_LIMIT), tf.float32)
    return tf.where(tf.math.is_nan(x), 0.0, scaled)


def write_transform(schema: Schema, data_dir: Path) -> None:
    """Traces the graph and writes it as a tensorflow_transform output, with its vocabularies as assets."""
    spec = raw_feature_spec(schema)
    impl_helper.analyze_in_place(
        make_preprocessing_fn(schema, data_dir),
        force_tf_compat_v1=False,
        feature_specs=spec,
        type_specs={name: tf.TensorSpec([None], feature.dtype) for name, feature in spec.items()},
        transform_output_path=str(data_dir),
    )
    # The metadata format has no defaults: a server parses with `raw_feature_spec`.
    plain = {name: tf.io.FixedLenFeature([], feature.dtype) for name, feature in spec.items()}
    raw_metadata = dataset_metadata.DatasetMetadata.from_feature_spec(plain)
    metadata_io.write_metadata(raw_metadata, str(data_dir / tft.TFTransformOutput.RAW_METADATA_DIR))


class Transformer:
    """A data folder's transform graph, loaded and ready for batches of Arrow and numpy columns."""

    def __init__(self, data_dir: Path, schema: Schema):
        layer = tft.TFTransformOutput(str(data_dir)).transform_features_layer()
        signature = {name: tf.TensorSpec([None], feature.dtype, name)
                     for name, feature in raw_feature_spec(schema).items()}
        self._layer = layer
        self._function = tf.function(lambda raw: layer(raw), input_signature=[signature])

    def __call__(self, features: dict[str, pa.Array | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int64 [rows, F] and values float32 [rows, numeric]."""
        raw = {name: tf.constant(column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column)
               for name, column in features.items()}
        outputs = self._function(raw)
        return outputs["ids"].numpy(), outputs["values"].numpy()
