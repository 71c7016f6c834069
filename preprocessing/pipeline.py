"""The Beam pipeline, top to bottom: descriptors of files in, a data folder out.

Two runs over the same descriptors. The first counts the training rows and gives the vocabularies and buckets, the
second sends every row through the transform graph and writes it. Between stages go descriptors and counts, never rows;
each worker writes its own shards, named after its descriptors, to the output's working folder, which all workers must
share. The number of stages is fixed.
"""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from preprocessing import report, transform
from preprocessing.errors import UserError
from preprocessing.files import replaced_file
from preprocessing.folder import new_data_folder
from preprocessing.progress import ProgressDisplay, ProgressFile
from preprocessing.records import serialize_records
from preprocessing.rows import Rows, read_rows
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, SPLITS, CategoricalField, Schema, load_schema
from preprocessing.shards import RejectedRows, Samples, Shards, read_tfrecord, write_tfrecord
from preprocessing.sources import Descriptor
from preprocessing.splits import TRAIN, VALID
from preprocessing.statistics import Accumulator, Buckets, FieldCounts, NumberCounts, ValueCounts, Vocabulary

SAMPLE_ROWS = 1000
SAMPLE_KINDS = ("raw", "records")
STATISTICS_FILE = "statistics.json"
FREQUENCIES_FILE = "frequencies.npy"
_WORK = ".work"  # inside the partial folder; hidden, so gone when the folder is published
_PACKAGES = ("tensorflow", "tensorflow-transform", "tfx-bsl", "apache-beam", "pyarrow", "numpy", "pandas")
_REASONS_SHOWN = 5


@dataclass(frozen=True)
class Job:
    """What to do, apart from Beam's own options.

    Attributes:
      compression: "" or "GZIP", of the records.
      max_rejected_share: above this share of malformed rows the run fails.
      command: the command line, for the manifest.
    """

    schema: Schema
    descriptors: tuple[Descriptor, ...]
    output: Path
    compression: str = ""
    max_rejected_share: float = 0.01
    overwrite: bool = False
    command: tuple[str, ...] = ()


