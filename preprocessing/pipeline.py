"""The Beam pipeline, top to bottom: descriptors of files in, a data folder out.

Two runs over the same descriptors. The first counts the training rows and gives the vocabularies and buckets, the
second sends every row through the transform graph and writes it. Between stages go descriptors and counts, never rows;
each worker writes its own shards, named after its descriptors, to the output's working folder, which all workers must
share. The number of stages is fixed.
"""

import json
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from preprocessing import analysis, report, transform
from preprocessing.files import replaced_file, sha256, write_atomically
from preprocessing.findings import Findings, check_labelled, check_rejected, check_rows, rejection_reasons
from preprocessing.folder import DATA, new_data_folder
from preprocessing.job import Job
from preprocessing.schema import (
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    SCHEMA_FILE,
    SPECIAL_ROWS,
    SPLITS,
    STATISTICS_FILE,
    TALLY_FILE,
    Schema,
    TableField,
)
from preprocessing.side_tables import copy_side_tables
from preprocessing.splits import TRAIN
from preprocessing.statistics import hashing_report
from preprocessing.tally import Tally
from preprocessing.writing import write_shards

_WORK = ".work"  # inside the partial folder; hidden, so gone when the folder is published
_PACKAGES = ("tensorflow", "tensorflow-transform", "tfx-bsl", "apache-beam", "pyarrow", "numpy", "pandas")
_DERIVED = (SCHEMA_FILE, STATISTICS_FILE, FREQUENCIES_FILE, TALLY_FILE, "buckets.json", "vocabularies/*", "vectors/*", "samples/*", "rejected/*")


def run(job: Job, options: PipelineOptions, console: Console) -> None:
    """Writes the data folder `job.output`, or leaves nothing."""
    with new_data_folder(job.output, job.overwrite, kinds=(DATA,)) as folder:
        work = folder / _WORK
        # 1. What the training rows teach: vocabularies, buckets, side tables.
        learnt = _learn(job, folder, work, options, console)
        schema = analysis.resolve(job.schema, folder)
        (folder / SCHEMA_FILE).write_text(schema.to_yaml(), encoding="utf-8")
        # 2. The transform graph, the same that is served.
        transform.write_transform(schema, folder)
        # 3. Every row through the graph.
        found, tally = write_shards(job, schema, folder, work / "writing", options, console)
        _check(job, found)
        # 4. What was seen, and, last, the manifest.
        np.save(folder / FREQUENCIES_FILE, tally.frequencies)
        tally.write(folder / TALLY_FILE)
        statistics = _statistics(schema, found, tally, learnt)
        write_atomically(folder / STATISTICS_FILE, json.dumps(statistics, indent=1, ensure_ascii=False))
        _write_manifest(folder, job, found)
    report.print_summary(console, statistics, rejection_reasons(found).total(), job.output)


def _learn(job: Job, folder: Path, work: Path, options: PipelineOptions, console: Console) -> dict[str, dict]:
    if not job.transform_from:
        copy_side_tables(job.schema, job.tables_from, folder)
        return analysis.analyse(job, folder, work / "analysing", options, console)
    learnt = analysis.adopt(job.transform_from, job.schema, folder)
    if job.grow:
        _grow_side_tables(job, folder, console)
        learnt |= analysis.grow(job, folder, work / "analysing", options, console)
    return learnt


def _grow_side_tables(job: Job, folder: Path, console: Console) -> None:
    tables = [field.table.file for field in job.schema.vector_fields if field.table]
    if job.tables_from:
        copy_side_tables(job.schema, job.tables_from, folder, earlier=job.transform_from)
    elif tables:
        console.print(f"side tables stay as they are in {job.transform_from}: add --schema FILE to read {', '.join(tables)} anew, "
                      "relative to that file")


def _check(job: Job, found: Sequence[Findings]) -> None:
    check_rejected(found, job.max_rejected_share)
    if job.transform_from:
        return  # a night's log may lack a split, or its labels: the trainer says so where it needs them
    for split in range(len(SPLITS)):
        check_rows(found, split)
    check_labelled(found, TRAIN, job.schema.label.column)


def _statistics(schema: Schema, found: Sequence[Findings], tally: Tally, learnt: dict[str, dict]) -> dict:
    """Of each field: what was learnt of its owner, and the shares in the training split; of each split: rows, label, shares."""
    splits = {}
    for split, name in enumerate(SPLITS):
        rows, positives, unlabelled = _totals(found, split)
        splits[name] = {
            "rows": rows, "positives": positives, "unlabelled": unlabelled,
            "label_rate": positives / max(rows - unlabelled, 1), "fields": tally.shares(schema, split, rows),
        }
    training = splits[SPLITS[TRAIN]]
    fields = {}
    for field in schema.fields:
        fields[field.name] = {**learnt.get(field.name, {}), "kind": field.kind, "rows": training["rows"],
                              **training["fields"][field.name]}
        if isinstance(field, TableField):
            counts = tally.frequencies[field.offset:field.offset + field.rows]
            if getattr(schema.owner(field), "hash_buckets", None):
                fields[field.name] |= hashing_report(counts)
            known = int(counts[SPECIAL_ROWS:].max(initial=0))
            fields[field.name] |= {"table_rows": field.rows, "top_share": known / max(int(counts.sum()), 1)}
    return {"fields": fields, "splits": splits}


def _totals(found: Sequence[Findings], split: int) -> tuple[int, int, int]:
    return tuple(sum(getattr(one, count)[split] for one in found) for count in ("rows", "positives", "unlabelled"))


def _write_manifest(folder: Path, job: Job, found: Sequence[Findings]) -> None:
    splits = {}
    for split, name in enumerate(SPLITS):
        rows, positives, unlabelled = _totals(found, split)
        times = [time for one in found for time in one.times[split]]
        splits[name] = {
            "rows": rows, "positives": positives, "unlabelled": unlabelled, "times": [min(times), max(times)] if times else [],
            "files": [{**one.files[name], "unlabelled": one.unlabelled[split]} for one in found if name in one.files],
        }
    reasons = rejection_reasons(found)
    derived = sorted(path for pattern in _DERIVED for path in folder.glob(pattern))
    manifest = {
        "splits": splits,
        "rejected": reasons.total(),
        "rejected_reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "checksums": {str(path.relative_to(folder)): sha256(path) for path in derived},
        "schema_sha256": sha256(folder / SCHEMA_FILE),
        "made_from": job.fingerprint,
        "command": shlex.join(job.command),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    with replaced_file(folder / MANIFEST_FILE) as path:
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
