"""Parquet, TFRecord, libsvm, libfm and libffm: the same rows, and the same errors, as from text."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.framing import framed
from preprocessing.rows import read_rows
from preprocessing.schema import parse_schema
from preprocessing.sources import (
    Descriptor,
    Layout,
    blocks,
    column_names,
    find_files,
    parquet,
    pieces_of,
    read,
    tfrecord,
)
from preprocessing.sources.layout import row_texts

SCHEMA = {
    "name": "log", "label": {"column": "y"}, "split": {"by": "hash", "key": ["a"]},
    "fields": [{"name": "a", "kind": "categorical"}, {"name": "b", "kind": "numeric"}],
}


def make_schema(**changes):
    return parse_schema(SCHEMA | changes, "schema.yaml")


def batches(path, columns=None, **layout):
    return list(read(Descriptor(0, 1, str(path)), Layout("log", columns, **layout)))


def rows(path, columns=None, **layout):
    """All rows as tuples, and all rejections."""
    found = batches(path, columns, **layout)
    return [tuple(row.values()) for one in found for row in one.columns.to_pylist()], [r for one in found for r in one.rejections]


def written(tmp_path, name, data: bytes):
    path = tmp_path / name
    path.write_bytes(data)
    return path


# ---- Parquet ----

TABLE = pa.table({"b": [0.5, None, 2.0], "ignored": [1, 2, 3], "y": pa.array([1, 0, 1], pa.int8()), "a": ["p", None, "q"]})


def write_parquet(path, table=TABLE, **options):
    pq.write_table(table, path, **options)
    return path


def test_parquet_columns_are_found_by_name_and_keep_their_types(tmp_path):
    path = write_parquet(tmp_path / "log.parquet")
    (batch,) = batches(path, ("y", "a", "b"))
    assert batch.columns.schema.types == [pa.int8(), pa.string(), pa.float64()]
    assert rows(path, ("y", "a", "b")) == ([(1, "p", 0.5), (0, None, None), (1, "q", 2.0)], [])
    assert column_names(str(path), Layout("log", None)) == ["b", "ignored", "y", "a"]
    assert rows(path, ("y", "z"), optional=frozenset({"z"}))[0][0] == (1, None)


def test_row_groups_are_pieces(tmp_path, monkeypatch):
    table = pa.table({"y": [0] * 5, "a": list("pqrst"), "b": [0.0, 1, 2, 3, 4]})
    path = write_parquet(tmp_path / "log.parquet", table, row_group_size=1, compression="none")
    group_bytes = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    monkeypatch.setattr(parquet, "PIECE_BYTES", 2 * group_bytes + 1)  # five groups are 2.5 pieces, rounded to 2
    pieces = pieces_of(str(path), Layout("log", None))
    assert [(piece.start, piece.end, piece.first_line) for piece in pieces] == [(0, 3, 1), (3, 5, 4)]
    assert sum(piece.size for piece in pieces) == path.stat().st_size
    found = [list(read(piece, Layout("log", ("a",)))) for piece in pieces]
    assert [[text for batch in one for text in batch.columns["a"].to_pylist()] for one in found] == [["p", "q", "r"], ["s", "t"]]
    assert [one[-1].bytes_read for one in found] == [piece.size for piece in pieces]
    assert found[1][-1].locate(np.array([1])) == [(5, '{"a": "t"}')]


def without_sizes(path):
    """Lets the footer of a Parquet file say that each row group of its first row group's size takes no bytes, as some writers do."""
    def varint(number, length=0):  # zigzag, as Thrift's compact protocol writes integers; `length` may be more than needed
        number, found = 2 * number, []
        while number or len(found) < max(length, 1):
            found.append(number & 127 | 128)
            number >>= 7
        return bytes([*found[:-1], found[-1] & 127])

    group = pq.ParquetFile(path).metadata.row_group(0)
    size, rows = varint(group.total_byte_size), varint(group.num_rows)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x16" + size + b"\x16" + rows, b"\x16" + varint(0, len(size)) + b"\x16" + rows))
    return path


