"""Preprocessing as TensorFlow Transform's census example does it: a dict a row, an analyzer a field.

Its records hold one int64 feature for each field instead of one packed list. It differs from ours further in this: it
scales no numbers, has no statistics, and gives missing numbers the row of the highest bucket.
"""

import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata

from benchmarks.prepare.log import BUCKETS, CATEGORICAL_NAMES, COLUMNS, FILES, LABEL, MIN_COUNT, NUMERIC_NAMES
from benchmarks.prepare.peer import note_first_row, stage

RUNNER = "FnApiRunner"  # in memory; what `DirectRunner` falls back to when it cannot download another


def raw_metadata() -> dataset_metadata.DatasetMetadata:
    types = {LABEL: tf.int64} | dict.fromkeys(NUMERIC_NAMES, tf.float32) | dict.fromkeys(CATEGORICAL_NAMES, tf.string)
    return dataset_metadata.DatasetMetadata.from_feature_spec(
        {name: tf.io.FixedLenFeature([], dtype) for name, dtype in types.items()})


def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    outputs = {LABEL: inputs[LABEL]}
    for name in NUMERIC_NAMES:
        outputs[name] = tft.bucketize(inputs[name], BUCKETS)
    for name in CATEGORICAL_NAMES:
        outputs[name] = tft.compute_and_apply_vocabulary(inputs[name], frequency_threshold=MIN_COUNT, num_oov_buckets=1,
                                                         vocab_filename=name)
    return outputs


class Parse(beam.DoFn):
    """Line -> {column: value}; missing numbers are NaN, missing texts are empty."""

    def __init__(self, output: Path):
        self._output = output

    def start_bundle(self) -> None:
        note_first_row(self._output)

    def process(self, line: str) -> Iterator[dict[str, int | float | bytes]]:
        row = dict(zip(COLUMNS, next(csv.reader([line], delimiter="\t")), strict=True))
        parsed = {LABEL: int(row[LABEL])}
        for name in NUMERIC_NAMES:
            parsed[name] = float(row[name] or "nan")
        for name in CATEGORICAL_NAMES:
            parsed[name] = row[name].encode()
        yield parsed


def prepare(log: Path, output: Path) -> None:
    raw = raw_metadata()
    with stage("pipeline"), tempfile.TemporaryDirectory() as temporary, beam.Pipeline(RUNNER) as pipeline, \
            tft_beam.Context(temp_dir=temporary):
        rows = {split: pipeline | f"Read {split}" >> beam.io.ReadFromText(str(log / f"{split}-*.tsv"))
                | f"Parse {split}" >> beam.ParDo(Parse(output)) for split in FILES}
        transform_fn = (rows["train"], raw) | tft_beam.AnalyzeDataset(preprocessing_fn)
        for split in FILES:
            transformed, metadata = ((rows[split], raw), transform_fn) | f"Transform {split}" >> tft_beam.TransformDataset()
            coder = tft.coders.ExampleProtoCoder(metadata.schema)
            _ = transformed | f"Encode {split}" >> beam.Map(coder.encode) \
                | f"Write {split}" >> beam.io.WriteToTFRecord(str(output / split), file_name_suffix=".tfrecord")
        _ = transform_fn | tft_beam.WriteTransformFn(str(output))
