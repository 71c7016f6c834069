"""What the rows of the table stand for, kept in the model folder, so that a model can be understood without its data.

    MODEL/trained_on/CHECKSUM/   schema.yaml, buckets.json, vocabularies/OWNER.txt of the data folder with that checksum

An owner is a field with rows of its own (`Schema.owners`); a hashed one has no file, as its row follows from the value.

A checkpoint names the data that it was trained on by the same checksum (`TrainingState.data`).
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.errors import UserError
from preprocessing.files import flush
from preprocessing.schema import BUCKETS_FILE, SCHEMA_FILE, SPECIAL_ROWS, VOCABULARIES, NamedField, NumericField
from trainer.data_folder import DataFolder

TRAINED_ON = "trained_on"
CHECKSUM_LETTERS = 16
NEW_LINE = ord("\n")


def kept_folder(model_dir: Path, checksum: str) -> Path:
    """Where a model folder keeps the vocabularies of the data with this checksum."""
    return model_dir / TRAINED_ON / checksum[:CHECKSUM_LETTERS]


def keep_vocabularies(data: DataFolder, model_dir: Path) -> None:
    """Copies the data folder's schema, vocabularies and buckets into the model folder; does nothing where they are.

    Raises:
      UserError: the data folder lacks one of these files.
    """
    kept = kept_folder(model_dir, data.checksum)
    if kept.is_dir():
        return
    names = [SCHEMA_FILE, *(_vocabulary_name(field) for field in data.schema.vocabulary_fields)]
    names += [BUCKETS_FILE] * bool(data.schema.numeric_fields)
    for name in names:
        _require(data.path / name, "restore it or run `python -m preprocessing.task` again")
    partial = kept.with_name(f".{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / VOCABULARIES).mkdir(parents=True)
    for name in names:
        shutil.copyfile(data.path / name, partial / name)
        flush(partial / name)
    for folder in (partial / VOCABULARIES, partial):
        flush(folder)
    partial.rename(kept)
    flush(kept.parent)


def _vocabulary_name(owner: NamedField) -> str:
    return f"{VOCABULARIES}/{owner.name}.txt"


def _require(path: Path, advice: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} does not exist, so nobody could say what the rows of the table stand for: {advice}")


def read_vocabulary(folder: Path, owner: NamedField) -> pa.LargeBinaryArray:
    """The values of one of `Schema.vocabulary_fields` in the order of its rows 2.., each with its line end.

    The lines are the file's own bytes under an array of offsets: ten million values need no object each.

    Raises:
      UserError: the file is not there, or has another number of lines than the schema says.
    """
    path = folder / _vocabulary_name(owner)
    _require(path, "restore the folder")
    text = np.fromfile(path, np.uint8)
    offsets = np.concatenate([[0], np.flatnonzero(text == NEW_LINE) + 1])
    if len(offsets) - 1 != owner.rows - SPECIAL_ROWS or offsets[-1] != len(text):
        raise UserError(f"{path}: expected {owner.rows - SPECIAL_ROWS:,} whole lines, as {folder / SCHEMA_FILE} says, received "
                        f"{len(offsets) - 1:,}{'' if offsets[-1] == len(text) else ' and a part of one'}: restore the folder")
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def read_boundaries(folder: Path, field: NumericField) -> np.ndarray:
    """The bucket boundaries of a field, ascending, float [rows - 3]; a field without rows has none.

    Raises:
      UserError: the file is not there or does not belong to the schema.
    """
    path = folder / BUCKETS_FILE
    _require(path, "restore the folder")
    boundaries = np.array(json.loads(path.read_text(encoding="utf-8"))[field.name]["boundaries"], float)
    if len(boundaries) + 1 != field.rows - SPECIAL_ROWS:
        raise UserError(f"{path}: expected {field.rows - SPECIAL_ROWS} buckets of {field.name!r}, as {folder / SCHEMA_FILE} "
                        f"says, received {len(boundaries) + 1}: restore the folder")
    return boundaries
