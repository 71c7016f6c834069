"""What becomes of a sample's rows under a guessed schema: their splits, their clicks, and which would be rejected."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from preprocessing.infer.sample import Sample
from preprocessing.rows import typed
from preprocessing.schema import SPLITS, Schema
from preprocessing.sources import Batch


@dataclass(frozen=True)
class Trial:
    """Rows and clicks of the sample by split, and why others are malformed."""

    rows: tuple[int, ...]
    clicks: tuple[int, ...]
    rejected: Counter


def try_schema(schema: Schema, sample: Sample) -> Trial:
    """Types the rows of a sample as preprocessing would."""
    columns = {name: sample.table[name].chunk(0) for name in schema.columns}
    batch = Batch(pa.RecordBatch.from_pydict(columns), [], 0, lambda rows: [(0, "")] * len(rows))
    rows = typed(batch, schema, SPLITS[0])
    places = range(len(SPLITS))
    return Trial(
        tuple(int((rows.split == place).sum()) for place in places),
        tuple(int(((rows.split == place) & (rows.label == 1)).sum()) for place in places),
        Counter(rejection.reason for rejection in rows.rejections),
    )
