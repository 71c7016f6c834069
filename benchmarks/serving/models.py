"""The models that the benchmark serves: random weights of a stated size behind a real transform graph.

    python -m benchmarks.serving.models --folder FOLDER --values 1m

What a prediction costs does not depend on what the weights have learnt, so nothing is trained. Written are

    data/                  what an export needs of a data folder
    exports/clicks/1       DGenCTR, as `serving.export` writes it
    exports/plain/1        a plain tf_keras DCN-V2 of the same size behind the same transform graph
    requests/              requests of both, without a model's name (`benchmarks.serving.requests`)
    rows.csv               rows for offline scoring
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.serving.requests import are_written, write_requests
from benchmarks.serving.rows import (
    KEY,
    NUMERIC,
    boundaries,
    columns_of,
    field_names,
    serialized_examples,
    texts,
    write_csv,
)
from benchmarks.speed.log import BUCKETS, draw_rows, field_values
from benchmarks.speed.network import CROSS_LAYERS, DIM, HIDDEN_UNITS
from benchmarks.training_speed import parse_values
from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.folder import new_data_folder
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, SPECIAL_ROWS, VOCABULARIES, Schema, parse_schema
from serving.versions.folders import exported_versions

CLICKS, PLAIN = "clicks", "plain"
MODELS = (CLICKS, PLAIN)
SAMPLE_ROWS = 200


# The data folder.

def build_schema(values: Sequence[int]) -> Schema:
    names = field_names(values)
    content = {
        "name": "serving", "label": {"column": "click"}, "key": KEY, "split": {"by": "hash", "key": [names[-1]]},
        "fields": [{"name": name, "kind": "numeric", "buckets": BUCKETS} if name in NUMERIC else {"name": name, "kind": "categorical"}
                   for name in names],
    }  # fmt: skip
    return parse_schema(content, "the serving benchmark").resolve(
        {name: count + SPECIAL_ROWS for name, count in zip(names, values, strict=True)})


def write_data_folder(folder: Path, values: Sequence[int]) -> Schema:
    """Writes what an export needs: the transform graph with its vocabularies, and sample rows."""
    from preprocessing import transform
    from preprocessing.records import serialize_features
    from serving.export.parity import RAW_SAMPLES, RECORD_SAMPLES

    schema = build_schema(values)
    with new_data_folder(folder, overwrite=False) as partial:
        (partial / VOCABULARIES).mkdir()
        for place, (field, count) in enumerate(zip(schema.fields, values, strict=True)):
            if field.name not in NUMERIC:
                lines = "\n".join(texts(place, np.arange(count)))
                (partial / VOCABULARIES / f"{field.name}.txt").write_text(f"{lines}\n", encoding="utf-8")
        transform.write_buckets(partial, dict.fromkeys(NUMERIC, transform.Scale(boundaries(), 1.6, 2.2)))
        transform.write_transform(schema, partial)
        ids, _ = draw_rows(values, SAMPLE_ROWS, seed=1)
        (partial / RAW_SAMPLES).parent.mkdir()
        _write_records(partial / RAW_SAMPLES, serialized_examples(columns_of(ids)))
        _write_records(partial / RECORD_SAMPLES, serialize_features({"ids": ids}).to_pylist())
        (partial / SCHEMA_FILE).write_text(schema.to_yaml(), encoding="utf-8")
        (partial / MANIFEST_FILE).write_text(json.dumps({"splits": {}}), encoding="utf-8")  # there is nothing to train on
    return schema


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


# The models.

def generative(schema: Schema):
    """A DGenCTR that may be explained, so that its export has every signature."""
    from trainer.config import load_config
    from trainer.models import build_model

    return build_model(schema, load_config(None, [
        f"model.embedding_dim={DIM}", f"model.dcn.cross_layers={CROSS_LAYERS}", f"model.dcn.hidden_units={list(HIDDEN_UNITS)}",
        "finetune.feature_mask_rate=0.1"]))  # fmt: skip


class PlainClicks:
    """`benchmarks.speed.keras_dcn.PlainDcn` as an export takes a model (`serving.export.served_model.ClickModel`)."""

    def __init__(self, schema: Schema):
        import tensorflow as tf

        from benchmarks.speed.keras_dcn import PlainDcn

        self.schema, self._tf, self._network = schema, tf, PlainDcn(schema, dropout=0.0)
        self.click_logits({"ids": tf.zeros([1, len(schema.fields)], tf.int32)})  # makes the variables

    def click_logits(self, features: Mapping):
        names = [field.name for field in self.schema.fields]
        return self._network(dict(zip(names, self._tf.unstack(features["ids"], axis=1), strict=True)))[:, 0]


def is_complete(folder: Path, sizes: Sequence[int]) -> bool:
    """Whether `write_all` would find everything there."""
    versions = [exported_versions(folder / "exports" / name) for name in MODELS]
    return all(versions) and (folder / "rows.csv").is_file() and are_written(folder / "requests", sizes)


def write_all(folder: Path, values: Sequence[int], sizes: Sequence[int]) -> None:
    """Writes what is not there yet of everything above."""
    from preprocessing.schema import load_data_folder_schema
    from serving.export.exporter import publish

    data, exports = folder / "data", folder / "exports"
    schema = load_data_folder_schema(data) if data.is_dir() else write_data_folder(data, values)
    for name, build in ((CLICKS, generative), (PLAIN, PlainClicks)):
        if not exported_versions(exports / name):
            publish(build(schema), data, exports / name)
    if not (folder / "rows.csv").is_file():
        write_csv(folder / "rows.csv", values)
    write_requests(folder / "requests", values, sizes)


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.models", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--folder", type=Path, required=True, help="where to write; what is there already stays")
    parser.add_argument("--values", type=parse_values, required=True, help="distinct values of all fields, such as 1m")
    parser.add_argument("--sizes", type=int, nargs="+", required=True, metavar="ROWS", help="rows of a request")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    if is_complete(arguments.folder, arguments.sizes):
        return
    start_tensorflow()
    write_all(arguments.folder, field_values(arguments.values), arguments.sizes)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
