"""CSV and TSV files: batches of strings.

Arrow parses whole blocks. Only a block with something wrong in it is looked at record by record, to say on which line.
"""

import csv
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from preprocessing.errors import UserError
from preprocessing.sources.blocks import BOM, Block, cut_pieces, read_blocks, shown
from preprocessing.sources.layout import Batch, Descriptor, Layout, Rejection
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
    return cut_pieces(path, layout.separator)


def _records(path: str, layout: Layout) -> Iterator[bytes]:
    """The records of a file that are not blank."""
    for block in read_blocks(Descriptor(0, 1, path), layout.separator, _FIRST_BYTES):
        yield from (rejection.text.encode() for rejection in block.rejections)
        starts, ends, _ = block.text.records
        yield from (block.text.data[start:end] for start, end in zip(starts, ends, strict=True))


def _values(record: bytes, path: str, layout: Layout) -> list[str]:
    try:
        line = record.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the first line of file {path} is not valid UTF-8 ({error.reason} at byte {error.start + 1}): expected text in "
            "UTF-8; convert the file, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from error
    return next(csv.reader([line], delimiter=layout.separator))


def read(piece: Descriptor, layout: Layout) -> Iterator[Batch]:
    """Reads a piece of a file into batches of string columns."""
    names = column_names(piece.path, layout)
    layout.check(piece.path, names)
    behind_header = layout.header is not None or piece.start > 0
    for block in read_blocks(piece, layout.separator):
        if not behind_header:
            _, ends, _ = block.text.records
            behind_header = len(ends) > 0
            block = block.behind(int(ends[0]) if len(ends) else len(block.text.data))
        yield _parse(block, names, layout)


def _parse(block: Block, names: list[str], layout: Layout) -> Batch:
    text, undecodable = block.text, block.text.undecodable()
    wrong_counts: dict[int, int] = {}  # by number among the decodable records

    def skip(row: arrow_csv.InvalidRow) -> str:
        wrong_counts[row.number - 1] = row.actual_columns
        return "skip"

    wanted = layout.wanted(names)
    present = [name for name in wanted if name in names]
    table = _parse_table(text.without(undecodable), names, present, skip)
    columns = [_array(table[name]) if name in present else pa.nulls(len(table)) for name in wanted]

    def located(numbers: Sequence[int]) -> list[tuple[int, str]]:
        starts, ends, lines = text.records if len(numbers) else ([], [], [])
        return [(block.first_line + int(lines[number]), shown(text.data[starts[number]:ends[number]])) for number in numbers]

    def decodable() -> np.ndarray:
        return np.delete(np.arange(len(text.records[0])), undecodable)

    def locate(rows: np.ndarray) -> list[tuple[int, str]]:
        return located(np.delete(decodable(), list(wrong_counts))[rows])

    rejections = [*block.rejections, *(Rejection(line, "not valid UTF-8", content) for line, content in located(undecodable))]
    if wrong_counts:
        counts = zip(located(decodable()[list(wrong_counts)]), wrong_counts.values(), strict=True)
        rejections += [Rejection(line, f"wrong number of columns: expected {len(names)}, received {count}", content)
                       for (line, content), count in counts]
    return Batch(pa.RecordBatch.from_arrays(columns, names=wanted), sorted(rejections), block.bytes_read, locate)


def _parse_table(text: Text, names: list[str], present: list[str],
                 skip: Callable[[arrow_csv.InvalidRow], str]) -> pa.Table:
    if not text.has_records:
        return pa.table({name: pa.array([], pa.string()) for name in present})
    data = text.data
    if data.startswith(BOM):
        data = b"\n" + data  # here it is text, and Arrow would drop it
    quoted = b'"' in data
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        # Row numbers are known only to a single-threaded reader; the whole block is one chunk.
        arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
        arrow_csv.ParseOptions(delimiter=text.separator, quote_char=quoted and '"', newlines_in_values=quoted,
                               invalid_row_handler=skip),
        arrow_csv.ConvertOptions(check_utf8=False, strings_can_be_null=False, include_columns=present,
                                 column_types={name: pa.string() for name in present}),
    )


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which would copy a single chunk
