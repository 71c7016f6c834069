"""Splits: fixed by the row alone."""

import numpy as np
import pyarrow as pa

from preprocessing.schema import ColumnSplit, FilesSplit, HashSplit, TimeSplit
from preprocessing.splits import TEST, TRAIN, VALID, assign_splits, hash_texts


def batch(**columns):
    return pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})


def test_hashes_are_the_same_on_every_machine():
    # Written down once: a changed hash would move every user's rows between splits.
    hashes = hash_texts(pa.array(["", "u1", "u1", "\xfc"]), "group")
    assert hashes.tolist() == [14240925577673434961, 14750722619813448700, 14750722619813448700, 1566263747446529679]
    assert not np.isin(hash_texts(pa.array(["", "u1"]), "other"), hashes).any()


def test_hash_split_has_the_wanted_shares_and_keeps_keys_together():
    users = [f"user {number}" for number in range(20_000)]
    codes = assign_splits(HashSplit(key=("user",), valid=0.2, test=0.1), None, batch(user=users))
    shares = np.bincount(codes) / len(users)
    # Standard deviations are 0.003 and less.
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.015)
    again = assign_splits(HashSplit(key=("user",), valid=0.2, test=0.1), None, batch(user=users[::-1]))
    np.testing.assert_array_equal(codes[::-1], again)


def test_hash_split_depends_on_the_seed_and_on_where_a_key_ends():
    rows = batch(a=["x"] * 1000, b=[str(number) for number in range(1000)])
    first = assign_splits(HashSplit(key=("a", "b")), None, rows)
    assert (first != assign_splits(HashSplit(key=("a", "b"), seed=1), None, rows)).any()
    moved = batch(a=[f"x{number}" for number in range(1000)], b=[""] * 1000)
    assert (first != assign_splits(HashSplit(key=("a", "b")), None, moved)).any()


def test_time_split_includes_its_boundaries_from_below():
    codes = assign_splits(TimeSplit(column="t", valid_from=10, test_from=20), None, np.array([9.9, 10, 19.9, 20]))
    assert codes.tolist() == [TRAIN, VALID, VALID, TEST]


def test_column_split_marks_texts_that_name_none():
    split = ColumnSplit(column="s", train=("train", "dev"))
    codes = assign_splits(split, None, batch(s=["dev", "train", "test", "valid", "Train", ""]))
    assert codes.tolist() == [TRAIN, TRAIN, TEST, VALID, -1, -1]


def test_file_split_is_the_files():
    split = FilesSplit(train="a", valid="b", test="c")
    assert assign_splits(split, "valid", batch(x=["1", "2"])).tolist() == [VALID, VALID]
