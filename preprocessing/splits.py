"""Which split a row belongs to, decided from the row alone: the same for any runner, worker count or file order."""

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.schema import SPLITS, AnySplit, ColumnSplit, FilesSplit, HashSplit, TimeSplit

_KEY_SEPARATOR = "\x1f"
TRAIN, VALID, TEST = range(len(SPLITS))


def hash_texts(texts: pa.Array, salt: str) -> np.ndarray:
    """A 64-bit SipHash of each text, uint64 [rows]; different salts give independent hashes.

    Args:
      texts: strings, dictionary-encoded or not; null is the empty text.
    """
    key = hashlib.blake2b(salt.encode(), digest_size=8).hexdigest()
    encoded = texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode()
    distinct = np.append(encoded.dictionary.to_numpy(zero_copy_only=False).astype(object), "")
    hashes = pd.util.hash_array(distinct, hash_key=key, categorize=False)
    return hashes[pc.fill_null(encoded.indices, len(distinct) - 1).to_numpy(zero_copy_only=False)]


def assign_splits(split: AnySplit, file_split: str | None, rows: pa.RecordBatch | np.ndarray) -> np.ndarray:
    """Returns each row's split, int8 [rows]: its place in `SPLITS`, or -1 where a column split names none of them.

    Args:
      split: the schema's split.
      file_split: the split that the rows' file belongs to; only with `FilesSplit`.
      rows: the text columns, dictionary-encoded or not; with `TimeSplit` the times, in the units of its limits.
    """
    if isinstance(split, FilesSplit):
        return np.full(len(rows), SPLITS.index(file_split), np.int8)
    if isinstance(split, HashSplit):
        return _by_hash(split, rows)
    if isinstance(split, TimeSplit):
        return np.digitize(rows, split.limits).astype(np.int8)
    return _by_column(split, rows[split.column])


def _by_hash(split: HashSplit, rows: pa.RecordBatch) -> np.ndarray:
    """u = hash / 2^64 is uniform in [0, 1): test below `test`, valid below `test + valid`, train above."""
    keys = [rows[column] for column in split.key]
    if len(keys) > 1:
        texts = [pc.fill_null(key.cast(pa.string()), "") for key in keys]
        keys = [pc.binary_join_element_wise(*texts, _KEY_SEPARATOR)]
    u = hash_texts(keys[0], f"split {split.seed}") / 2.0**64
    return np.select([u < split.test, u < split.test + split.valid], [TEST, VALID], TRAIN).astype(np.int8)


def _by_column(split: ColumnSplit, column: pa.Array) -> np.ndarray:
    texts, codes = [], []
    for code, name in enumerate(SPLITS):
        texts += getattr(split, name)
        codes += [code] * len(getattr(split, name))
    place = pc.fill_null(pc.index_in(column.cast(pa.string()), value_set=pa.array(texts, pa.string())), len(codes)).to_numpy()
    return np.array([*codes, -1], np.int8)[place]
