"""The signature `candidates` as a graph: what the candidates of a request have in common is parsed and looked up once.

    request r, candidate j, field k:   value x_k[r, 0] if request r shares field k, else x_k[r, j]

A server that joins requests fills columns up to the widest one, so how wide a column is does not say whether it was sent
once: the request says it, by name, and so does each request of a joined batch for itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from serving.signatures import CANDIDATE_COUNT_INPUT, MISSING_VALUE, SHARED_FIELDS_INPUT

SEPARATOR = ","
NO_LOGIT = tf.float32.min  # beyond a request's candidates: finite, since JSON has no infinity, and its sigmoid is 0


@dataclass(frozen=True)
class CandidateRows:
    """Which row of the columns each candidate reads, once the values of all requests stand below one another.

    Attributes:
      cells: int64 `[M, 2]`, request and place of each of the M candidates.
      rows: int32 `[M, F]`, of each field.
      fields: the names of the F fields.
      answer_shape: int32 `[2]`: R, and the largest number of candidates.
    """

    cells: tf.Tensor
    rows: tf.Tensor
    fields: Sequence[str]
    answer_shape: tf.Tensor

    def rows_of(self, names: Sequence[str]) -> tf.Tensor:
        """The rows that candidates read of these fields, int32 `[M, n]`."""
        return tf.gather(self.rows, [self.fields.index(name) for name in names], axis=1)

    def by_request(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits `[M]` -> `[R, K]`, `NO_LOGIT` where a request has no candidate."""
        return tf.tensor_scatter_nd_update(tf.fill(self.answer_shape, NO_LOGIT), self.cells, logits)


def as_rows(inputs: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor | tf.SparseTensor], CandidateRows]:
    """The tensors of `candidates` as columns for the transform graph, and which row of each column a candidate reads.

    The transform graph takes columns of one length, R times the widest: one that all requests share has R values, and missing
    ones behind them that nobody reads.

    Raises:
      tf.errors.InvalidArgumentError: first dimensions differ, a count is negative, `shared_fields` names what is no field, or
        a field has fewer values than a request has candidates and is not named as shared.
    """
    counts, shared_fields = tf.cast(inputs[CANDIDATE_COUNT_INPUT], tf.int32), inputs[SHARED_FIELDS_INPUT]
    columns = {name: x for name, x in inputs.items() if name not in (CANDIDATE_COUNT_INPUT, SHARED_FIELDS_INPUT)}
    names = tf.constant(list(columns))
    sizes = tf.stack([tf.shape(x)[:2] if x.shape.rank > 2 else tf.shape(x) for x in columns.values()])  # (F, 2)
    with tf.control_dependencies(_dimension_checks(sizes[:, 0], tf.size(shared_fields), counts)):
        counts, widths = tf.identity(counts), sizes[:, 1]
    requests = tf.size(counts)
    shared, naming_check = _shared(shared_fields, names, requests)  # (R, F)
    with tf.control_dependencies([naming_check, _width_check(shared, counts, widths, names)]):
        rows = requests * tf.reduce_max(widths)
        cells = tf.where(tf.sequence_mask(counts))  # (M, 2)
    request, place = tf.unstack(tf.cast(cells, tf.int32), axis=1)
    first = request[:, tf.newaxis] * widths  # (M, F)
    chosen = CandidateRows(
        cells=cells,
        rows=tf.where(tf.gather(shared, request), first, first + place[:, tf.newaxis]),
        fields=list(columns),
        answer_shape=tf.stack([requests, tf.reduce_max(tf.concat([counts, [0]], axis=0))]),
    )
    paddings = tf.pad((rows - requests * widths)[:, tf.newaxis, tf.newaxis], [[0, 0], [0, 0], [1, 0]])  # (F, 1, 2): none, missing rows
    return {
        name: _list_rows(x, width, rows) if _is_list(x) else _rows(x, padding)
        for (name, x), width, padding in zip(columns.items(), tf.unstack(widths), tf.unstack(paddings), strict=True)
    }, chosen


def _dimension_checks(firsts: tf.Tensor, of_shared_fields: tf.Tensor, counts: tf.Tensor) -> list[tf.Operation]:
    alike = tf.reduce_all(firsts == tf.size(counts)) & (of_shared_fields == tf.size(counts))
    sizes = [f"the first dimension of every input must be the number of requests; that of {CANDIDATE_COUNT_INPUT} is",
             tf.size(counts), f"that of {SHARED_FIELDS_INPUT}", of_shared_fields, "those of the fields", firsts]  # fmt: skip
    return [
        _assert(alike, sizes),
        _assert(tf.reduce_all(counts >= 0), [f"{CANDIDATE_COUNT_INPUT} must not be negative, received", counts]),
    ]


def _shared(shared_fields: tf.Tensor, names: tf.Tensor, requests: tf.Tensor) -> tuple[tf.Tensor, tf.Operation]:
    """Whether each request shares each field, bool `[R, F]`, and the check that only fields were named."""
    split = tf.raw_ops.StringSplitV2(input=shared_fields, sep=SEPARATOR)
    named = tf.strings.strip(split.values)  # (n,)
    same = named[:, tf.newaxis] == names  # (n, F)
    wrong = ~tf.reduce_any(same, axis=1) & (named != "")
    check = _assert(~tf.reduce_any(wrong), [f"{SHARED_FIELDS_INPUT} names what is no field:", _only(named, wrong), "; the fields are", names])
    return tf.math.unsorted_segment_sum(tf.cast(same, tf.int32), split.indices[:, 0], requests) > 0, check


def _width_check(shared: tf.Tensor, counts: tf.Tensor, widths: tf.Tensor, names: tf.Tensor) -> tf.Operation:
    needed = tf.where(shared, tf.minimum(counts, 1)[:, tf.newaxis], counts[:, tf.newaxis])  # (R, F)
    short = tf.reduce_any(needed > widths, axis=0)  # (F,)
    return _assert(
        ~tf.reduce_any(short),
        [f"fields with fewer values than {CANDIDATE_COUNT_INPUT} says (name in {SHARED_FIELDS_INPUT} those that are sent once):",
         _only(names, short)],
    )  # fmt: skip


def _only(names: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """The chosen names in one text, by two operations: a check's message is worked out for right requests too."""
    return tf.strings.reduce_join(tf.where(chosen, names + " ", ""))


def _assert(condition: tf.Tensor, message: list) -> tf.Operation:
    return tf.debugging.Assert(condition, message, summarize=50)


def _is_list(x: tf.Tensor) -> bool:
    return x.dtype == tf.string and x.shape.rank == 3


def _list_rows(x: tf.Tensor, width: tf.Tensor, rows: tf.Tensor) -> tf.SparseTensor:
    """`[R, k, L]` -> `[rows, L]`, without what fills the lists up."""
    lists = tf.sparse.from_dense(x)
    request, place, position = tf.unstack(lists.indices, axis=1)
    row = request * tf.cast(width, tf.int64) + place
    return tf.SparseTensor(tf.stack([row, position], axis=1), lists.values, tf.stack([tf.cast(rows, tf.int64), lists.dense_shape[2]]))


def _rows(x: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    """`[R, k, ...]` -> `[R k + missing, ...]`, with missing values behind; `padding` is int32 `[1, 2]`."""
    shape = x.shape[2:]
    if shape.rank:
        padding = tf.pad(padding, [[0, shape.rank], [0, 0]])
    return tf.pad(tf.reshape(x, [-1, *shape]), padding, constant_values=MISSING_VALUE[x.dtype])