def test_row_groups_that_do_not_say_their_size(tmp_path, monkeypatch):
    table = pa.table({"a": [f"{number:0100d}" for number in range(1000)]})
    options = {"row_group_size": 250, "use_dictionary": False, "compression": "none"}
    whole = write_parquet(tmp_path / "whole.parquet", table, **options)
    path = without_sizes(write_parquet(tmp_path / "log.parquet", table, **options))
    found = pq.ParquetFile(path).metadata
    assert [found.row_group(number).total_byte_size for number in range(4)] == [0] * 4
    monkeypatch.setattr(parquet, "PIECE_BYTES", 60_000)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 10_000)
    pieces, expected = (pieces_of(str(one), Layout("log", None)) for one in (path, whole))
    assert [(piece.start, piece.end, piece.size) for piece in pieces] == [(piece.start, piece.end, piece.size) for piece in expected]
    assert len(pieces) == 2
    batches = [batch for piece in pieces for batch in read(piece, Layout("log", ("a",)))]
    assert [text for batch in batches for text in batch.columns["a"].to_pylist()] == table["a"].to_pylist()
    assert max(len(batch.columns) for batch in batches) <= 100


def test_a_row_group_that_says_no_size_at_all_weighs_its_rows():
    column = SimpleNamespace(total_uncompressed_size=0)
    assert parquet._decompressed_bytes(SimpleNamespace(total_byte_size=0, num_columns=1, column=lambda _: column, num_rows=3)) == 3


@pytest.mark.parametrize(("kind", "number"), [
    (pa.timestamp("s"), 253_402_300_800), (pa.timestamp("ms", "UTC"), 1_700_000_000_000_000), (pa.timestamp("us"), -(10**17)),
    (pa.date32(), 2**30), (pa.date64(), 86_400_000 * 2**30), (pa.duration("s"), 2**60),
])
def test_a_rejected_row_may_hold_any_time(kind, number):
    storage = pa.array([0, number], pa.int32() if kind == pa.date32() else pa.int64())
    times, lists = storage.cast(kind), pa.ListArray.from_arrays([0, 1, 2], storage.cast(kind))
    columns = pa.RecordBatch.from_pydict({"a": ["p", "q"], "t": times, "l": lists, "d": times.dictionary_encode()})
    found = [json.loads(text) for _, text in row_texts(columns, np.array([7, 8]))(np.array([0, 1]))]
    assert found[1] == {"a": "q", "t": number, "l": [number], "d": number}
    assert found[0] == {"a": "p", "t": str(times[0].as_py()), "l": [str(times[0].as_py())], "d": str(times[0].as_py())}


def test_parquet_batches_are_of_bounded_size(tmp_path, monkeypatch):
    table = pa.table({"a": [f"{number:0100d}" for number in range(1000)]})
    path = write_parquet(tmp_path / "log.parquet", table, use_dictionary=False, compression="none")
    monkeypatch.setattr(parquet, "BATCH_BYTES", 10_000)
    found = batches(path)
    assert {len(batch.columns) for batch in found[:-1]} == {len(found[0].columns)}
    assert 80 <= len(found[0].columns) <= 100
    assert sum(len(batch.columns) for batch in found) == 1000


def test_parquet_types_of_all_kinds(tmp_path):
    table = pa.table({
        "dotted.name": pa.array(["p", "q"]).dictionary_encode(),
        "list": pa.array([[1, 2], None], pa.list_(pa.int64())),
        "vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)),
        "time": pa.array([0, 1], pa.timestamp("us", "UTC")),
        "nested": [{"x": 1}, {"x": 2}],
    })
    path = write_parquet(tmp_path / "log.parquet", table)
    (batch,) = batches(path)
    assert batch.columns.schema.names == ["dotted.name", "list", "vector", "time"]  # all that can be read
    assert batch.columns["dotted.name"].to_pylist() == ["p", "q"]
    assert batch.columns["vector"].to_pylist() == [[1, 2], [3, 4]]
    assert json.loads(batch.locate(np.array([1]))[0][1]) == {
        "dotted.name": "q", "list": None, "vector": [3, 4], "time": "1970-01-01 00:00:00.000001+00:00"}
    with pytest.raises(UserError, match=r"column 'nested' has the nested type struct<x: int64>, expected texts"):
        pieces_of(str(path), Layout("log", ("nested",)))


