"""A generated log in the shape of Criteo's: `python -m benchmarks.prepare.log --folder log --rows 1m`.

Tab-separated files without a header: a label, 13 counts with heavy tails, 26 categorical values of eight hexadecimal
digits. Cardinalities and missing shares are near those of the 45 million rows of Criteo's Kaggle challenge; values of a
field follow a Zipf distribution. Nothing depends on anything else: this log measures preprocessing, not models.

    FOLDER/schema.yaml             as a user writes it for `python -m preprocessing.task`
    FOLDER/{train,valid,test}-00000.tsv ...
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pyarrow import csv as arrow_csv

from preprocessing import errors
from preprocessing.files import flush
from preprocessing.schema import SCHEMA_FILE

FILES = {"train": 8, "valid": 1, "test": 1}
BLOCK_ROWS = 50_000
CLICK_RATE = 0.25
ZIPF_EXPONENT = 1.05
MIN_COUNT = 10
BUCKETS = 32
MAGNITUDES = {"k": 1_000, "m": 1_000_000}
# Of each numeric field: the median, how far one standard deviation multiplies it, and the missing share.
NUMERIC = (
    (1, 5, 0.45), (3, 8, 0.0), (6, 8, 0.21), (4, 3, 0.22), (2500, 8, 0.03), (35, 6, 0.22), (3, 6, 0.04), (8, 3, 0.0),
    (40, 5, 0.04), (1, 1.5, 0.45), (1, 3, 0.04), (1, 3, 0.76), (4, 4, 0.22),
)
# Of each categorical field: the values that it may take, and the missing share.
CATEGORICAL = (
    (1_460, 0.0), (583, 0.0), (10_131_227, 0.03), (2_202_608, 0.03), (305, 0.0), (24, 0.12), (12_517, 0.0), (633, 0.0), (3, 0.0),
    (93_145, 0.0), (5_683, 0.0), (8_351_593, 0.03), (3_194, 0.0), (27, 0.0), (14_992, 0.0), (5_461_306, 0.03), (10, 0.0),
    (5_652, 0.0), (2_173, 0.44), (4, 0.44), (7_046_547, 0.03), (18, 0.76), (15, 0.0), (286_181, 0.03), (105, 0.44),
    (142_572, 0.44),
)
LABEL = "label"
NUMERIC_NAMES = tuple(f"i{number}" for number in range(1, len(NUMERIC) + 1))
CATEGORICAL_NAMES = tuple(f"c{number}" for number in range(1, len(CATEGORICAL) + 1))
COLUMNS = (LABEL, *NUMERIC_NAMES, *CATEGORICAL_NAMES)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HEX = np.array([f"{number:04x}".encode() for number in range(1 << 16)], "S4")


def schema_yaml() -> str:
    return yaml.safe_dump({
        "name": "criteo_shaped", "separator": "\t", "header": list(COLUMNS), "label": {"column": LABEL},
        "split": {"by": "files", **{split: f"{split}-*.tsv" for split in FILES}},
        "fields": [{"name": name, "kind": "numeric", "buckets": BUCKETS} for name in NUMERIC_NAMES]
        + [{"name": name, "kind": "categorical", "min_count": MIN_COUNT} for name in CATEGORICAL_NAMES],
    }, sort_keys=False)


def zipf_ranks(rng: np.random.Generator, values: int, rows: int) -> np.ndarray:
    """Ranks 0 .. values - 1, uint64 [rows], by the continuous form of Zipf's law: P(rank < r) ~ 1 - (r + 1)^(1 - exponent)."""
    power = 1.0 - ZIPF_EXPONENT
    tail = rng.random(rows) * (1.0 - (values + 1.0) ** power)
    return np.minimum((1.0 - tail) ** (1.0 / power) - 1.0, values - 1).astype(np.uint64)


def hexadecimal(field: int, ranks: np.ndarray) -> pa.Array:
    """Texts of eight hexadecimal digits, one a rank (two ranks of 10 million may share one, as Criteo's do)."""
    mixed = (ranks + np.uint64(field << 32) + np.uint64(1)) * _ODD
    digits = np.stack([_HEX[(mixed >> np.uint64(shift)).astype(np.uint16)] for shift in (48, 32)], axis=1)  # [rows, 2]
    fixed = pa.Array.from_buffers(pa.binary(8), len(ranks), [None, pa.py_buffer(digits.tobytes())])
    return fixed.cast(pa.binary()).cast(pa.string())


def _counts(rng: np.random.Generator, median: float, factor: float, rows: int) -> pa.Array:
    return pa.array(np.minimum(median * factor ** rng.standard_normal(rows), 2**31).astype(np.int64))


def draw_block(rng: np.random.Generator, rows: int) -> pa.RecordBatch:
    """The columns of `rows` rows; missing cells are null."""
    columns = [pa.array((rng.random(rows) < CLICK_RATE).astype(np.int64))]
    columns += [_with_missing(rng, _counts(rng, median, factor, rows), missing) for median, factor, missing in NUMERIC]
    columns += [_with_missing(rng, hexadecimal(field, zipf_ranks(rng, values, rows)), missing)
                for field, (values, missing) in enumerate(CATEGORICAL)]
    return pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))


def _with_missing(rng: np.random.Generator, column: pa.Array, share: float) -> pa.Array:
    return pc.if_else(pa.array(rng.random(len(column)) >= share), column, None) if share else column


def _blocks(rows: int, seed: Sequence[int]) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(seed)
    for start in range(0, rows, BLOCK_ROWS):
        yield draw_block(rng, min(BLOCK_ROWS, rows - start))


def write_log(folder: Path, rows: int, seed: int = 0) -> Path:
    """Writes the folder, unless it is there already, block by block; it appears when it is whole."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    options = arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    sizes = [len(part) for part in np.array_split(np.empty(rows), sum(FILES.values()))]
    empty = draw_block(np.random.default_rng(seed), 0)
    names = [f"{split}-{number:05d}.tsv" for split, count in FILES.items() for number in range(count)]
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        (partial / SCHEMA_FILE).write_text(schema_yaml(), encoding="utf-8")
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            with arrow_csv.CSVWriter(partial / name, empty.schema, write_options=options) as writer:
                for block in _blocks(size, (seed, rows, number)):
                    writer.write(block)
            flush(partial / name)
        partial.rename(folder)
    return folder


def log_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, in order."""
    return {split: sorted(folder.glob(f"{split}-*.tsv")) for split in FILES}


def parse_rows(text: str) -> int:
    """50k -> 50000, 1m -> 1000000."""
    number, magnitude = (text[:-1], MAGNITUDES[text[-1]]) if text[-1:] in MAGNITUDES else (text, 1)
    if not number.isdigit() or int(number) * magnitude < sum(FILES.values()):
        raise argparse.ArgumentTypeError(f"expected a number of rows such as 50k or 1m, received {text!r}")
    return int(number) * magnitude


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare.log", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the folder to write; kept if it is there already")
    parser.add_argument("--rows", type=parse_rows, default=1_000_000, help="rows of all files together (default: 1m)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    write_log(arguments.folder, arguments.rows)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
