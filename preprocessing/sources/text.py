"""CSV and TSV files: batches of strings.

Arrow parses whole blocks. Only a block with something wrong in it is looked at record by record, to say on which line.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from preprocessing.errors import UserError
from preprocessing.sources.blocks import BOM, Block, cut_pieces, read_blocks, rejected_lines
from preprocessing.sources.layout import Batch, Descriptor, Layout
from preprocessing.sources.records import Text

ROWS_MAY_LACK_COLUMNS = False
_FIRST_BYTES = 64 << 10
_OTHER_FILES = {
    b"PAR1": "a Parquet file: give it a name that ends in .parquet, or set `format: parquet` in the schema",
    b"\xff\xfe": "text in UTF-16: write it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "text in UTF-16: write it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`",
    b"PK\x03\x04": "a zip archive: unpack it, or compress the file with gzip instead",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: decompress it, or compress it with gzip instead",
    b"BZh": "compressed with bzip2: decompress it, or compress it with gzip instead",
}


def column_names(path: str, layout: Layout) -> list[str]:
    """The column names of a file, from its header line or from the layout's `header`."""
    first = next(_records(path, layout), None)
    if first is None:
        expected = "rows" if layout.header else "a header line and rows"
        raise UserError(f"file {path} is empty: expected {expected}; remove it or write it again")
    for magic, what in _OTHER_FILES.items():
        if first.startswith(magic):
            raise UserError(f"file {path} is not CSV or TSV, but {what}")
    return list(layout.header or _values(first, path, layout))


def pieces(path: str, layout: Layout) -> list[Descriptor]:
    """A file as pieces of work; checks that it has rows."""
    names, records = column_names(path, layout), _records(path, layout)
    first = next(records)
    if layout.header is None and next(records, None) is None:
        raise UserError(
            f"file {path} has a header ({len(names)} columns) but no rows: expected at least one row; remove the file or "
            "write it again"
        )
    if layout.header is not None and _values(first, path, layout) == names:
        raise UserError(f"file {path} begins with the column names that `header` in the schema lists: remove `header`")
    return cut_pieces(path, _quoting(layout))


def _records(path: str, layout: Layout) -> Iterator[bytes]:
    """The first record of a file that can be a header, and all text behind it, record by record."""
    begun = False
    for block in _blocks(Descriptor(0, 1, path), layout, _FIRST_BYTES):
        starts, ends, _ = block.text.records
        yield from (block.text.data[start:end] for start, end in zip(starts, ends, strict=True))
        yield from (rejection.text.encode() for rejection in block.rejections if begun)
        begun = begun or len(starts) > 0


def _blocks(piece: Descriptor, layout: Layout, block_bytes: int | None = None) -> Iterator[Block]:
    return read_blocks(piece, _quoting(layout), block_bytes)


def _quoting(layout: Layout) -> str | None:
    return layout.separator if layout.quoted else None


def _values(record: bytes, path: str, layout: Layout) -> list[str]:
    try:
        record.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the first line of file {path} is not valid UTF-8 ({error.reason} at byte {error.start + 1}): expected text in "
            "UTF-8; convert the file, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from error
    names = [f"f{number}" for number in range(record.count(layout.separator.encode()) + 1)]  # as Arrow names them, or more
    options = arrow_csv.ReadOptions(use_threads=False, block_size=len(record) + 1, autogenerate_column_names=True)
    converting = arrow_csv.ConvertOptions(**_as_text(names))
    table = arrow_csv.read_csv(pa.BufferReader(record), options, _parsing(record, layout), converting)
    return [column[0].as_py() for column in table.columns]


def read(piece: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads a piece of a file into batches of string columns."""
    names = column_names(piece.path, layout)
    layout.check(piece.path, names)
    behind_header = layout.header is not None or piece.start > 0
    for block in _blocks(piece, layout):
        if not behind_header:
            _, ends, _ = block.text.records
            behind_header = len(ends) > 0
            block = block.behind(int(ends[0]) if len(ends) else len(block.text.data))
        yield _parse(block, names, layout)


def _parse(block: Block, names: list[str], layout: Layout) -> Batch:
    text, reasons, wrong_counts = block.text, block.text.unreadable(), {}

    def skip(row: arrow_csv.InvalidRow) -> str:
        wrong_counts[row.number - 1] = row.actual_columns
        return "skip"

    wanted = layout.wanted(names)
    present = [name for name in wanted if name in names]
    table = _parse_table(text.without(reasons), names, present, layout, skip)
    columns = [_array(table[name]) if name in present else pa.nulls(len(table)) for name in wanted]

    def readable() -> np.ndarray:
        return np.delete(np.arange(len(text.records[0])), list(reasons))

    if wrong_counts:
        reasons |= {int(number): f"wrong number of columns: expected {len(names)}, received {count}"
                    for number, count in zip(readable()[list(wrong_counts)], wrong_counts.values(), strict=True)}
    rejections = list(block.rejections)
    for (line, content), reason in zip(block.located(reasons), reasons.values(), strict=True):
        rejections += rejected_lines(line, reason, content)
    return Batch(pa.RecordBatch.from_arrays(columns, names=wanted), sorted(rejections), block.bytes_read,
                 lambda rows: block.located(readable()[rows]))


def _parse_table(text: Text, names: list[str], present: list[str], layout: Layout,
                 skip: Callable[[arrow_csv.InvalidRow], str]) -> pa.Table:
    if not text.has_records:
        return pa.table({name: pa.array([], pa.string()) for name in present})
    data = text.data
    if data.startswith(BOM):
        data = b"\n" + data  # here it is text, and Arrow would drop it
    # Row numbers are known only to a single-threaded reader; the whole block is one chunk.
    options = arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names)
    converting = arrow_csv.ConvertOptions(include_columns=present, **_as_text(present))
    return arrow_csv.read_csv(pa.BufferReader(data), options, _parsing(data, layout, skip), converting)


def _parsing(data: bytes, layout: Layout,
             skip: Callable[[arrow_csv.InvalidRow], str] | None = None) -> arrow_csv.ParseOptions:
    quoted = layout.quoted and b'"' in data
    return arrow_csv.ParseOptions(delimiter=layout.separator, quote_char=quoted and '"', newlines_in_values=quoted,
                                  invalid_row_handler=skip)


def _as_text(names: list[str]) -> dict[str, Any]:
    return {"check_utf8": False, "strings_can_be_null": False, "column_types": {name: pa.string() for name in names}}


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which would copy a single chunk