def test_parquet_texts_that_are_not_utf8_come_as_bytes(tmp_path):
    offsets = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"p\xff")])
    path = write_parquet(tmp_path / "log.parquet", pa.table({"a": bad, "l": pa.ListArray.from_arrays([0, 1, 2], bad)}))
    (batch,) = batches(path)
    assert batch.columns.to_pylist() == [{"a": b"p", "l": [b"p"]}, {"a": b"\xff", "l": [b"\xff"]}]
    assert batch.locate(np.array([1])) == [(2, '{"a": "\\\\xff", "l": ["\\\\xff"]}')]


def test_parquet_files_that_cannot_be_right_are_named(tmp_path):
    path, pattern = tmp_path / "log.parquet", [str(tmp_path / "*.parquet")]
    write_parquet(path, TABLE.drop_columns("b"))
    with pytest.raises(UserError, match=r"has no column 'b', which schema 'log' names: the columns are \['ignored', 'y', 'a'\]"):
        find_files(pattern, make_schema())
    write_parquet(path, pa.Table.from_arrays([*TABLE.columns, TABLE["a"]], [*TABLE.column_names, "a"]))
    with pytest.raises(UserError, match="more than one column 'a'"):
        find_files(pattern, make_schema())
    write_parquet(path, TABLE.slice(0, 0))
    with pytest.raises(UserError, match=r"log\.parquet has no rows: expected at least one"):
        find_files(pattern, make_schema())
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"log\.parquet is empty"):
        find_files(pattern, make_schema())
    path.write_bytes(write_parquet(tmp_path / "whole").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"log\.parquet cannot be read as Parquet .*: it is truncated, damaged or of another"):
        find_files(pattern, make_schema())


def test_a_damaged_page_of_a_parquet_file_is_an_error(tmp_path):
    table = pa.table({"a": [f"{number:04d}" for number in range(1000)]})
    path = write_parquet(tmp_path / "log.parquet", table, use_dictionary=False, compression="none", write_page_checksum=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"0500", b"0501", 1))
    with pytest.raises(UserError, match=r"log\.parquet cannot be read as Parquet .*: it is truncated, damaged"):
        batches(path)


# ---- TFRecord ----


def example(**features) -> bytes:
    kinds = {bytes: "bytes_list", int: "int64_list", float: "float_list"}
    record = tf.train.Example()
    for name, found in features.items():
        getattr(record.features.feature[name], kinds[type(found[0])]).value.extend(found)
    return record.SerializeToString(deterministic=True)


def tfrecord_of(*records: bytes) -> bytes:
    return bytes(framed(pa.array(records, pa.binary())))


EXAMPLES = (example(y=[1], a=[b"p", b"q"], b=[0.5]), example(y=[0]), example(a=[b"r"], b=[1.0, 2.0]))
EXPECTED = [([1], [b"p", b"q"], [0.5]), ([0], None, None), (None, [b"r"], [1.0, 2.0])]


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_examples_become_columns_of_lists(tmp_path, compress):
    path = written(tmp_path, "log.tfrecord", compress(tfrecord_of(*EXAMPLES)))
    assert rows(path, ("y", "a", "b")) == (EXPECTED, [])
    (batch,) = batches(path, ("y", "a", "b", "z"))
    assert [pa.types.is_null(kind) or str(kind.value_type) for kind in batch.columns.schema.types] == [
        "int64", "large_binary", "float", True]
    assert batch.bytes_read == path.stat().st_size
    assert batch.locate(np.array([2])) == [(3, '{"y": null, "a": ["r"], "b": [1.0, 2.0], "z": null}')]
    assert sorted(column_names(str(path), Layout("log", None))) == ["a", "b", "y"]


def test_tensorflow_wrote_it(tmp_path):
    path = str(tmp_path / "log.tfrecord")
    with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for record in EXAMPLES:
            writer.write(record)
    assert rows(path, ("y", "a", "b")) == (EXPECTED, [])


