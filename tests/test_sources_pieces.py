"""Where records end, and files cut into pieces: wherever they are cut, the rows, their order and their lines are the same."""

import csv
import io
import random

import numpy as np
import pytest

from preprocessing.errors import UserError
from preprocessing.schema import parse_schema
from preprocessing.sources import Descriptor, Layout, blocks, find_files, pieces_of, read
from preprocessing.sources.records import Text

LAYOUT = Layout("log", ("y", "a", "b"))


@pytest.mark.parametrize(("data", "lines", "records"), [
    (b"a,b\nc\n", [4, 6], [4, 6]),
    (b"a\r\nb\rc\n", [3, 5, 7], [3, 5, 7]),
    (b'"a\nb",c\nd\n', [3, 8, 10], [8, 10]),
    (b'"a""\n""",c\nd\n', [5, 11, 13], [11, 13]),
    (b'x"a\nb"\n', [4, 7], [4, 7]),  # not at the start of a field: plain text
    (b'"a"b"\nc\n', [6, 8], [6, 8]),
    (b'a,"b\nc\n', [5, 7], []),
    (b'x"y,"a\n"\nb\n', [7, 9, 11], [9, 11]),
    (b'""\n"",""\n', [3, 9], [3, 9]),
    (b"a", [], []),
])
def test_ends_of_lines_and_records(data, lines, records):
    text = Text(data, ",")
    assert text.line_ends.tolist() == lines
    assert text.record_ends.tolist() == records
    assert text.last_end() == (records or [0])[-1]
    assert Text(data, None).record_ends.tolist() == lines


def test_records_that_are_not_blank():
    starts, ends, lines = Text(b'\n\r\na\n"b\n\n"\r\rc\n', ",").records
    assert (starts.tolist(), ends.tolist(), lines.tolist()) == ([3, 5, 12], [5, 11, 14], [2, 3, 7])


def all_rows(pieces):
    """Rows, rejections, and what `locate` says of each row, of all pieces in turn."""
    rows, rejections, located = [], [], []
    for piece in pieces:
        for batch in read(piece, LAYOUT):
            found = [tuple(row.values()) for row in batch.columns.to_pylist()]
            rows += found
            rejections += batch.rejections
            located += batch.locate(np.arange(len(found)))
    return rows, rejections, located


def test_pieces_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PIECE_BYTES", 40)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8)
    path = tmp_path / "log.csv"
    path.write_text("y,a,b\n" + '1,p,q\n0,"r\nr",s\n' * 5 + "1,t\n0,u,v\n")
    pieces = pieces_of(str(path), LAYOUT)
    assert [(piece.start, piece.end, piece.first_line, piece.size) for piece in pieces] == [
        (0, 54, 1, 54), (54, 96, 11, 42),
    ]
    rows, rejections, located = all_rows(pieces)
    assert rows == [("1", "p", "q"), ("0", "r\nr", "s")] * 5 + [("0", "u", "v")]
    assert rejections == [(17, "wrong number of columns: expected 3, received 2", "1,t")]
    assert located[-3:] == [(14, "1,p,q"), (15, '0,"r\nr",s'), (18, "0,u,v")]


def test_pieces_are_numbered_over_all_files(tmp_path, monkeypatch):
    schema = parse_schema({
        "name": "log", "label": {"column": "y"}, "split": {"by": "hash", "key": ["a"]},
        "fields": [{"name": "a", "kind": "categorical"}, {"name": "b", "kind": "categorical"}],
    }, "schema.yaml")
    monkeypatch.setattr(blocks, "PIECE_BYTES", 60)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 6)
    (tmp_path / "a.csv").write_text("y,a,b\n" + "1,p,q\n" * 19)  # 120 bytes
    (tmp_path / "b.csv").write_text("y,a,b\n" + "1,p,q\n" * 13)  # 84 bytes: less than one and a half pieces
    pieces = find_files([str(tmp_path / "*.csv")], schema)
    assert [(piece.name, piece.path[-5:], piece.start) for piece in pieces] == [
        ("part-00000-of-00003", "a.csv", 0), ("part-00001-of-00003", "a.csv", 60), ("part-00002-of-00003", "b.csv", 0),
    ]
    assert sum(piece.size for piece in pieces) == 120 + 84


def test_progress_ends_at_the_size_of_each_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PIECE_BYTES", 60)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20)
    path = tmp_path / "log.csv"
    path.write_text("y,a,b\n" + "1,p,q\n" * 39)
    pieces = pieces_of(str(path), LAYOUT)
    assert [[batch.bytes_read for batch in read(piece, LAYOUT)][-1] for piece in pieces] == [piece.size for piece in pieces]
    assert len(pieces) == 4


CELLS = ("", "x", "long" * 5, "\xe4\u6f22", '"q"', '"q""q"', '"two\nlines"', '"two\r\nlines"', '"a,a"', 'x"y', "\ufeff", '""')
BROKEN = ('"', '"u', "too,many", "\xff", '"\n"tail', ",")


def random_log(choose: random.Random, cells: tuple[str, ...]) -> bytes:
    end = choose.choice(["\n", "\r\n", "\r"])
    lines = [",".join(choose.choices(cells, k=3)) + end * choose.choice([1, 1, 1, 2]) for _ in range(choose.randint(1, 40))]
    text = choose.choice(["", end]) + "y,a,b" + end + "".join(lines)
    data = choose.choice(["", "\ufeff"]).encode() + text.encode().replace("\xff".encode(), b"\xff")
    return data if choose.random() < 0.5 else data.rstrip(b"\r\n")


def attempt(pieces):
    try:
        return all_rows(pieces())
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(60))
def test_any_cut_of_a_sound_log_gives_the_rows_that_another_reader_finds(tmp_path, monkeypatch, seed):
    choose, path = random.Random(seed), tmp_path / "log.csv"
    data = random_log(choose, CELLS)
    path.write_bytes(data)
    expected = [tuple(row) for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row][1:]
    whole = attempt(lambda: [Descriptor(0, 1, str(path))])
    assert (whole[0], whole[1]) == (expected, [])
    for _ in range(3):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", choose.randint(3, 200))
        monkeypatch.setattr(blocks, "PIECE_BYTES", choose.randint(5, 300))
        assert attempt(lambda: blocks.cut_pieces(str(path), ",")) == whole


@pytest.mark.parametrize("seed", range(60))
def test_any_cut_of_a_broken_log_gives_the_same_rows_and_rejections(tmp_path, monkeypatch, seed):
    choose, path = random.Random(seed), tmp_path / "log.csv"
    path.write_bytes(random_log(choose, CELLS + CELLS + BROKEN))
    monkeypatch.setattr(blocks, "MAX_RECORD_BYTES", choose.choice([100, 1000, 64 << 20]))
    whole = attempt(lambda: [Descriptor(0, 1, str(path))])
    for _ in range(3):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", choose.randint(3, 50))
        monkeypatch.setattr(blocks, "PIECE_BYTES", choose.randint(5, 300))
        assert attempt(lambda: blocks.cut_pieces(str(path), ",")) == whole
