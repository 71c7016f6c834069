"""Files of offline scores: pieces while the pipeline runs, and one shard a descriptor of the input in the end.

A batch that has been scored becomes a piece, named after its place; when all pieces of a descriptor are there they become
its shard, in the order of its rows. So nothing depends on which worker did what, on how often it was tried, or on whether a
runner keeps the steps of a descriptor together.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from preprocessing.files import replaced_file
from preprocessing.schema import MANIFEST_FILE
from preprocessing.sources import Descriptor

FORMATS = ("csv", "parquet")
KIND = "scores"  # of what the manifest describes, which data folders have too


def holds_scores(folder: Path) -> bool:
    """Whether a folder is one of finished scores."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def piece_path(work: Path, descriptor: Descriptor, number: int) -> Path:
    return work / "pieces" / descriptor.name / f"{number:06d}.arrow"


def write_piece(path: Path, batch: pa.RecordBatch) -> None:
    """Writes a piece, whole or not at all; it need not survive a power cut, since the run would not either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    os.replace(sink.name, path)


def shard_path(folder: Path, descriptor: Descriptor, form: str) -> Path:
    return folder / f"{descriptor.name}.{form}"


def write_shard(path: Path, pieces: Iterable[Path], form: str) -> int:
    """Writes the rows of all pieces, one behind the other; returns how many there are. The file is whole or not there."""
    rows = 0
    with replaced_file(path) as temporary:
        writer = None
        for piece in pieces:
            with pa.memory_map(str(piece)) as source:
                table = pa.ipc.open_file(source).read_all()
                writer = writer or _writer(temporary, table.schema, form)
                writer.write_table(table)
            rows += len(table)
        writer.close()
    return rows


def _writer(path: Path, schema: pa.Schema, form: str) -> pacsv.CSVWriter | pq.ParquetWriter:
    return pacsv.CSVWriter(str(path), schema) if form == "csv" else pq.ParquetWriter(str(path), schema)
