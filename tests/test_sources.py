"""Finding files, and reading text: every record arrives, and a record that cannot is named with its line."""

import gzip
import os

import numpy as np
import pytest

from preprocessing.errors import UserError
from preprocessing.schema import parse_schema
from preprocessing.sources import Descriptor, Layout, blocks, column_names, find_files
from preprocessing.sources import read as read_batches


def make_schema(**changes):
    base = {
        "name": "log",
        "label": {"column": "y"},
        "split": {"by": "hash", "key": ["a"]},
        "fields": [{"name": "a", "kind": "categorical"}, {"name": "b", "kind": "categorical"}],
    }
    return parse_schema(base | changes, "schema.yaml")


SCHEMA = make_schema()


def batches(path, schema=SCHEMA):
    return list(read_batches(Descriptor(0, 1, str(path)), Layout.of(schema)))


def read(path, schema=SCHEMA):
    """All rows of a file as tuples (y, a, b), and all rejections."""
    rows, rejections = [], []
    for batch in batches(path, schema):
        rows += [tuple(row.values()) for row in batch.columns.to_pylist()]
        rejections += batch.rejections
    return rows, rejections


def written(tmp_path, data: bytes, name="log.csv"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_columns_are_found_by_name_and_others_ignored(tmp_path):
    path = written(tmp_path, b"b,ignored,y,a\nb1,x,1,a1\nb2,x,0,\n")
    assert read(path) == ([("1", "a1", "b1"), ("0", "", "b2")], [])


@pytest.mark.parametrize("data", [
    b"y,a,b\n1,p,q\n0,r,s\n",
    b"y,a,b\n1,p,q\n0,r,s",
    b"y,a,b\r\n1,p,q\r\n0,r,s\r\n",
    b"\xef\xbb\xbfy,a,b\n1,p,q\n\n0,r,s\n",
    gzip.compress(b"y,a,b\n1,p,q\n0,r,s\n"),
    gzip.compress(b"y,a,b\n1,p,q\n") + gzip.compress(b"0,r,s\n"),
], ids=["plain", "no last line end", "crlf", "bom and blank line", "gzip", "gzip of two members"])
def test_usual_ways_of_writing_give_the_same_rows(tmp_path, data):
    assert read(written(tmp_path, data)) == ([("1", "p", "q"), ("0", "r", "s")], [])


def test_tsv_without_header(tmp_path):
    schema = make_schema(separator="\t", header=["y", "a", "b"])
    assert read(written(tmp_path, b"1\tp,p\tq\n0\t\ts\n"), schema) == ([("1", "p,p", "q"), ("0", "", "s")], [])


def test_quoted_line_ends_separators_and_quotes_belong_to_the_value(tmp_path):
    path = written(tmp_path, b'y,a,b\n1,"p\np","q,""q"""\n0,r"r,s\n')
    assert read(path) == ([("1", "p\np", 'q,"q"'), ("0", 'r"r', "s")], [])


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_the_block_size_changes_nothing(tmp_path, monkeypatch, end):
    rng = np.random.default_rng(0)
    choices = ["x", '"two\nlines"', '"q""q"', "", "long" * 9, "\xe4"]
    lines = [f"1,{choices[i]},{choices[j]}" for i, j in rng.integers(0, len(choices), [200, 2])]
    lines[50], lines[120] = "1,too few", "1,one,too,many"
    path = written(tmp_path, ("y,a,b" + end + end.join(lines)).encode())
    whole = read(path)
    assert len(whole[0]) == 198
    # Two of the values before a rejected row may span lines, so its line comes from counting line ends.
    expected = [2 + sum(line.count("\n") + 1 for line in lines[:place]) for place in (50, 120)]
    assert [rejection.line for rejection in whole[1]] == expected
    for size in (*range(61, 69), 1000):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        assert read(path) == whole


def test_rows_with_a_wrong_number_of_columns_are_rejected(tmp_path):
    rows, rejections = read(written(tmp_path, b'y,a,b\n1,p,q\n0,short\n\n1,"r\nr",s\n0,1,2,3\n'))
    assert rows == [("1", "p", "q"), ("1", "r\nr", "s")]
    assert rejections == [
        (3, "wrong number of columns: expected 3, received 2", "0,short"),
        (7, "wrong number of columns: expected 3, received 4", "0,1,2,3"),
    ]


def test_rows_that_are_not_utf8_are_rejected(tmp_path):
    rows, rejections = read(written(tmp_path, b"y,a,b\n1,\xff,q\n0,short\xff\n1,r,s\n0,t\n"))
    assert rows == [("1", "r", "s")]
    assert rejections == [
        (2, "not valid UTF-8", "1,\\xff,q"),
        (3, "not valid UTF-8", "0,short\\xff"),
        (5, "wrong number of columns: expected 3, received 2", "0,t"),
    ]


def test_a_quote_that_is_never_closed_costs_one_line(tmp_path):
    rows, rejections = read(written(tmp_path, b'y,a,b\n1,"p,q\n0,r,s\n1,t,u\n'))
    assert rows == [("0", "r", "s"), ("1", "t", "u")]
    assert rejections == [(2, "opening quote is never closed", '1,"p,q')]


def test_locate_skips_what_was_not_read(tmp_path):
    path = written(tmp_path, b'y,a,b\n0,short\n\n1,"p\np",q\n0,r,s\n')
    assert batches(path)[0].locate(np.array([0, 1])) == [(4, '1,"p\np",q'), (6, "0,r,s")]


def test_each_line_of_a_rejected_record_counts(tmp_path):
    """Quotes that open a value by mistake swallow lines, which must not pass as one row."""
    rows, rejections = read(written(tmp_path, b'y,a,b\n1,"r\n0,s,t\n1,u,"v\n0,w,x\n'))
    assert rows == [("0", "w", "x")]
    reason = "text follows a quoted value of several lines: a stray quote?"
    assert [(line, text.startswith(reason), content) for line, text, content in rejections] == [
        (2, True, '1,"r'), (3, True, "0,s,t"), (4, True, '1,u,"v'),
    ]
    rows, rejections = read(written(tmp_path, b'y,a,b\n1,"r\n0,s",t,u\n'))
    assert rows == [] and [(line, content) for line, _, content in rejections] == [(2, '1,"r'), (3, '0,s",t,u')]


def test_quotes_can_be_mere_text(tmp_path):
    path = written(tmp_path, b'y,a,b\n1,"r\n0,s,t\n1,u,"v\n')
    rows, rejections = read(path, make_schema(quoted=False))
    assert rows == [("0", "s", "t"), ("1", "u", '"v')]
    assert rejections == [(2, "wrong number of columns: expected 3, received 2", '1,"r')]


def test_lines_of_ten_megabytes(tmp_path):
    long = "x" * 10_000_000
    path = written(tmp_path, f'y,a,b\n1,{long},q\n0,"{long}\n{long}",s\n1,{long}\n0,r,s\n'.encode())
    rows, rejections = read(path)
    assert [(y, len(a), b) for y, a, b in rows] == [("1", 10_000_000, "q"), ("0", 20_000_001, "s"), ("0", 1, "s")]
    assert [(line, reason, len(text)) for line, reason, text in rejections] == [
        (5, "wrong number of columns: expected 3, received 2", 10_000_002),
    ]


def test_a_file_of_one_endless_line_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    monkeypatch.setattr(blocks, "MAX_RECORD_BYTES", 1 << 10)
    path = written(tmp_path, b"y,a,b\n1,p,q\n" + b"x" * 5000)
    with pytest.raises(UserError, match=r"log\.csv, line 3: the line is longer than"):
        read(path)


def test_a_truncated_gzip_file_is_an_error(tmp_path):
    data = gzip.compress(b"y,a,b\n" + bytes(range(48, 58)) * 1000)
    with pytest.raises(UserError, match="truncated or damaged"):
        read(written(tmp_path, data[:-10], "log.csv.gz"))


@pytest.mark.parametrize(("data", "expected"), [
    (b"", r"log\.csv is empty: expected a header line and rows"),
    (b"\n\r\n", r"log\.csv is empty: expected a header line and rows"),
    (gzip.compress(b""), r"log\.csv is empty: expected a header line and rows"),
    (b"y,a,b\n", r"log\.csv has a header \(3 columns\) but no rows"),
    (b"y,a\n1,p\n", r"no column 'b', which schema 'log' names"),
    (b"y,a,b,a\n1,p,q,r\n", r"more than one column 'a'"),
    (b"y,\xe4,a,b\n1,o,p,q\n", r"the first line of file .*log\.csv is not valid UTF-8 \(invalid continuation byte at byte 3\)"),
    ("y,a,b\n1,p,q\n".encode("utf-16"), r"is not CSV or TSV, but text in UTF-16: write it as UTF-8"),
    (b"PAR1\x15\x04\n", r"is not CSV or TSV, but a Parquet file: give it a name that ends in \.parquet"),
    (b"PK\x03\x04\n", r"is not CSV or TSV, but a zip archive"),
])
def test_files_that_cannot_be_right_are_named(tmp_path, data, expected):
    with pytest.raises(UserError, match=expected):
        find_files([str(written(tmp_path, data))], SCHEMA)


def test_a_header_line_beside_a_header_in_the_schema(tmp_path):
    schema = make_schema(header=["y", "a", "b"])
    with pytest.raises(UserError, match=r"log\.csv begins with the column names that `header` in the schema lists"):
        find_files([str(written(tmp_path, b'y,"a",b\n1,p,q\n'))], schema)
    with pytest.raises(UserError, match=r"log\.csv is empty: expected rows"):
        find_files([str(written(tmp_path, b""))], schema)


def test_columns_of_a_header_may_repeat_where_nobody_wants_them(tmp_path):
    path = written(tmp_path, b'"x,\nx",y,,,a,b\n0,1,2,3,p,q\n')
    assert column_names(str(path), Layout.of(SCHEMA)) == ["x,\nx", "y", "", "", "a", "b"]
    assert read(path) == ([("1", "p", "q")], [])


def test_a_file_may_lack_the_label(tmp_path):
    labelled, unlabelled = written(tmp_path, b"y,a,b\n1,p,q\n"), written(tmp_path, b"b,a\nq,p\n", "new.csv")
    assert read(unlabelled) == ([(None, "p", "q")], [])
    assert batches(unlabelled)[0].columns["y"].type == "null"
    assert len(find_files([str(labelled), str(unlabelled)], SCHEMA)) == 2
    with pytest.raises(UserError, match=r"new\.csv has no column 'y', which schema 'log' names: the columns are \['b', 'a'\]"):
        find_files([str(unlabelled)], SCHEMA)
    assert len(find_files([str(unlabelled)], SCHEMA, labelled=False)) == 1
    strict = make_schema(label={"column": "y", "unlabelled": "reject"})
    with pytest.raises(UserError, match=r"new\.csv has no column 'y'"):
        find_files([str(labelled), str(unlabelled)], strict)


def test_a_header_in_the_schema_may_leave_the_label_out(tmp_path):
    path, schema = written(tmp_path, b"p,q\n"), make_schema(header=["a", "b"])
    assert len(find_files([str(path)], schema)) == 1
    assert read(path, schema) == ([(None, "p", "q")], [])


def test_all_columns_where_a_layout_names_none(tmp_path):
    (batch,) = read_batches(Descriptor(0, 1, str(written(tmp_path, b"b,,a\n1,2,3\n"))), Layout("log", None))
    assert batch.columns.to_pylist() == [{"b": "1", "": "2", "a": "3"}]
    with pytest.raises(UserError, match=r"has more than one column 'b': the columns are"):
        list(read_batches(Descriptor(0, 1, str(written(tmp_path, b"b,b\n1,2\n"))), Layout("log", None)))


@pytest.mark.parametrize(("name", "expected"), [
    ("log.csv", "csv"), ("log", "csv"), ("parquet.csv", "csv"), ("log.parquet", "parquet"), ("p-0.snappy.parquet", "parquet"),
    ("log.tfrecord.gz", "tfrecord"), ("log.tfrecords", "tfrecord"), ("log.tfrecord-00000-of-00010", "tfrecord"),
    ("a.libsvm", "libsvm"), ("a.LibFM.gz", "libfm"), ("a.libffm", "libffm"),
])
def test_a_files_name_says_its_format(name, expected):
    assert Layout("log", None).format_of(f"x/{name}") == expected
    assert Layout("log", None, format="libfm").format_of(name) == "libfm"


def test_a_pattern_without_files_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file matches '.*/\*\.csv'"):
        find_files([str(tmp_path / "*.csv")], SCHEMA)
    with pytest.raises(UserError, match="is a folder, expected files"):
        find_files([str(tmp_path)], SCHEMA)


def test_files_are_ordered_by_path_and_taken_once(tmp_path):
    for name in ("b.csv", "a.csv", "c[1].csv"):
        written(tmp_path, b"y,a,b\n1,p,q\n", name)
    found = find_files([str(tmp_path / "b*.csv"), str(tmp_path / "*.csv"), str(tmp_path / "c[1].csv")], SCHEMA)
    assert [one.path for one in found] == [str(tmp_path / name) for name in ("a.csv", "b.csv", "c[1].csv")]
    assert [one.name for one in found][2] == "part-00002-of-00003"


def test_two_stars_match_folders_of_any_depth(tmp_path):
    for folder in ("day=1", "day=2/hour=0"):
        (tmp_path / folder).mkdir(parents=True)
        written(tmp_path / folder, b"y,a,b\n1,p,q\n")
    found = find_files([str(tmp_path / "**" / "*.csv")], SCHEMA)
    assert [one.path for one in found] == [str(tmp_path / "day=1/log.csv"), str(tmp_path / "day=2/hour=0/log.csv")]


def test_files_of_given_splits(tmp_path):
    for name in ("train-1.csv", "train-0.csv", "valid.csv", "test.csv"):
        written(tmp_path, b"y,a,b\n1,p,q\n", name)
    split = {"by": "files", "train": "train-*.csv", "valid": "valid.csv", "test": "test.csv"}
    found = find_files([str(tmp_path)], make_schema(split=split))
    assert [one.name for one in found] == [
        "train-00000-of-00002", "train-00001-of-00002", "valid-00000-of-00001", "test-00000-of-00001",
    ]
    with pytest.raises(UserError, match="belongs to both the train and the test split"):
        find_files([str(tmp_path)], make_schema(split=split | {"test": "train-1.csv"}))
    with pytest.raises(UserError, match="must be the one folder"):
        find_files([str(tmp_path / "train-0.csv")], make_schema(split=split))


def test_a_file_is_read_once_however_it_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, b"y,a,b\n1,p,q\n", "day-1.csv")
    written(tmp_path, b"y,a,b\n1,p,q\n", "day-2.csv")
    (tmp_path / "current.csv").symlink_to("day-2.csv")
    found = find_files(["*.csv", "./day-1.csv", str(tmp_path / "day-1.csv")], SCHEMA)
    assert [os.path.relpath(one.path) for one in found] == ["day-1.csv", "day-2.csv"]
    assert [one.path for one in find_files(["current.csv"], SCHEMA)] == ["current.csv"]


def test_two_splits_may_not_name_one_file_in_two_ways(tmp_path):
    for name in ("train.csv", "valid.csv"):
        written(tmp_path, b"y,a,b\n1,p,q\n", name)
    (tmp_path / "test.csv").symlink_to("train.csv")
    split = {"by": "files", "train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
    with pytest.raises(UserError, match=r"test\.csv belongs to both the train and the test split \(it is the same file as .*train\.csv\)"):
        find_files([str(tmp_path)], make_schema(split=split))
