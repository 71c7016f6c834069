"""What a batch holds, and how TFRecords of packed ids become one.

    ids     int32 [B, N]            rows of the id fields' vocabularies
    NAME    int32 [B, max_length]   of each list field, behind its values filled up with -1
    label   float32 [B]             1 click, 0 none, -1 where pre-training reads a row without label
    group   int64 [B]               where the schema names one: what GAUC groups by
    weight  float32 [B]             where the schema names one
    seed    int32 [2]               of a training step: (run's seed, step), from which masks, draws and dropout follow
"""

from collections.abc import Callable

import tensorflow as tf

from preprocessing.schema import ListField, Schema

UNLABELLED = -1
NO_VALUE = -1  # fills up the rows of a list field
CHUNK_ROWS = 8192  # parsed at once
_NOT_FEATURES = ("label", "group", "weight")

Batch = dict[str, tf.Tensor]


def features_of(batch: Batch) -> Batch:
    """What a click is predicted from: the batch without label, group and weight."""
    return {name: values for name, values in batch.items() if name not in _NOT_FEATURES}


def blank_features(schema: Schema) -> Batch:
    """The features of one row in which everything is missing, as a batch holds them."""
    lists = {field.name: tf.fill((1, field.max_length), NO_VALUE) for field in schema.list_fields}
    return {"ids": tf.zeros((1, len(schema.id_fields)), tf.int32), **lists}


def decoded_row_bytes(schema: Schema) -> int:
    """Memory of a decoded row: ids int32 [F], label float32, group int64, weight float32, lists in the fewest bytes an id."""
    lists = sum(field.max_length * _list_dtype(field).size for field in schema.list_fields)
    return 4 * len(schema.id_fields) + 4 + (8 if schema.group else 0) + (4 if schema.weight else 0) + lists


def _list_dtype(field: ListField) -> tf.DType:
    """The narrowest type of integers that holds the ids of a list field."""
    return next(dtype for dtype in (tf.int8, tf.int16, tf.int32) if field.rows - 1 <= dtype.max)


def parse_with(schema: Schema, some_unlabelled: bool) -> Callable[[tf.Tensor], Batch]:
    """A function from serialized records [B] to a batch, its lists in the narrowest integers.

    Args:
      some_unlabelled: whether records may lack the label, which is -1 then; otherwise that is an error.
    """
    features = {
        **feature_spec(schema),
        "label": tf.io.FixedLenFeature([1], tf.int64, [UNLABELLED] if some_unlabelled else None),
    }
    if schema.group:
        features["group"] = tf.io.FixedLenFeature([1], tf.int64)
    if schema.weight:
        features["weight"] = tf.io.FixedLenFeature([1], tf.float32)

    def parse(serialized: tf.Tensor) -> Batch:
        parsed = tf.io.parse_example(serialized, features)
        batch = {"ids": _read_ids(schema, parsed["ids"]), "label": tf.cast(parsed["label"][:, 0], tf.float32)}
        batch |= {name: parsed[name][:, 0] for name in ("group", "weight") if name in parsed}
        return batch | {field.name: _padded(field, parsed[field.name], _list_dtype(field)) for field in schema.list_fields}

    return parse


def feature_spec(schema: Schema) -> dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]:
    """How the features of records are parsed, before `features_of_records`."""
    lists = {field.name: tf.io.RaggedFeature(tf.int64) for field in schema.list_fields}
    return {"ids": tf.io.FixedLenFeature([len(schema.record_id_fields)], tf.int64), **lists}


def features_of_records(schema: Schema, parsed: Batch) -> Batch:
    """The features of a batch from parsed records: ids int32 [B, N], lists int32 [B, max_length]."""
    lists = {field.name: _padded(field, parsed[field.name], tf.int32) for field in schema.list_fields}
    return {"ids": _read_ids(schema, parsed["ids"]), **lists}


def _read_ids(schema: Schema, ids: tf.Tensor) -> tf.Tensor:
    """int32 [B, N] of the fields that are read, from ids of all."""
    ids = tf.cast(ids, tf.int32)
    places = schema.places
    return ids if len(places) == ids.shape[1] else tf.gather(ids, places, axis=1)


def _padded(field: ListField, ids: tf.RaggedTensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(ids.to_tensor(NO_VALUE, shape=[None, field.max_length]), dtype)


def widened(batch: Batch) -> Batch:
    """Lists as int32."""
    return {name: tf.cast(values, tf.int32) if values.dtype in (tf.int8, tf.int16) else values for name, values in batch.items()}


def keep_labelled(rows: Batch) -> Batch:
    """The rows that have a label."""
    labelled = tf.not_equal(rows["label"], UNLABELLED)
    return {name: tf.boolean_mask(values, labelled) for name, values in rows.items()}


def drop_rows(left: tf.Tensor, rows: Batch) -> tuple[tf.Tensor, Batch]:
    """Takes the first `left` rows, or all, off a chunk. Returns how many are left to drop, and the chunk."""
    dropped = tf.minimum(left, tf.shape(rows["label"], tf.int64)[0])
    return left - dropped, {name: values[dropped:] for name, values in rows.items()}
