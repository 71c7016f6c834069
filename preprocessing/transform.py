"""The transform graph: raw features to ids, scaled values, lists and vectors, the same in preprocessing and in serving."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import impl_helper
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

from preprocessing.encoded import Encoded
from preprocessing.schema import (
    BUCKETS_FILE,
    MISSING_ROW,
    SPECIAL_ROWS,
    UNKNOWN_ROW,
    VECTORS,
    VOCABULARIES,
    AnyField,
    CategoricalField,
    ListField,
    NamedField,
    NumericField,
    Schema,
    SequenceField,
    VectorField,
)
from preprocessing.statistics import Buckets
from preprocessing.values import missing_numbers

VALUE_LIMIT = 5.0
_NOT_THERE = UNKNOWN_ROW - SPECIAL_ROWS  # what a table of lines answers to a text that is no line of it; the row follows

RawFeature = tf.Tensor | tf.SparseTensor
TableMaker = Callable[[Path], tf.lookup.StaticHashTable]


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


def raw_feature_spec(schema: Schema) -> dict[str, tf.io.FixedLenFeature | tf.io.VarLenFeature]:
    """How a request's `tf.train.Example` is parsed; a feature that is absent is missing."""
    return {field.name: _raw_feature(field) for field in schema.fields}


def _raw_feature(field: AnyField) -> tf.io.FixedLenFeature | tf.io.VarLenFeature:
    if isinstance(field, NumericField):
        return tf.io.FixedLenFeature([], tf.float32, float("nan"))
    if isinstance(field, ListField):
        return tf.io.VarLenFeature(tf.string)
    if isinstance(field, VectorField) and not field.table:
        return tf.io.FixedLenFeature([field.size], tf.float32, [float("nan")] * field.size)
    return tf.io.FixedLenFeature([], tf.string, "")


