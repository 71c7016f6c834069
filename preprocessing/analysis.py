"""First phase: what the training rows hold becomes vocabularies and buckets, new or grown from an earlier folder's."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from preprocessing import transform
from preprocessing.count_files import CountWriter, read_numbers, read_texts
from preprocessing.errors import UserError
from preprocessing.files import write_atomically
from preprocessing.findings import Findings, check_labelled, check_rejected, check_rows, read_findings
from preprocessing.job import Job
from preprocessing.rows import Rows
from preprocessing.schema import (
    BUCKETS_FILE,
    SPECIAL_ROWS,
    SPLITS,
    STATISTICS_FILE,
    VECTORS,
    VOCABULARIES,
    NumericField,
    Schema,
    TableField,
)
from preprocessing.sources import Descriptor
from preprocessing.splits import TRAIN
from preprocessing.statistics import Buckets, Vocabulary, count_features
from preprocessing.vocabulary_files import read_values, vocabulary_path, write_values
from preprocessing.worker import FileWorker, run_phase


class _CountTraining(FileWorker):
    """Descriptor -> (owner of table rows, file with counts of its values in the training rows), for each of `owners`."""

    def __init__(self, schema: Schema, work: Path, owners: frozenset[str]):
        super().__init__(schema, work)
        self._owners = owners

    def process(self, descriptor: Descriptor) -> Iterable[tuple[str, str]]:
        counts = CountWriter(self._work / "counts", descriptor.name)

        def count(batches: Iterable[Rows], found: Findings) -> None:
            for rows in batches:
                training = rows.take(rows.split == TRAIN)
                if len(training):
                    counts.add(count_features(training.features, self._schema, self._owners))
            counts.flush()

        self.read(descriptor, count)
        for owner, paths in counts.files.items():
            for path in paths:
                yield owner, str(path)


class _WriteLearnt(beam.DoFn):
    """(Owner of table rows, files with its counts) -> files: its vocabulary or its buckets, and what is told of them."""

    def __init__(self, schema: Schema, folder: Path, work: Path, earlier: Path | None):
        self._fields = {field.name: field for field in schema.owners}
        self._folder, self._work, self._earlier = folder, work, earlier

    def process(self, element: tuple[str, Iterable[str]]) -> None:
        owner, files = element
        field, paths = self._fields[owner], [Path(file) for file in sorted(files)]
        if isinstance(field, NumericField):
            buckets = Buckets.build(read_numbers(paths, owner), field)
            learnt = {"statistics": buckets.report(), "scale": asdict(transform.Scale.of(buckets))}
        else:
            kept = read_values(vocabulary_path(self._earlier, field)) if self._earlier else None
            vocabulary = Vocabulary.build(read_texts(paths, owner), field, kept)
            write_values(vocabulary_path(self._folder, field), vocabulary.values)
            learnt = {"statistics": vocabulary.report()}
        write_atomically(self._work / "learnt" / f"{owner}.json", json.dumps(learnt))


def analyse(job: Job, folder: Path, work: Path, options: PipelineOptions, console: Console) -> dict[str, dict]:
    """Learns vocabularies and buckets from the training rows and writes them into the data folder.

    Returns:
      By owner of table rows, what the statistics say of its vocabulary or buckets.

    Raises:
      UserError: a file cannot be read, too many rows are malformed, or no row is there to learn from.
    """
    found, learnt = _count(job, job.schema.owners, folder, work, options, console)
    check_rejected(found, job.max_rejected_share)
    check_rows(found, TRAIN)
    check_labelled(found, TRAIN, job.schema.label.column)
    transform.write_buckets(folder, {name: transform.Scale(**content["scale"]) for name, content in learnt.items()
                                     if "scale" in content})
    return {name: content["statistics"] for name, content in learnt.items()}


def grow(job: Job, folder: Path, work: Path, options: PipelineOptions, console: Console) -> dict[str, dict]:
    """Appends the training rows' frequent new values to the vocabularies that `adopt` has copied; the rest stays.

    Returns and raises as `analyse` does, but rows without label are fine.
    """
    found, learnt = _count(job, job.schema.vocabulary_fields, folder, work, options, console)
    check_rejected(found, job.max_rejected_share)
    if not any(one.rows[TRAIN] for one in found):
        raise UserError(
            f"--grow_vocabulary: no row of the log is in the training split (`split: {job.schema.split.model_dump(mode='json')}`), so "
            "there is nothing to learn new values from: give --split, such as '{by: hash, key: [user, time]}'"
        )
    return {name: content["statistics"] for name, content in learnt.items()}


def _count(job: Job, owners: Sequence[TableField], folder: Path, work: Path, options: PipelineOptions,
           console: Console) -> tuple[list[Findings], dict[str, dict]]:
    training = tuple(one for one in job.descriptors if one.split in (None, SPLITS[TRAIN]))
    names = frozenset(owner.name for owner in owners)
    (work / "learnt").mkdir(parents=True)
    run_phase("analysing", training, options, work, console, lambda files: files
              | "Count" >> beam.ParDo(_CountTraining(job.schema, work, names))
              | "OfOneOwner" >> beam.GroupByKey()
              | "WriteLearnt" >> beam.ParDo(_WriteLearnt(job.schema, folder, work, job.transform_from)))
    paths = (work / "learnt" / f"{owner.name}.json" for owner in owners)
    return read_findings(work, training), {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}


def adopt(earlier: Path, schema: Schema, folder: Path) -> dict[str, dict]:
    """Copies the vocabularies, buckets and side tables of a finished data folder, and returns what it says of them."""
    for name in (VOCABULARIES, VECTORS):
        if (earlier / name).is_dir():
            shutil.copytree(earlier / name, folder / name)
    shutil.copyfile(earlier / BUCKETS_FILE, folder / BUCKETS_FILE)
    fields = json.loads((earlier / STATISTICS_FILE).read_text(encoding="utf-8"))["fields"]
    return {owner.name: fields[owner.name] for owner in schema.owners}


def resolve(schema: Schema, folder: Path) -> Schema:
    """Fills in the rows and offsets that the vocabularies, buckets and side tables in `folder` give."""
    scales = transform.read_buckets(folder)
    rows = {}
    for owner in schema.owners:
        if isinstance(owner, NumericField):
            values = len(scales[owner.name].boundaries) + 1
        else:
            values = owner.hash_buckets or len(read_values(vocabulary_path(folder, owner)))
        rows[owner.name] = SPECIAL_ROWS + values
    rows |= {field.name: len(np.load(folder / VECTORS / f"{field.name}.npy", mmap_mode="r")) for field in schema.vector_fields if field.table}
    return schema.resolve(rows)
