"""Where the time of preprocessing goes: CPU time of each stage, on one core: `python -m benchmarks.prepare.stages`.

Each stage runs alone over the same batches of one file of a generated log, three times; the least time counts, per 65,536
rows. Beside them stand limits: what Arrow needs to read the text, and to look up all texts, without anything around it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from benchmarks.prepare.arms import command
from benchmarks.prepare.log import parse_rows, write_log
from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.schema import BUCKETS_FILE, SPLITS, VOCABULARIES, Schema, load_data_folder_schema
from preprocessing.sources import Descriptor, Layout, find_files, read
from preprocessing.splits import TRAIN
from trainer.progress import print_table

BLOCK_ROWS = 65_536
BLOCK_BYTES = 4 << 20
REPEATS = 3


class Clock:
    """Times stages that run over `rows` rows.

    Attributes:
      lines: (phase, stage, CPU milliseconds a block).
    """

    def __init__(self, rows: int):
        self._rows = rows
        self.lines: list[tuple[str, str, float]] = []

    def stage(self, phase: str, name: str, run: Callable[[], Any]) -> Any:
        """Runs a stage over all rows a few times; returns what it returned."""
        best = float("inf")
        for _ in range(REPEATS):
            result, seconds = cpu_seconds(run)
            best = min(best, seconds)
        self.lines.append((phase, name, 1000 * best * BLOCK_ROWS / self._rows))
        return result

    def total(self, phase: str) -> float:
        return sum(milliseconds for of, _, milliseconds in self.lines if of == phase)


def cpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def measure_fixed(log: Path, data_dir: Path) -> list[tuple[str, float]]:
    """CPU seconds of what happens once a run. Call it before TensorFlow is imported; writes `data_dir`."""
    fixed = [("import TensorFlow", cpu_seconds(start_tensorflow)[1])]

    def import_beam() -> None:
        from preprocessing import pipeline  # noqa: F401

    fixed.append(("import Beam and TFT", cpu_seconds(import_beam)[1]))
    from preprocessing import task, transform
    from preprocessing.rows import read_rows

    task.main(command("ours", log, data_dir)[2:])  # what follows -m preprocessing.task
    schema = load_data_folder_schema(data_dir)
    with tempfile.TemporaryDirectory() as copy:
        for name in (VOCABULARIES, BUCKETS_FILE):
            (Path(copy) / name).symlink_to(data_dir / name)
        fixed.append(("trace and write the graph", cpu_seconds(lambda: transform.write_transform(schema, Path(copy)))[1]))
    first = next(read_rows(_descriptor(log, schema), schema)).features
    fixed.append(("load the graph, first batch", cpu_seconds(lambda: transform.Transformer(data_dir, schema)(first))[1]))
    return fixed


def measure_stages(log: Path, data_dir: Path) -> Clock:
    """CPU milliseconds a block of each stage, over the first training file of `log`."""
    from preprocessing import rows as typing
    from preprocessing.count_files import CountWriter
    from preprocessing.records import serialize_records
    from preprocessing.shards import Shards
    from preprocessing.statistics import count_features
    from preprocessing.tally import Tally
    from preprocessing.transform import Transformer

    schema = load_data_folder_schema(data_dir)
    descriptor = _descriptor(log, schema)
    batches = list(read(descriptor, Layout.of(schema)))
    clock = Clock(sum(len(batch.columns) for batch in batches))
    clock.stage("limits", "Arrow reads the text", lambda: _arrow_alone(descriptor.path, schema))
    clock.stage("limits", "Arrow looks up every text", lambda: _lookups_alone(batches, data_dir, schema))

    batches = clock.stage("both", "read", lambda: list(read(descriptor, Layout.of(schema))))
    rows = clock.stage("both", "type", lambda: [typing.typed(batch, schema, SPLITS[TRAIN]) for batch in batches])

    def count() -> None:
        with tempfile.TemporaryDirectory() as folder:
            writer = CountWriter(Path(folder), descriptor.name)
            for some in rows:
                writer.add(count_features(some.features, schema))
            writer.flush()

    clock.stage("analysing", "count, write the counts", count)
    transformer = Transformer(data_dir, schema)
    transformer(rows[0].features)
    encoded = clock.stage("writing", "transform", lambda: [transformer(some.features) for some in rows])
    clock.stage("writing", "tally", lambda: [Tally.empty(schema).add(one, some.split, schema)
                                             for one, some in zip(encoded, rows, strict=True)])
    records = clock.stage("writing", "serialise", lambda: [serialize_records(one, some)
                                                           for one, some in zip(encoded, rows, strict=True)])

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            shards = Shards(Path(folder), descriptor, "")
            with shards:
                for some, serialized in zip(rows, records, strict=True):
                    shards.write(some.split, serialized)

    clock.stage("writing", "frame, checksum, write", write)
    return clock


def _descriptor(log: Path, schema: Schema) -> Descriptor:
    return find_files([str(log)], schema)[0]


def _arrow_alone(path: str, schema: Schema) -> list[pa.RecordBatch]:
    names = list(schema.header)
    options = arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names)
    strings = arrow_csv.ConvertOptions(check_utf8=False, column_types=dict.fromkeys(names, pa.string()))
    with arrow_csv.open_csv(path, options, arrow_csv.ParseOptions(delimiter=schema.separator), strings) as batches:
        return list(batches)


def _lookups_alone(batches: Sequence, data_dir: Path, schema: Schema) -> list[np.ndarray]:
    found = []
    for field in schema.vocabulary_fields:
        lines = (data_dir / VOCABULARIES / f"{field.name}.txt").read_text(encoding="utf-8").split("\n")[:-1]
        table = pa.array(lines, pa.string())
        found += [pc.index_in(batch.columns[field.source], value_set=table) for batch in batches]
    return found


def show(fixed: Sequence[tuple[str, float]], clock: Clock) -> None:
    print_table("Once a run", [(name, f"{seconds:.1f}") for name, seconds in fixed], ("what", "CPU seconds"))
    blocks = [(phase, name, f"{milliseconds:.0f}", f"{BLOCK_ROWS / milliseconds * 1000:,.0f}")
              for phase, name, milliseconds in clock.lines]
    for phase in ("analysing", "writing"):
        milliseconds = clock.total("both") + clock.total(phase)
        blocks.append((phase, "all of it", f"{milliseconds:.0f}", f"{BLOCK_ROWS / milliseconds * 1000:,.0f}"))
    print_table(f"Each block of {BLOCK_ROWS:,} rows of 39 fields", blocks, ("phase", "stage", "CPU ms", "rows/s of a core"))


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare.stages", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=parse_rows, default=1_000_000, help="rows of the log (default: 1m); a tenth is measured")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        log, data_dir = write_log(Path(folder) / "log", arguments.rows), Path(folder) / "data"
        fixed = measure_fixed(log, data_dir)
        show(fixed, measure_stages(log, data_dir))


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