def test_the_block_size_changes_no_example(tmp_path, monkeypatch):
    path = written(tmp_path, "log.tfrecord", tfrecord_of(*EXAMPLES * 5, b"no example"))
    whole = rows(path, ("y", "a", "b"))
    assert whole == (EXPECTED * 5, [(16, "not a tf.train.Example", "no example")])
    for size in (1, 13, 100):
        monkeypatch.setattr(tfrecord, "BLOCK_BYTES", size)
        assert rows(path, ("y", "a", "b")) == whole


def test_records_that_are_no_examples_are_rejected(tmp_path):
    path = written(tmp_path, "log.tfrecord", tfrecord_of(EXAMPLES[0], b"\xff text", *EXAMPLES[1:]))
    assert rows(path, ("y", "a", "b")) == (EXPECTED, [(2, "not a tf.train.Example", "\\xff text")])
    (batch,) = batches(path, ("y",))
    assert batch.locate(np.array([0, 1])) == [(1, '{"y": [1]}'), (3, '{"y": [0]}')]


@pytest.mark.parametrize("block_bytes", [1, 4 << 20], ids=["in another block", "in one block"])
def test_a_feature_of_another_type_is_rejected(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(tfrecord, "BLOCK_BYTES", block_bytes)
    path = written(tmp_path, "log.tfrecord", tfrecord_of(*EXAMPLES, example(y=[b"1"]), example(y=[1])))
    found, rejections = rows(path, ("y", "a", "b"))
    assert found == [*EXPECTED, ([1], None, None)]
    assert [(line, reason) for line, reason, _ in rejections] == [(4, "feature 'y' holds bytes, and int64 in the records before")]
    assert len(rows(path, ("a", "b"))[0]) == 5  # nobody wants the feature


def test_a_damaged_record_is_rejected_and_those_behind_it_are_read(tmp_path):
    data = bytearray(tfrecord_of(*EXAMPLES))
    data[14] ^= 1  # inside the first record's content
    found, rejections = rows(written(tmp_path, "log.tfrecord", bytes(data)), ("y", "a", "b"))
    assert found == EXPECTED[1:]
    assert [(line, reason) for line, reason, _ in rejections] == [(1, "damaged: does not agree with its checksum")]


@pytest.mark.parametrize(("damage", "expected"), [
    (lambda data: data[:-1], r"record 3 is not complete, so nobody knows how many rows are lost"),
    (lambda data: data[:len(tfrecord_of(*EXAMPLES[:2])) + 7], r"record 3 is not complete"),
    (lambda data: tfrecord_of(EXAMPLES[0]) + b"\x01" + data[len(tfrecord_of(EXAMPLES[0])) + 1:],
     r"record 2 has a damaged length, so nobody knows"),
    (lambda data: gzip.compress(data)[:-5], r"cannot be decompressed to its end"),
    (lambda data: b"y,a,b\n1,p,q\n", r"is not a TFRecord file, or its first record is truncated or damaged"),
    (lambda data: b"", r"log\.tfrecord is empty"),
    (lambda data: tfrecord_of(b""), r"has no record that is a tf\.train\.Example with features"),
], ids=["cut", "cut in a length", "damaged length", "cut gzip", "text", "empty", "no features"])
def test_tfrecord_files_that_cannot_be_right_are_named(tmp_path, damage, expected):
    path = written(tmp_path, "log.tfrecord", damage(tfrecord_of(*EXAMPLES)))
    with pytest.raises(UserError, match=expected):
        find_files([str(path)], make_schema())
        list(read(Descriptor(0, 1, str(path)), Layout("log", ("y",))))


def test_a_feature_that_no_file_has_is_an_error(tmp_path):
    one = written(tmp_path, "one.tfrecord", tfrecord_of(example(a=[b"p"])))
    other = written(tmp_path, "other.tfrecord", tfrecord_of(example(b=[1.0], y=[1])))
    assert [piece.path for piece in find_files([str(one), str(other)], make_schema())] == [str(one), str(other)]
    with pytest.raises(UserError, match=r"one\.tfrecord has no column 'b', which schema 'log' names: the columns are \['a'\]"):
        find_files([str(one)], make_schema(label={"column": "a"}, fields=SCHEMA["fields"][1:],
                                           split={"by": "hash", "key": ["b"]}))


def test_the_length_of_a_record_may_look_like_gzip(tmp_path):
    record = example(a=[b"x" * (0x8B1F - 23)])
    path = written(tmp_path, "log.tfrecord", tfrecord_of(record))
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert [len(a[0]) for (a,) in rows(path, ("a",))[0]] == [0x8B1F - 23]


# ---- libsvm, libfm, libffm ----


def test_libsvm(tmp_path):
    path = written(tmp_path, "log.libsvm", b"# a comment\n1 3:0.5 7:x # another\r\n\n0 7:2\n7:4\n-1\n0 3:\n")
    assert column_names(str(path), Layout("log", None)) == ["label", "indices", "3", "7"]
    assert rows(path, ("7", "label", "3", "indices")) == ([
        ("x", "1", "0.5", ["3", "7"]), ("2", "0", "", ["7"]), ("4", "", "", ["7"]), ("", "-1", "", []), ("", "0", "", ["3"]),
    ], [])
    (batch,) = batches(path, ("label",))
    assert batch.locate(np.array([0, 4])) == [(2, "1 3:0.5 7:x # another"), (7, "0 3:")]


def test_libfm(tmp_path):
    path = written(tmp_path, "log.libfm.gz", gzip.compress(b"1 33:1 7:1\n0 72:1\n33:1\n"))
    assert column_names(str(path), Layout("log", None)) == ["label", "indices", "1", "2"]
    assert rows(path, ("label", "2", "1", "indices")) == (
        [("1", "7", "33", ["33", "7"]), ("0", "", "72", ["72"]), ("", "", "33", ["33"])], [])


def test_libffm(tmp_path):
    path = written(tmp_path, "log.libffm", b"1 0:33:1 1:7:1\n0 1:72:1 0:5:1 1:8:0.5\n")
    assert column_names(str(path), Layout("log", None)) == ["label", "indices", "0", "1"]
    assert rows(path, ("label", "0", "1", "indices")) == (
        [("1", ["33"], ["7"], ["33", "7"]), ("0", ["5"], ["72", "8"], ["72", "5", "8"])], [])


def test_malformed_sparse_rows_are_rejected(tmp_path):
    path = written(tmp_path, "log.libsvm", b"1 3:1 x 7:1\n1 3:1 7:1\n1 3:1 3:2\n1 :3\n1 7:\xff\n2 1:2:3\n0 3:4\n")
    found, rejections = rows(path, ("label", "3"))
    assert found == [("1", "1"), ("0", "4")]
    form = "not of the form label index:value index:value ..."
    assert rejections == [
        (1, form, "1 3:1 x 7:1"), (3, "index 3 more than once", "1 3:1 3:2"), (4, form, "1 :3"),
        (5, "not valid UTF-8", "1 7:\\xff"), (6, form, "2 1:2:3"),
    ]
    path = written(tmp_path, "log.libffm", b"1 0:1\n1 0:1:1\n")
    assert rows(path, ("0",)) == ([(["1"],)], [(1, "not of the form label field:index:value field:index:value ...", "1 0:1")])


def test_the_block_size_changes_no_sparse_row(tmp_path, monkeypatch):
    path = written(tmp_path, "log.libffm", b"".join(b"%d %d:%d:1 3:%d:1\n" % (n % 2, n % 3, n, n) for n in range(50)))
    whole = rows(path, ("label", "0", "1", "3"))
    assert whole[0][4] == ("0", [], ["4"], ["4"])
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 37)
    monkeypatch.setattr(blocks, "PIECE_BYTES", 100)
    layout = Layout("log", ("label", "0", "1", "3"))
    pieces = pieces_of(str(path), layout)
    assert len(pieces) == round(path.stat().st_size / 100)
    found = [batch for piece in pieces for batch in read(piece, layout)]
    assert [tuple(row.values()) for batch in found for row in batch.columns.to_pylist()] == whole[0]
    assert found[-1].locate(np.array([0]))[0][0] == 50 - len(found[-1].columns) + 1


