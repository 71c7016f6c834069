"""Vocabularies as files: readable text, one value a line, in the order of the table's rows 2.., as TFT reads them too."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.files import replaced_file
from preprocessing.schema import VOCABULARIES, NamedField

_NEW_LINE = "\n"


def vocabulary_path(data_dir: Path, field: NamedField) -> Path:
    """The file of the vocabulary that a field uses: its own, or the one that it shares."""
    return data_dir / VOCABULARIES / f"{field.vocabulary or field.name}.txt"


def write_values(path: Path, values: pa.Array) -> None:
    """Writes texts, none of which may hold a line feed."""
    nothing, separator = (pa.scalar(text, pa.large_string()) for text in ("", _NEW_LINE))
    lines = pc.binary_join_element_wise(values.cast(pa.large_string()), nothing, separator)
    size = pc.sum(pc.binary_length(lines)).as_py() or 0
    with replaced_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(lines.buffers()[2][:size] if size else b"")


def read_values(path: Path) -> pa.LargeStringArray:
    """The values of a vocabulary file, without an object for each: its own bytes under an array of offsets."""
    text = np.fromfile(path, np.uint8)
    offsets = np.concatenate([[0], np.flatnonzero(text == ord(_NEW_LINE)) + 1])
    lines = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.utf8_rtrim(lines, _NEW_LINE)
