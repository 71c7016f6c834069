"""A finished data folder as training sees it: schema, manifest, counts, and the share of labels that is used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import (
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    SPLITS,
    TALLY_FILE,
    Schema,
    load_data_folder_schema,
    read_manifest,
    train_checksum,
)
from trainer.batch import CHUNK_ROWS, UNLABELLED
from trainer.damaged_records import RecordFile, naming_damage, read_records

LABEL_SHARE_SEED = "label share:"
_HASH_BUCKETS = 1 << 30


@dataclass(frozen=True)
class DataFolder:
    """A finished data folder: its resolved schema, of which fields may be left unread, its manifest, and the share of labels used."""

    path: Path
    schema: Schema
    manifest: dict
    label_share: float = 1.0

    @classmethod
    def open(cls, path: str | Path) -> "DataFolder":
        """Opens a folder written by `preprocessing.task`, or raises a `UserError` that says what is missing."""
        path = Path(path)
        schema = load_data_folder_schema(path)
        manifest = read_manifest(path)
        for split in SPLITS:
            for entry in manifest["splits"][split]["files"]:
                if not (path / entry["path"]).is_file():
                    raise UserError(f"data folder {path}: {entry['path']} is in {MANIFEST_FILE} but not on disk; "
                                    "restore it or run `python -m preprocessing.task` again")
        folder = cls(path, schema, manifest)
        for split in SPLITS:
            found, stated = sum(file.unlabelled for file in folder.files(split)), folder.unlabelled(split)
            if found != stated:
                raise UserError(f"data folder {path}: {MANIFEST_FILE} has {stated:,} rows without label in split {split!r} and "
                                f"{found:,} in its files; run `python -m preprocessing.task` again")
        return folder

    def without(self, names: Iterable[str]) -> "DataFolder":
        """This data folder for a model that does not read these fields; see `Schema.without`."""
        return replace(self, schema=self.schema.without(names))

    def with_label_share(self, share: float) -> "DataFolder":
        """This data folder as if only a share of its training rows had the labels that they have (`label_is_used`).

        Reads all labels of the training split once, where the share is below 1, since the manifest cannot tell how many of
        them are left and how many of these are clicks.

        Raises:
          UserError: a file is damaged.
        """
        if share == self.label_share:
            return self
        labels = [_labels_used(file, share) for file in self.files("train")]
        entries = [entry for entry in self.manifest["splits"]["train"]["files"] if entry["rows"]]
        files = [{**entry, "unlabelled": entry["rows"] - rows} for entry, (rows, _) in zip(entries, labels, strict=True)]
        train = {**self.manifest["splits"]["train"], "files": files, "positives": sum(clicks for _, clicks in labels),
                 "unlabelled": sum(file["unlabelled"] for file in files)}
        return replace(self, label_share=share, manifest={**self.manifest, "splits": {**self.manifest["splits"], "train": train}})

    def rows(self, split: str) -> int:
        """Rows of a split, those without label included."""
        return self.manifest["splits"][split]["rows"]

    def unlabelled(self, split: str) -> int:
        """Rows of a split that have no label; folders from before there were any do not tell."""
        return self.manifest["splits"][split].get("unlabelled", 0)

    def labelled(self, split: str) -> int:
        return self.rows(split) - self.unlabelled(split)

    def positives(self, split: str) -> int:
        return self.manifest["splits"][split]["positives"]

    def rows_read(self, stage: str) -> dict[str, int]:
        """Rows of every split that a stage reads: those without label are for the training of "pretrain" alone."""
        return {split: self.rows(split) if (stage, split) == ("pretrain", "train") else self.labelled(split) for split in SPLITS}

    def files(self, split: str) -> list[RecordFile]:
        """The split's files that have rows."""
        entries = [entry for entry in self.manifest["splits"][split]["files"] if entry["rows"]]
        first_rows = np.cumsum([0, *(entry["rows"] for entry in entries)]).tolist()
        return [RecordFile(str(self.path / entry["path"]), entry["rows"], entry.get("bytes"), unlabelled=entry.get("unlabelled", 0),
                           first_row=first_row) for entry, first_row in zip(entries, first_rows, strict=False)]

    @property
    def click_rate(self) -> float:
        """Share of clicks in the training rows that have a label; a half where none has."""
        return self.positives("train") / self.labelled("train") if self.labelled("train") else 0.5

    @property
    def unread_fields(self) -> tuple[str, ...]:
        """Names of the fields that no model reads yet: those with a vector a row."""
        return tuple(field.name for field in self.schema.vector_fields)

    @cached_property
    def checksum(self) -> str:
        """Identifies what a model learns from: schema, training rows, vocabularies, buckets."""
        return train_checksum(self.path)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Training count of every row of the shared table, int64 [table_rows], over all fields that use it."""
        return np.load(self.path / FREQUENCIES_FILE, allow_pickle=False)

    @cached_property
    def field_frequencies(self) -> tuple[np.ndarray, ...]:
        """Training count of every value of each of `schema.token_fields`, int64 [rows], in that field alone."""
        counts = {owner.name: self.frequencies[owner.offset:owner.offset + owner.rows] for owner in self.schema.owners}
        sharing = self.schema.sharing_fields
        if sharing:
            with np.load(self.path / TALLY_FILE, allow_pickle=False) as tally:
                for field in sharing:
                    own, owner = np.zeros(field.rows, np.int64), self.schema.owner(field).name
                    own[tally[f"shared {field.name} places"]] = tally[f"shared {field.name} counts"]
                    counts |= {field.name: own, owner: counts[owner] - own}
        return tuple(counts[field.name] for field in self.schema.token_fields)


def label_is_used(rows: tf.Tensor, share: float) -> tf.Tensor:
    """Whether the label of each of these rows of the training split is among the share that is used, bool as `rows`.

    A row's place in the split is hashed with a fixed seed, so the rows are the same in every run, and those of a smaller share
    are among those of a larger one.
    """
    keys = tf.strings.join([LABEL_SHARE_SEED, tf.strings.as_string(rows)])
    return tf.strings.to_hash_bucket_fast(keys, _HASH_BUCKETS) < round(share * _HASH_BUCKETS)


def _labels_used(file: RecordFile, share: float) -> tuple[int, int]:
    """How many labels of a file of the training split are used, and how many of these are clicks."""
    features = {"label": tf.io.FixedLenFeature([1], tf.int64, [UNLABELLED])}
    found = clicks = 0
    first_row = file.first_row
    with naming_damage([file]):
        for records in read_records([file]).batch(CHUNK_ROWS):
            labels = tf.io.parse_example(records, features)["label"][:, 0].numpy()
            used = label_is_used(tf.range(first_row, first_row + len(labels)), share).numpy() & (labels != UNLABELLED)
            first_row += len(labels)
            found, clicks = found + int(used.sum()), clicks + int((labels[used] == 1).sum())
    return found, clicks


def require_file_for_each(workers: int, files: Sequence[RecordFile], data_dir: Path, labelled_only: bool) -> None:
    """Refuses more workers than the training split has files for them to read."""
    if len(files) < workers:
        raise UserError(f"data folder {data_dir}: the training split has {len(files)} files {'with labels ' * labelled_only}for "
                        f"{workers} workers, and each worker reads files of its own. Preprocessing writes one file for each input "
                        f"file, or more where that is large: cut the log into at least {workers} files and run "
                        "`python -m preprocessing.task` again, or start fewer workers")