def test_sparse_files_that_cannot_be_right_are_named(tmp_path):
    schema = make_schema(label={"column": "label"}, fields=[{"name": "a", "kind": "numeric", "column": "7"}],
                         split={"by": "hash", "key": ["7"]})
    path = written(tmp_path, "log.libsvm", b"# nothing\n\n")
    with pytest.raises(UserError, match=r"log\.libsvm is empty"):
        find_files([str(path)], schema)
    path.write_bytes(b"1 3:1\n")
    with pytest.raises(UserError, match=r"no column '7', which schema 'log' names: the columns are \['label', 'indices', '3'\]"):
        find_files([str(path)], schema)
    path.write_bytes(b"1 3:1\n0 7:1\n")
    assert len(find_files([str(path)], schema)) == 1


def test_of_very_many_sparse_columns_only_the_list_is_read_unasked(tmp_path):
    path = written(tmp_path, "log.libsvm", b"1 " + b" ".join(b"%d:1" % number for number in range(1001)) + b"\n")
    assert column_names(str(path), Layout("log", None)) == ["label", "indices"]
    assert len(column_names(str(path), Layout("log", ("7",)))) == 1003


# ---- Several formats ----


def test_formats_may_be_mixed(tmp_path):
    written(tmp_path, "a.csv", b"y,a,b\n1,p,0.5\n")
    write_parquet(tmp_path / "b.parquet")
    written(tmp_path, "c.tfrecord", tfrecord_of(*EXAMPLES))
    found = find_files([str(tmp_path / "*")], make_schema())
    assert [piece.name for piece in found] == [f"part-0000{number}-of-00003" for number in range(3)]
    first = [next(read(piece, Layout.of(make_schema()))).columns.to_pylist()[0] for piece in found]
    assert first == [{"y": "1", "a": "p", "b": "0.5"}, {"y": 1, "a": "p", "b": 0.5}, {"y": [1], "a": [b"p", b"q"], "b": [0.5]}]


