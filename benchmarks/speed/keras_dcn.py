"""The usual way in tf_keras: one feature per field, one `Embedding` each, stock Adam, the train function of `Model.fit`."""

import argparse
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
import tensorflow_recommenders as tfrs

from benchmarks.speed.network import CROSS_LAYERS, DIM, HIDDEN_UNITS, LEARNING_RATE
from preprocessing.schema import Schema, load_data_folder_schema

SHUFFLED_BATCHES = 10


class PlainDcn(tf.keras.Model):
    """DCN-V2, crosses beside a tower with batch norm, on the fields' embeddings. {field: int [B]} -> logit [B, 1]."""

    def __init__(self, schema: Schema, dropout: float):
        super().__init__()
        self._embeddings = {field.name: tf.keras.layers.Embedding(field.rows, DIM) for field in schema.fields}
        self._crosses = [tfrs.layers.dcn.Cross() for _ in range(CROSS_LAYERS)]
        self._tower = tf.keras.Sequential()
        for units in HIDDEN_UNITS:
            self._tower.add(tf.keras.layers.Dense(units))
            self._tower.add(tf.keras.layers.BatchNormalization())
            self._tower.add(tf.keras.layers.ReLU())
            self._tower.add(tf.keras.layers.Dropout(dropout))
        self._logit = tf.keras.layers.Dense(1)

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        start = tf.concat([embed(features[name]) for name, embed in self._embeddings.items()], axis=1)  # (B, N d)
        crossed = start
        for cross in self._crosses:
            crossed = cross(start, crossed)
        return self._logit(tf.concat([crossed, self._tower(start, training=training)], axis=1))


def batches_of_columns(folder: Path, schema: Schema, batch_size: int) -> tf.data.Dataset:
    """Endless batches ({field: int64 [B]}, label float [B]) from records with one scalar feature per field."""
    features = {name: tf.io.FixedLenFeature([], tf.int64) for name in [field.name for field in schema.fields] + ["label"]}

    def parse(serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        columns = tf.io.parse_example(serialized, features)
        label = tf.cast(columns.pop("label"), tf.float32)
        return columns, label

    files = sorted(str(path) for path in folder.glob("columns/*.tfrecord"))
    records = tf.data.TFRecordDataset(files).shuffle(SHUFFLED_BATCHES * batch_size).repeat()
    batches = records.batch(batch_size, drop_remainder=True)
    return batches.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def build(options: argparse.Namespace) -> Callable[[int], dict]:
    schema = load_data_folder_schema(options.folder)
    model = PlainDcn(schema, options.dropout)
    model.compile(optimizer=tf.keras.optimizers.Adam(LEARNING_RATE), loss=tf.keras.losses.BinaryCrossentropy(from_logits=True))
    train = model.make_train_function()
    batches = iter(batches_of_columns(options.folder, schema, options.batch_size))

    def run(steps: int) -> dict:
        model.reset_metrics()
        for _ in range(steps):
            logs = train(batches)
        return {"steps": steps, "loss": float(logs["loss"])}

    return run