def run(job: Job, options: PipelineOptions, console: Console) -> None:
    """Writes the data folder `job.output`, or leaves nothing."""
    with new_data_folder(job.output, job.overwrite) as folder:
        training = tuple(one for one in job.descriptors if one.split in (None, SPLITS[TRAIN]))
        _run_phase("analysing", training, options, folder, console, lambda files: files
                   | "Count" >> beam.ParDo(_CountTraining(job.schema, folder))
                   | "Merge" >> beam.CombinePerKey(_MergeCounts())
                   | "WriteRows" >> beam.ParDo(_WriteFieldRows(job.schema, folder)))
        counted = _reports(folder, "analysing", training)
        _check_budget(counted, job.max_rejected_share)
        _check_split(counted, TRAIN)
        schema, frequencies, fields = _gather_fields(job.schema, folder)
        schema_yaml = schema.to_yaml()
        (folder / SCHEMA_FILE).write_text(schema_yaml, encoding="utf-8")
        np.save(folder / FREQUENCIES_FILE, frequencies)
        transform.write_transform(schema, folder)
        validating = tuple(one for one in job.descriptors if one.split in (None, SPLITS[VALID]))
        samples_each = -(-SAMPLE_ROWS // len(validating))
        _run_phase("writing", job.descriptors, options, folder, console, lambda files: files
                   | "Write" >> beam.ParDo(_WriteShards(folder, job.compression, samples_each)))
        written = _reports(folder, "writing", job.descriptors)
        _check_budget(written, job.max_rejected_share)
        for split in range(len(SPLITS)):
            _check_split(written, split)
        _gather_samples(folder, validating)
        statistics = {"fields": fields, "splits": _split_statistics(schema, written)}
        (folder / STATISTICS_FILE).write_text(json.dumps(statistics, indent=1, ensure_ascii=False), encoding="utf-8")
        _write_manifest(folder, job, schema_yaml, written)
    report.print_summary(console, statistics, _all_reasons(written).total(), job.output)


# ---- Phases ----


def _run_phase(title: str, descriptors: tuple[Descriptor, ...], options: PipelineOptions, folder: Path,
               console: Console, transforms: Callable[[beam.PCollection], beam.PCollection]) -> None:
    """Runs `transforms` over the descriptors and shows progress under `title`."""
    total = sum(one.size for one in descriptors)
    progress = ProgressDisplay(title, folder / _WORK / title / "progress", total, console)
    with progress, beam.Pipeline(options=options) as pipeline:
        transforms(pipeline | "Files" >> beam.Create(descriptors) | "Spread" >> beam.Reshuffle())


@dataclass
class _FileReport:
    """What a worker found in the rows of one descriptor; written as JSON, since only files reach the driver.

    Attributes:
      rows, positives: by split.
      reasons: by reason, how many rows were rejected.
      examples: by reason, the first line.
      missing, unknown: by split, by field.
      files: by split, the shard written.
      error: why the file could not be read to its end.
    """

    path: str
    rows: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    positives: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    missing: list[list[int]] = field(default_factory=list)
    unknown: list[list[int]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None

    def add(self, rows: Rows) -> None:
        for split in range(len(SPLITS)):
            mask = rows.split == split
            self.rows[split] += int(mask.sum())
            self.positives[split] += int(rows.label[mask].sum())
        for rejection in rows.rejections:
            self.reasons[rejection.reason] = self.reasons.get(rejection.reason, 0) + 1
            self.examples.setdefault(rejection.reason, rejection.line)

    @property
    def seen(self) -> int:
        return sum(self.rows) + sum(self.reasons.values())


class _FileWorker(beam.DoFn):
    """Reads one descriptor's file batch by batch, shows progress, and leaves a report."""

    def __init__(self, title: str, folder: Path):
        self._title, self._folder = title, folder

    def _batches(self, descriptor: Descriptor, schema: Schema, found: _FileReport) -> Iterator[Rows]:
        progress = ProgressFile(self._folder / _WORK / self._title / "progress", descriptor.name)
        for rows in read_rows(descriptor, schema):
            found.add(rows)
            yield rows
            progress.update(rows.bytes_read, found.seen)

    def _leave(self, descriptor: Descriptor, found: _FileReport) -> None:
        with replaced_file(_report_path(self._folder, self._title, descriptor)) as path:
            path.write_text(json.dumps(asdict(found)), encoding="utf-8")


def _report_path(folder: Path, title: str, descriptor: Descriptor) -> Path:
    return folder / _WORK / title / "reports" / f"{descriptor.name}.json"


def _reports(folder: Path, title: str, descriptors: tuple[Descriptor, ...]) -> list[_FileReport]:
    """The reports of all descriptors, in their order; a file that could not be read is an error."""
    contents = (_report_path(folder, title, one).read_text(encoding="utf-8") for one in descriptors)
    reports = [_FileReport(**json.loads(content)) for content in contents]
    for found in reports:
        if found.error:
            raise UserError(found.error)
    return reports


# ---- First phase: count ----


class _CountTraining(_FileWorker):
    """Descriptor -> (place of a field, counts of its values in the descriptor's training rows), once for each field."""

    def __init__(self, schema: Schema, folder: Path):
        super().__init__("analysing", folder)
        self._schema = schema

    def process(self, descriptor: Descriptor) -> Iterable[tuple[int, FieldCounts]]:
        found = _FileReport(descriptor.path)
        accumulators = [Accumulator() for _ in self._schema.fields]
        try:
            for rows in self._batches(descriptor, self._schema, found):
                self._count(rows.take(rows.split == TRAIN), accumulators)
        except UserError as error:
            found.error = str(error)
        self._leave(descriptor, found)
        for place, accumulator in enumerate(accumulators):
            if found.rows[TRAIN]:
                yield place, accumulator.total()

    def _count(self, rows: Rows, accumulators: list[Accumulator]) -> None:
        for field_, accumulator in zip(self._schema.fields, accumulators, strict=True):
            counts = ValueCounts if isinstance(field_, CategoricalField) else NumberCounts
            accumulator.add(counts.of(rows.features[field_.name]))


class _MergeCounts(beam.CombineFn):
    """Adds up the counts of a field."""

    def create_accumulator(self) -> list[FieldCounts]:
        return []

    def add_input(self, accumulator: list[FieldCounts], counts: FieldCounts) -> list[FieldCounts]:
        return self.merge_accumulators([accumulator, [counts]])

    def merge_accumulators(self, accumulators: Iterable[list[FieldCounts]]) -> list[FieldCounts]:
        parts = [part for accumulator in accumulators for part in accumulator]
        return [type(parts[0]).merge(parts)] if len(parts) > 1 else parts

    def extract_output(self, accumulator: list[FieldCounts]) -> FieldCounts:
        return accumulator[0]


class _WriteFieldRows(beam.DoFn):
    """(Place of a field, its counts) -> files: the vocabulary or the buckets, and how often each row of it occurs."""

    def __init__(self, schema: Schema, folder: Path):
        self._schema, self._folder = schema, folder

    def process(self, element: tuple[int, FieldCounts]) -> None:
        place, counts = element
        field_ = self._schema.fields[place]
        if isinstance(field_, CategoricalField):
            rows = Vocabulary.build(counts, field_, self._schema.missing)
            with replaced_file(self._folder / transform.VOCABULARIES / f"{field_.name}.txt") as path:
                path.write_bytes("".join(f"{value}\n" for value in rows.values.to_pylist()).encode())
            content = {"statistics": rows.report()}
        else:
            rows = Buckets.build(counts, field_)
            content = {"statistics": rows.report(), "scale": asdict(transform.Scale.of(rows))}
        work = self._folder / _WORK / "fields"
        with replaced_file(work / f"{field_.name}.json") as path:
            path.write_text(json.dumps(content), encoding="utf-8")
        with replaced_file(work / f"{field_.name}.npy") as path, path.open("wb") as stream:
            np.save(stream, rows.frequencies)


def _gather_fields(schema: Schema, folder: Path) -> tuple[Schema, np.ndarray, dict[str, dict]]:
    """Resolves the schema; returns it, the frequencies of the shared table's rows, and each field's statistics."""
    frequencies, statistics, scales = {}, {}, {}
    for field_ in schema.fields:
        path = folder / _WORK / "fields" / field_.name
        frequencies[field_.name] = np.load(path.with_suffix(".npy"))
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        statistics[field_.name] = content["statistics"]
        if "scale" in content:
            scales[field_.name] = transform.Scale(**content["scale"])
    transform.write_buckets(folder, scales)
    resolved = schema.resolve({name: len(rows) for name, rows in frequencies.items()})
    return resolved, np.concatenate(list(frequencies.values())), statistics


# ---- Second phase: transform and write ----


class _WriteShards(_FileWorker):
    """Descriptor -> shards of records, rejected rows and sample rows."""

    def __init__(self, folder: Path, compression: str, samples: int):
        super().__init__("writing", folder)
        self._compression, self._sample_rows = compression, samples

    def setup(self) -> None:
        self._schema = load_schema(self._folder / SCHEMA_FILE)
        self._transformer = transform.Transformer(self._folder, self._schema)

    def process(self, descriptor: Descriptor) -> None:
        found, samples = _FileReport(descriptor.path), Samples(self._sample_rows)
        shards = Shards(self._folder, descriptor, self._compression, len(self._schema.fields))
        rejected = RejectedRows(self._folder, descriptor)
        try:
            with shards, rejected:
                for rows in self._batches(descriptor, self._schema, found):
                    rejected.write(rows.rejections)
                    ids, values = self._transformer(rows.features)
                    records = serialize_records(ids, values, rows.label, rows.group, rows.timestamp)
                    shards.write(rows.split, ids, records)
                    samples.add(rows, records)
        except UserError as error:
            found.error = str(error)
        samples.write(*_sample_paths(self._folder, descriptor))
        found.missing, found.unknown, found.files = shards.missing.tolist(), shards.unknown.tolist(), shards.files
        self._leave(descriptor, found)


def _sample_paths(folder: Path, descriptor: Descriptor) -> tuple[Path, Path]:
    return tuple(folder / _WORK / "samples" / f"{descriptor.name}.{kind}" for kind in SAMPLE_KINDS)


def _gather_samples(folder: Path, descriptors: tuple[Descriptor, ...]) -> None:
    """Puts the workers' sample rows together, in the order of the descriptors."""
    for place, kind in enumerate(SAMPLE_KINDS):
        rows = [row for one in descriptors for row in read_tfrecord(_sample_paths(folder, one)[place])]
        write_tfrecord(folder / "samples" / f"{kind}.tfrecord", rows[:SAMPLE_ROWS])


# ---- Checks and the manifest ----


def _all_reasons(reports: list[_FileReport]) -> Counter:
    total = Counter()
    for found in reports:
        total.update(found.reasons)
    return total


def _check_budget(reports: list[_FileReport], max_rejected_share: float) -> None:
    reasons = _all_reasons(reports)
    rejected, seen = reasons.total(), sum(found.seen for found in reports)
    if rejected <= max_rejected_share * seen:
        return
    shown = []
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        first = next(found for found in reports if reason in found.examples)
        shown.append(f"{count:,} x {reason} (first: {first.path}, line {first.examples[reason]})")
    raise UserError(
        f"{rejected:,} of {seen:,} rows ({rejected / seen:.2%}) are malformed, more than --max_rejected_share "
        f"{max_rejected_share:g} allows: {'; '.join(shown)}. Correct the schema or the files, or raise the share"
    )


def _check_split(reports: list[_FileReport], split: int) -> None:
    if not sum(found.rows[split] for found in reports):
        raise UserError(
            f"the {SPLITS[split]} split has no rows: expected at least one in each of {', '.join(SPLITS)}; "
            "check `split` in the schema against the files"
        )


def _split_statistics(schema: Schema, reports: list[_FileReport]) -> dict[str, dict]:
    statistics = {}
    for split, name in enumerate(SPLITS):
        rows = sum(found.rows[split] for found in reports)
        positives = sum(found.positives[split] for found in reports)
        missing = np.sum([found.missing[split] for found in reports], axis=0) / rows  # [F]
        unknown = np.sum([found.unknown[split] for found in reports], axis=0) / rows
        shares = {field_.name: {"missing_share": float(missing[place]), "unknown_share": float(unknown[place])}
                  for place, field_ in enumerate(schema.fields)}
        statistics[name] = {"rows": rows, "positives": positives, "label_rate": positives / rows, "fields": shares}
    return statistics


def _write_manifest(folder: Path, job: Job, schema_yaml: str, reports: list[_FileReport]) -> None:
    splits = {}
    for split, name in enumerate(SPLITS):
        splits[name] = {
            "rows": sum(found.rows[split] for found in reports),
            "positives": sum(found.positives[split] for found in reports),
            "files": [found.files[name] for found in reports if name in found.files],
        }
    reasons = _all_reasons(reports)
    manifest = {
        "splits": splits,
        "rejected": reasons.total(),
        "rejected_reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "schema_sha256": hashlib.sha256(schema_yaml.encode()).hexdigest(),
        "command": shlex.join(job.command),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    with replaced_file(folder / MANIFEST_FILE) as path:
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
