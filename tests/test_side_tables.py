"""Side tables of vectors, as .npz and .parquet with keys of several types."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.errors import UserError
from preprocessing.schema import parse_schema
from preprocessing.side_tables import copy_side_tables

VECTORS = [[0.5, 1], [2, 3]]


def copied(folder, file):
    """Keys and matrix in the data folder."""
    schema = parse_schema({
        "name": "log", "label": {"column": "y"}, "missing": ["NULL"], "split": {"by": "hash", "key": ["u"]}, "fields": [
            {"name": "u", "kind": "categorical"},
            {"name": "image", "kind": "vector", "size": 2, "table": {"file": file, "key": "id", "values": "v"}},
        ]}, "log.yaml")
    copy_side_tables(schema, folder, folder / "data")
    matrix = np.load(folder / "data" / "vectors" / "image.npy")
    assert matrix.dtype == np.float32
    return (folder / "data" / "vectors" / "image.txt").read_text(), matrix.tolist()


@pytest.mark.parametrize("keys", [np.array(["7", "8"]), np.array([b"7", b"8"]), np.array([7, 8]), np.array([7.0, 8.0])])
def test_npz(tmp_path, keys):
    np.savez(tmp_path / "t.npz", id=keys, v=np.array(VECTORS))
    assert copied(tmp_path, "t.npz") == ("7\n8\n", [[0, 0], *VECTORS])


@pytest.mark.parametrize("vectors", [pa.array(VECTORS), pa.array(VECTORS, pa.list_(pa.float32(), 2)), pa.array(VECTORS, pa.large_list(pa.float64()))])
@pytest.mark.parametrize("keys", [pa.array(["7", "8"]).dictionary_encode(), pa.array([7, 8], pa.int32())])
def test_parquet(tmp_path, keys, vectors):
    pq.write_table(pa.table({"other": [1, 2], "v": vectors, "id": keys}), tmp_path / "t.parquet", row_group_size=1)
    assert copied(tmp_path, "t.parquet") == ("7\n8\n", [[0, 0], *VECTORS])


@pytest.mark.parametrize(("vector", "reason"), [
    ([1.0], "entry 2: the vector has another number of numbers than 2"),
    (None, "entry 2: the vector has numbers that are not finite"),
    ([1.0, None], "entry 2: the vector has numbers that are missing or infinite beside others"),
])
def test_a_wrong_vector_in_parquet_is_refused(tmp_path, vector, reason):
    pq.write_table(pa.table({"id": ["a", "b"], "v": [[1.0, 2.0], vector]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=rf"field 'image': side table .*t\.parquet, {reason} \(1 such entries in all\)"):
        copied(tmp_path, "t.parquet")


def test_a_parquet_file_without_the_column_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"has no 'v', it has \['id', 'vector'\]"):
        copied(tmp_path, "t.parquet")
