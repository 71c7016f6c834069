"""What one call of preprocessing is to do, and what tells two calls apart."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from preprocessing.files import sha256
from preprocessing.schema import MANIFEST_FILE, Schema
from preprocessing.sources import Descriptor


@dataclass(frozen=True)
class Job:
    """What to do, apart from Beam's own options.

    Attributes:
      schema: as the user wrote it; with `transform_from`, that folder's resolved schema with the user's split and input.
      compression: "" or "GZIP", of the records.
      max_rejected_share: above this share of malformed rows the run fails.
      command: the command line, for the manifest.
      transform_from: a finished data folder whose vocabularies, buckets and side tables are used instead of learnt.
      origin: the files that the descriptors' files and the side tables were written from, if those were written for this
        run only.
      tables_from: folder to which the paths of side tables are relative; None with `transform_from`: its side tables stay.
      grow: append new values behind those of `transform_from`.
    """

    schema: Schema
    descriptors: tuple[Descriptor, ...]
    output: Path
    compression: str = ""
    max_rejected_share: float = 0.01
    overwrite: bool = False
    command: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    tables_from: Path | None = None
    transform_from: Path | None = None
    grow: bool = False

    @property
    def _side_tables(self) -> list[Path]:
        return [self.tables_from / field.table.file for field in self.schema.vector_fields if field.table and self.tables_from]

    @property
    def fingerprint(self) -> str:
        """Equal for two jobs that would write the same data folder, as far as can be told without reading the log.

        A file of the log, or a side table, is known by its path, size and time of change.
        """
        files = sorted({(path, None) for path in self.origin} or {(one.path, one.split) for one in self.descriptors}, key=str)
        if not self.origin:
            files += [(str(path), None) for path in self._side_tables if path.is_file()]
        sizes = [(path, split, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path, split in files]
        earlier = sha256(self.transform_from / MANIFEST_FILE) if self.transform_from else None
        made_from = [self.schema.to_yaml(), sizes, self.compression, earlier, self.grow]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