class FieldGraphs:
    """What becomes of the raw values of each field, as TensorFlow operations.

    Args:
      schema: the resolved schema.
      data_dir: folder with `vocabularies/`, `buckets.json` and `vectors/`.
      make_table: makes, once a file, the table from the lines of a file to their numbers.
    """

    def __init__(self, schema: Schema, data_dir: Path, make_table: TableMaker):
        self._schema, self._data_dir, self._make_table = schema, data_dir, make_table
        self._scales = read_buckets(data_dir)
        self._missing_texts = tf.constant(["", *schema.missing])
        self._missing_numbers = tf.constant(missing_numbers(schema.missing), tf.float32)

    def name_ids(self, field: NamedField, x: tf.Tensor) -> tf.Tensor:
        """string [N] -> int64 [N]: row 0 missing; 1 unknown; 2.. the lines of the vocabulary, or the buckets of the hash."""
        owner = self._schema.owner(field)
        if owner.hash_buckets:
            row = tf.strings.to_hash_bucket_fast(x, owner.hash_buckets) + SPECIAL_ROWS
        elif owner.rows == SPECIAL_ROWS:  # TensorFlow refuses an empty table
            row = UNKNOWN_ROW * tf.ones_like(x, tf.int64)
        else:
            row = self._make_table(self._data_dir / VOCABULARIES / f"{owner.name}.txt").lookup(x) + SPECIAL_ROWS
        return tf.where(self._is_missing(x), tf.constant(MISSING_ROW, tf.int64), row)

    def number_ids(self, field: NumericField, x: tf.Tensor) -> tf.Tensor:
        """float32 [B] -> int64 [B]: row 0 missing, 2.. the buckets."""
        boundaries = self._scales[field.name].boundaries
        if boundaries:
            bucket = tft.apply_buckets(x, tf.constant([boundaries], tf.float32))
        else:
            bucket = tf.zeros_like(x, tf.int64)
        return tf.where(self._is_missing_number(x), tf.constant(MISSING_ROW, tf.int64), bucket + SPECIAL_ROWS)

    def scaled(self, field: NumericField, x: tf.Tensor) -> tf.Tensor:
        """float32 [B] -> float32 [B]: (x - mean) / standard deviation, clipped to [-5, 5], 0 where missing."""
        scale = self._scales[field.name]
        # In float64: the distance of two large float32 numbers divided by a small deviation.
        scaled = (tf.cast(x, tf.float64) - scale.mean) / scale.standard_deviation
        scaled = tf.cast(tf.clip_by_value(scaled, -VALUE_LIMIT, VALUE_LIMIT), tf.float32)
        return tf.where(self._is_missing_number(x), 0.0, scaled)

    def cut_list(self, field: ListField, ids: tf.Tensor, row_of_id: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        """ids int64 [N] of rows int64 [N], ascending -> int64 [B, <= max_length]: the last, or first, that are not missing."""
        there = ids != MISSING_ROW
        kept = tf.RaggedTensor.from_value_rowids(ids[there], row_of_id[there], nrows=rows, validate=False)
        return kept[:, -field.max_length:] if isinstance(field, SequenceField) else kept[:, :field.max_length]

    def vector(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 [B, size] -> the same with zeros where missing, and int64 [B], 1 where missing: not finite throughout."""
        missing = ~tf.reduce_all(tf.math.is_finite(x), axis=1)
        return tf.where(missing[:, None], 0.0, x), tf.cast(missing, tf.int64)

    def vector_rows(self, field: VectorField, x: tf.Tensor) -> tf.Tensor:
        """string [N] -> int64 [N]: rows of the side table; 0: missing, or not in it."""
        if field.rows == 1:  # TensorFlow refuses an empty table
            return tf.zeros_like(x, tf.int64)
        line = self._make_table(self._data_dir / VECTORS / f"{field.name}.txt").lookup(x)
        return tf.where(self._is_missing(x), tf.constant(0, tf.int64), line + 1)

    def _is_missing(self, x: tf.Tensor) -> tf.Tensor:
        return x == "" if not self._schema.missing else _is_among(x, self._missing_texts)

    def _is_missing_number(self, x: tf.Tensor) -> tf.Tensor:
        missing = tf.math.is_nan(x)
        return missing if not self._missing_numbers.shape[0] else missing | _is_among(x, self._missing_numbers)


def _is_among(x: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """[N], [n] -> bool [N]. The graph runs at every request, where each operation counts: not called where none is among."""
    return tf.reduce_any(x[:, None] == values, axis=1)


def _table_of_lines(path: Path) -> tf.lookup.StaticHashTable:
    lines = tf.lookup.TextFileInitializer(
        str(path), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
    return tf.lookup.StaticHashTable(lines, default_value=_NOT_THERE)


def make_preprocessing_fn(schema: Schema, data_dir: Path) -> Callable[[dict[str, RawFeature]], dict[str, tf.Tensor]]:
    """Builds the function that tensorflow_transform traces.

    Args:
      schema: the resolved schema.
      data_dir: folder with `vocabularies/`, `buckets.json` and `vectors/`.

    Returns:
      A function from raw features (`raw_feature_spec`, parsed) to
      `ids`: int64 [B, F], of `schema.id_fields`, local to each field;
      `values`: float32 [B, numeric fields], scaled;
      each list field by its name: int64 [B, max_length], local ids, padded with row 0;
      each inline vector by its name: float32 [B, size], and NAME_missing: int64 [B];
      each vector with a side table by its name: int64 [B], a row of the table.
    """

    def tracked_table(path: Path) -> tf.lookup.StaticHashTable:
        return tft.make_and_track_object(lambda: _table_of_lines(path), name=f"{path.parent.name}_{path.stem}")

    @tf.autograph.experimental.do_not_convert
    def preprocessing_fn(inputs: dict[str, RawFeature]) -> dict[str, tf.Tensor]:
        graphs = FieldGraphs(schema, data_dir, tracked_table)
        ids, values, outputs = [], [], {}
        for field in schema.fields:
            x = inputs[field.name]
            if isinstance(field, CategoricalField):
                ids.append(graphs.name_ids(field, x))
            elif isinstance(field, NumericField):
                ids.append(graphs.number_ids(field, x))
                values.append(graphs.scaled(field, x))
            elif isinstance(field, ListField):
                kept = graphs.cut_list(field, graphs.name_ids(field, x.values), x.indices[:, 0], x.dense_shape[0])
                outputs[field.name] = kept.to_tensor(MISSING_ROW, shape=[None, field.max_length])
            elif field.table:
                outputs[field.name] = graphs.vector_rows(field, x)
            else:
                outputs[field.name], outputs[f"{field.name}_missing"] = graphs.vector(x)
        return {"ids": tf.stack(ids, axis=1), "values": _packed(values, tf.shape(ids[0])[0]), **outputs}

    return preprocessing_fn


def _packed(values: list[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    return tf.stack(values, axis=1) if values else tf.zeros([rows, 0])


def write_transform(schema: Schema, data_dir: Path) -> None:
    """Traces the graph and writes it as a tensorflow_transform output, with its vocabularies as assets."""
    spec = raw_feature_spec(schema)
    impl_helper.analyze_in_place(
        make_preprocessing_fn(schema, data_dir),
        force_tf_compat_v1=False,
        feature_specs=spec,
        type_specs={name: _type_spec(feature) for name, feature in spec.items()},
        transform_output_path=str(data_dir),
    )
    # The metadata format has no defaults: a server parses with `raw_feature_spec`.
    plain = {name: feature if isinstance(feature, tf.io.VarLenFeature) else tf.io.FixedLenFeature(feature.shape, feature.dtype)
             for name, feature in spec.items()}
    raw_metadata = dataset_metadata.DatasetMetadata.from_feature_spec(plain)
    metadata_io.write_metadata(raw_metadata, str(data_dir / tft.TFTransformOutput.RAW_METADATA_DIR))


def _type_spec(feature: tf.io.FixedLenFeature | tf.io.VarLenFeature) -> tf.TypeSpec:
    if isinstance(feature, tf.io.VarLenFeature):
        return tf.SparseTensorSpec([None, None], feature.dtype)
    return tf.TensorSpec([None, *feature.shape], feature.dtype)


class Transformer:
    """The operations of a data folder's transform graph, for batches of Arrow and numpy columns.

    Only the different texts of a column cross over to TensorFlow; their ids are gathered to the rows there.
    """

    def __init__(self, data_dir: Path, schema: Schema):
        self._schema = schema
        self._tables: dict[Path, tf.lookup.StaticHashTable] = {}
        self._graphs = FieldGraphs(schema, data_dir, self._table)
        signature = {field.name: _column_spec(field) for field in schema.fields}
        self._function = tf.function(self._encode, input_signature=[signature], autograph=False)

    def __call__(self, features: dict[str, pa.Array | np.ndarray]) -> Encoded:
        """Encodes the features of `preprocessing.rows.Rows`."""
        raw = {field.name: _column(field, features[field.name]) for field in self._schema.fields}
        found = tf.nest.map_structure(lambda tensor: tensor.numpy(), self._function(raw))
        return Encoded(uncut_lengths={field.name: raw[field.name][2] for field in self._schema.list_fields}, **found)

    def _table(self, path: Path) -> tf.lookup.StaticHashTable:
        if path not in self._tables:
            with tf.init_scope():
                self._tables[path] = _table_of_lines(path)
        return self._tables[path]

    def _encode(self, raw: dict[str, tuple[tf.Tensor, ...]]) -> dict:
        """The fields of `Encoded` from the columns of all fields, each as `_column` gives it."""
        graphs, ids, values, lists, vectors, vector_rows = self._graphs, [], [], {}, {}, {}
        for field in self._schema.fields:
            column = raw[field.name]
            if isinstance(field, CategoricalField):
                ids.append(tf.gather(graphs.name_ids(field, column[0]), column[1]))
            elif isinstance(field, NumericField):
                ids.append(graphs.number_ids(field, column[0]))
                values.append(graphs.scaled(field, column[0]))
            elif isinstance(field, ListField):
                rows = tf.size(column[2], tf.int64)
                row_of_id = tf.repeat(tf.range(rows), column[2])
                kept = graphs.cut_list(field, tf.gather(graphs.name_ids(field, column[0]), column[1]), row_of_id, rows)
                lists[field.name] = (kept.flat_values, kept.row_lengths())
            elif field.table:
                vector_rows[field.name] = tf.gather(graphs.vector_rows(field, column[0]), column[1])
            else:
                vectors[field.name] = graphs.vector(column[0])
        packed = _packed(values, tf.shape(ids[0])[0])
        return {"ids": tf.stack(ids, axis=1), "values": packed, "lists": lists, "vectors": vectors, "vector_rows": vector_rows}


def _column_spec(field: AnyField) -> tuple[tf.TensorSpec, ...]:
    if isinstance(field, NumericField):
        return (tf.TensorSpec([None], tf.float32),)
    if isinstance(field, VectorField) and not field.table:
        return (tf.TensorSpec([None, field.size], tf.float32),)
    names = (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32))
    return (*names, tf.TensorSpec([None], tf.int64)) if isinstance(field, ListField) else names


def _column(field: AnyField, column: pa.Array | np.ndarray) -> tuple[np.ndarray, ...]:
    """Numbers as they are; of names the different ones and each row's place among them; of lists also their lengths.

    Of lists the places are those of all values, one list after another.
    """
    if isinstance(column, np.ndarray):
        return (column,)
    if isinstance(field, ListField):
        return *_distinct(column.flatten()), np.diff(column.offsets.to_numpy()).astype(np.int64)
    return _distinct(column)


def _distinct(encoded: pa.DictionaryArray) -> tuple[np.ndarray, np.ndarray]:
    names = np.append(encoded.dictionary.cast(pa.binary()).to_numpy(zero_copy_only=False), b"")  # the last one is for null
    return names.astype(object), pc.fill_null(encoded.indices, len(names) - 1).to_numpy(zero_copy_only=False)
