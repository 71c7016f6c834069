"""Profiles of the two logs: a data folder's from what it says of itself, the new log's by reading it with Beam."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared
from rich.console import Console

from preprocessing.drift.new_values import FrequentTexts, fields_with_new_values, unknown_texts
from preprocessing.drift.profile import FieldProfile, LogProfile
from preprocessing.errors import UserError
from preprocessing.files import replaced_file
from preprocessing.findings import REASONS_SHOWN, Findings, read_findings, rejection_reasons
from preprocessing.rows import Rows
from preprocessing.schema import SPLITS, TALLY_FILE, ListField, Schema, read_manifest
from preprocessing.sources import Descriptor
from preprocessing.splits import TRAIN
from preprocessing.tally import Tally
from preprocessing.transform import Transformer
from preprocessing.worker import FileWorker, run_phase

_NEW_VALUES = 100  # that a worker hands on


class _CountLog(FileWorker):
    """Descriptor -> files: a tally of its rows, all taken as training rows, and the values that the vocabularies lack."""

    def __init__(self, schema: Schema, data_dir: Path, work: Path):
        super().__init__(schema, work)
        self._data_dir = data_dir
        self._shared_transformer = Shared()  # by the threads of one process

    def setup(self) -> None:
        self._transformer = self._shared_transformer.acquire(
            lambda: Transformer(self._data_dir, self._schema), tag=str(self._data_dir))

    def process(self, descriptor: Descriptor) -> None:
        tally, new_values = Tally.empty(self._schema), {field.name: FrequentTexts() for field in fields_with_new_values(self._schema)}

        def count(batches: Iterable[Rows], found: Findings) -> None:
            for rows in batches:
                encoded = self._transformer(rows.features)
                tally.add(encoded, np.full(len(rows), TRAIN, np.int8), self._schema)
                for name, texts in unknown_texts(rows, encoded, self._schema).items():
                    new_values[name].add(texts)

        self.read(descriptor, count)
        tally.write(_tally_path(self._work, descriptor))
        with replaced_file(_new_values_path(self._work, descriptor)) as path:
            content = {name: texts.top(_NEW_VALUES) for name, texts in new_values.items()}
            path.write_text(json.dumps(content), encoding="utf-8")


def count_log(schema: Schema, data_dir: Path, descriptors: Sequence[Descriptor], work: Path, options: PipelineOptions,
              console: Console) -> LogProfile:
    """Reads a new log with the vocabularies and buckets of a data folder and counts it.

    Args:
      schema: resolved; what to read the log with.
      work: a folder that all workers share.

    Raises:
      UserError: a file cannot be read, or no row of the log is well-formed.
    """
    run_phase("comparing", descriptors, options, work, console, lambda files: files
              | "Count" >> beam.ParDo(_CountLog(schema, data_dir, work)))
    found = read_findings(work, descriptors)
    reasons = rejection_reasons(found)
    rows = sum(sum(one.rows) for one in found)
    if not rows:
        raise UserError(
            f"none of the {reasons.total():,} rows of the new log is well-formed, so there is nothing to compare: "
            f"{'; '.join(_with_places(reasons, found))}. Correct the log, or give its own --schema"
        )
    tally = Tally.read_sum((_tally_path(work, one) for one in descriptors), schema)
    times = [time for one in found for split in one.times for time in split]
    return LogProfile(
        rows=rows, positives=sum(sum(one.positives) for one in found), unlabelled=sum(sum(one.unlabelled) for one in found),
        rejected=reasons.total(), read=rows + reasons.total(), reasons=_with_places(reasons, found), days=_days(times),
        fields=field_profiles(tally, schema, TRAIN, rows, _gather_new_values(work, descriptors)),
        frequencies=field_frequencies(tally, schema),
    )


def read_profiles(data_dir: Path, schema: Schema) -> tuple[LogProfile, ...]:
    """The profiles of a data folder's splits, in the order of `SPLITS`; malformed rows are those of all splits together.

    Args:
      schema: of the data folder.
    """
    tally = _read_tally(data_dir, schema)
    manifest = read_manifest(data_dir)
    read = manifest["rejected"] + sum(manifest["splits"][name]["rows"] for name in SPLITS)
    profiles = []
    for split, name in enumerate(SPLITS):
        counted = manifest["splits"][name]
        profiles.append(LogProfile(
            rows=counted["rows"], positives=counted["positives"], unlabelled=counted["unlabelled"],
            rejected=manifest["rejected"], read=read, days=_days(counted["times"]),
            fields=field_profiles(tally, schema, split, counted["rows"]),
            frequencies=field_frequencies(tally, schema) if split == TRAIN else {},
        ))
    if not profiles[TRAIN].rows:
        raise UserError(f"data folder {data_dir} has no training rows to compare with: give one that has")
    return tuple(profiles)


def _read_tally(data_dir: Path, schema: Schema) -> Tally:
    try:
        return Tally.read_sum([data_dir / TALLY_FILE], schema)
    except (FileNotFoundError, KeyError):
        raise UserError(
            f"data folder {data_dir} has no {TALLY_FILE} of this version, so there is nothing to compare the new log with: "
            "write the data folder again"
        ) from None


def _tally_path(work: Path, descriptor: Descriptor) -> Path:
    return work / "tallies" / f"{descriptor.name}.npz"


def _new_values_path(work: Path, descriptor: Descriptor) -> Path:
    return work / "new_values" / f"{descriptor.name}.json"


def _gather_new_values(work: Path, descriptors: Sequence[Descriptor]) -> dict[str, list[tuple[str, int]]]:
    total: dict[str, FrequentTexts] = {}
    for one in descriptors:
        for name, top in json.loads(_new_values_path(work, one).read_text(encoding="utf-8")).items():
            texts, counts = zip(*top, strict=True) if top else ((), ())
            total.setdefault(name, FrequentTexts()).merge(FrequentTexts(texts, counts))
    return {name: texts.top(_NEW_VALUES) for name, texts in total.items()}


def _with_places(reasons: Counter[str], found: Sequence[Findings]) -> dict[str, int]:
    """The most frequent reasons, each with its first place in the log, and their numbers."""
    named = {}
    for reason, count in reasons.most_common(REASONS_SHOWN):
        first = next(one for one in found if reason in one.examples)
        named[f"{reason} (first: {first.path}, line {first.examples[reason]})"] = count
    return named


def field_profiles(tally: Tally, schema: Schema, split: int, rows: int,
                   new_values: Mapping[str, Sequence[tuple[str, int]]] | None = None) -> dict[str, FieldProfile]:
    """The profiles of all fields over the `rows` rows of a split, by its place in `SPLITS`."""
    profiles = {}
    for place, field in enumerate(schema.fields):
        missing, cells = int(tally.missing[split, place]), int(tally.cells[split, place])
        profiles[field.name] = FieldProfile(
            rows=rows, missing=missing, values=cells if isinstance(field, ListField) else cells - missing,
            unknown=int(tally.unknown[split, place]), lengths=tally.lengths.get(field.name) if split == TRAIN else None,
            new_values=tuple((new_values or {}).get(field.name, ())),
        )
    return profiles


def field_frequencies(tally: Tally, schema: Schema) -> dict[str, np.ndarray]:
    """By field, int64 [rows]: how often it has each of its rows, apart from the fields that share them."""
    frequencies = {field.name: tally.frequencies[field.offset:field.offset + field.rows].copy() for field in schema.owners}
    for field in schema.sharing_fields:
        frequencies[field.name] = tally.shared[field.name]
        frequencies[field.vocabulary] -= tally.shared[field.name]
    return frequencies


def _days(times: Sequence[int]) -> tuple[str, str] | None:
    """The days (UTC) of the first and the last of some times in microseconds since 1970."""
    return tuple(str(np.datetime64(time, "us").astype("datetime64[D]")) for time in (min(times), max(times))) if times else None
