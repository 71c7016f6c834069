"""Side tables of vectors, such as image embeddings by item: checked once, and copied into the data folder.

`vectors/NAME.npy` is float32 [rows, size], whose row 0 stands for no vector and is zero; `vectors/NAME.txt` has the keys
of rows 1.., one a line. The transform graph turns a key into its row; the matrix is not in it.
"""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessing import values
from preprocessing.errors import UserError
from preprocessing.files import replaced_file
from preprocessing.schema import VECTORS, Schema, VectorField
from preprocessing.vocabulary_files import read_values, write_values


def copy_side_tables(schema: Schema, base: Path, folder: Path, earlier: Path | None = None) -> None:
    """Writes the side table of each vector field that has one into the data folder `folder`.

    Args:
      base: what the tables' paths are relative to: the folder of the schema's file.
      earlier: a data folder whose keys keep their rows, and their vectors unless the table has newer ones; keys that it
        does not know come behind them.

    Raises:
      UserError: a table is absent, cannot be read, has keys that are missing or twice the same, or has vectors of another
        size, or with numbers that are not finite.
    """
    for field in schema.vector_fields:
        if field.table:
            keys, vectors = _checked(field, base / field.table.file, schema.missing)
            if earlier:
                keys, vectors = _behind(field, earlier / VECTORS, keys, vectors)
            _write(field, keys, vectors, folder / VECTORS)


def _checked(field: VectorField, path: Path, missing: tuple[str, ...]) -> tuple[pa.Array, np.ndarray]:
    table = f"field {field.name!r}: side table {path}"
    if not path.is_file():
        raise UserError(f"{table} does not exist: expected a .npz or .parquet file, relative to the schema's file; correct `table.file`")
    key_column, value_column = _read(field, path, table)
    if len(key_column) != len(value_column):
        raise UserError(f"{table} has {len(key_column)} keys and {len(value_column)} vectors, expected as many; write it again")
    keys = _checked_keys(key_column, missing, table)
    return keys, _checked_vectors(value_column, field.size, table)


def _behind(field: VectorField, earlier: Path, keys: pa.Array, vectors: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """The earlier keys, then the new ones among `keys`, and the newest vector of each."""
    old_keys, old_vectors = read_values(earlier / f"{field.name}.txt"), np.load(earlier / f"{field.name}.npy", mmap_mode="r")[1:]
    place = pc.index_in(keys, value_set=old_keys)
    known = place.is_valid().to_numpy(zero_copy_only=False)
    together = np.concatenate([old_vectors, vectors[~known]])
    together[place.drop_null().to_numpy()] = vectors[known]
    return pa.concat_arrays([old_keys, keys.filter(pa.array(~known))]), together


def _write(field: VectorField, keys: pa.Array, vectors: np.ndarray, folder: Path) -> None:
    write_values(folder / f"{field.name}.txt", keys)
    with replaced_file(folder / f"{field.name}.npy") as temporary:
        matrix = np.lib.format.open_memmap(temporary, "w+", np.float32, (1 + len(keys), field.size))
        matrix[1:] = vectors
        matrix.flush()


def _read(field: VectorField, path: Path, table: str) -> tuple[pa.Array, np.ndarray | pa.Array]:
    read = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{table} has a name that ends in {path.suffix!r}, expected .npz or .parquet")
    try:
        return read(path, field.table.key, field.table.values)
    except KeyError as error:
        raise UserError(f"{table} has no {error.args[0]!r}, it has {error.args[1]}: correct `table.key` or `table.values`") from error
    except (pa.ArrowException, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise UserError(
            f"{table} cannot be read ({error}): write it again (keys in a .npz as an array of texts or integers, not of objects)"
        ) from error


def _read_npz(path: Path, key: str, vectors: str) -> tuple[pa.Array, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        for name in (key, vectors):
            if name not in arrays.files:
                raise KeyError(name, arrays.files)
        return pa.array(arrays[key]), arrays[vectors]


def _read_parquet(path: Path, key: str, vectors: str) -> tuple[pa.Array, pa.Array]:
    file = pq.ParquetFile(path)
    for name in (key, vectors):
        if name not in file.schema_arrow.names:
            raise KeyError(name, file.schema_arrow.names)
    content = file.read([key, vectors])
    return content[key].combine_chunks(), content[vectors].combine_chunks()


def _checked_keys(column: pa.Array, missing: tuple[str, ...], table: str) -> pa.Array:
    reasons = values.RowReasons(len(column))
    texts = values.texts(column, missing, "the key", reasons)
    reasons.add(texts.is_null().to_numpy(zero_copy_only=False), "the key is missing")
    keys = texts.cast(pa.large_string())
    ended = pc.fill_null(pc.match_substring_regex(keys, r"[\r\n]"), False)
    reasons.add(ended.to_numpy(zero_copy_only=False), "the key has a line end in it")
    firsts = np.zeros(len(keys), bool)
    firsts[np.unique(texts.indices.fill_null(-1), return_index=True)[1]] = True
    reasons.add(~firsts, "the key stood before")
    _refuse(reasons, table)
    return keys


def _checked_vectors(column: np.ndarray | pa.Array, size: int, table: str) -> np.ndarray:
    if isinstance(column, np.ndarray):
        if column.ndim != 2 or column.shape[1] != size or column.dtype.kind not in "fiu":
            raise UserError(f"{table} has vectors of shape {column.shape} and type {column.dtype}, expected numbers of shape [keys, {size}] "
                            "(`size`): correct `size` or write the table again")
        vectors, reasons = values.single_precision(column), values.RowReasons(len(column))
    else:
        reasons = values.RowReasons(len(column))
        vectors = values.vectors(column, size, "|", (), "the vector", reasons)
    reasons.add(~np.isfinite(vectors).all(axis=1), "the vector has numbers that are not finite")
    _refuse(reasons, table)
    return vectors


def _refuse(reasons: values.RowReasons, table: str) -> None:
    malformed = np.flatnonzero(~reasons.good)
    if len(malformed):
        raise UserError(f"{table}, entry {malformed[0] + 1}: {reasons.of(malformed[0])} ({len(malformed):,} such entries in all); "
                        "correct the table")