def test_the_same_log_means_the_same_in_every_format(tmp_path):
    """Ids as texts or integers, lists as one text or lists, missing as "", null or an absent feature."""
    written(tmp_path, "log.csv", b'y,a,b,m\n1,7,0.5,p|q\n0,,,\n,8,2,"r"\n')
    write_parquet(tmp_path / "log.parquet", pa.table({
        "y": pa.array([1, 0, None], pa.int8()), "a": [7, None, 8], "b": [0.5, float("nan"), 2.0],
        "m": [["p", "q"], None, ["r"]]}))
    written(tmp_path, "log.tfrecord", tfrecord_of(
        example(y=[1], a=[7], b=[0.5], m=[b"p", b"q"]), example(y=[0]), example(a=[8], b=[2.0], m=[b"r"])))
    schema = make_schema(fields=[*SCHEMA["fields"], {"name": "m", "kind": "multivalued"}])
    found = []
    for name in ("log.csv", "log.parquet", "log.tfrecord"):
        (piece,) = find_files([str(tmp_path / name)], schema)
        (one,) = read_rows(piece, schema)
        assert one.rejections == []
        features = {name: column.to_pylist() if isinstance(column, pa.Array) else np.nan_to_num(column, nan=-1).tolist()
                    for name, column in one.features.items()}
        found.append((features, one.label.tolist(), one.split.tolist()))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == {"a": ["7", None, "8"], "b": [0.5, -1, 2], "m": [["p", "q"], [], ["r"]]}
    assert found[0][1] == [1, 0, -1]


def test_the_schema_may_name_the_format(tmp_path):
    path = write_parquet(tmp_path / "log.bin")
    assert len(find_files([str(path)], make_schema(format="parquet"))) == 1
    with pytest.raises(UserError, match=r"is not CSV or TSV, but a Parquet file"):
        find_files([str(path)], make_schema())
