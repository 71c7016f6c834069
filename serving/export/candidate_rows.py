"""The signature `candidates` as a graph: what the candidates of a request have in common is sent once.

    request r, candidate j, field k:   value x_k[r, 0] if request r shares field k, else x_k[r, j]

A server that joins requests fills columns up to the widest one, so how wide a column is does not say whether it was sent
once: the request says it, by name, and so does each request of a joined batch for itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from serving.signatures import CANDIDATE_COUNT_INPUT, MISSING_VALUE, SHARED_FIELDS_INPUT

SEPARATOR = ","
NO_LOGIT = tf.float32.min  # beyond a request's candidates: finite, since JSON has no infinity, and its sigmoid is 0


@dataclass(frozen=True)
class CandidateRows:
    """What becomes of the rows that the transform graph makes of the columns of `as_rows`.

    Attributes:
      cells: int64 `[M, 2]`, request and place of each of the M candidates: the first M rows, but for lists.
      rows_of_lists: by field, int32 `[M]`: which row has the list of each candidate.
      answer_shape: int32 `[2]`: R, and the largest number of candidates.
    """

    cells: tf.Tensor
    rows_of_lists: Mapping[str, tf.Tensor]
    answer_shape: tf.Tensor

    def of_candidates(self, name: str, transformed: tf.Tensor) -> tf.Tensor:
        """Rows of a transformed column, or of packed columns, `[rows, n]` -> `[M, n]`."""
        if name in self.rows_of_lists:
            return tf.gather(transformed, self.rows_of_lists[name])
        return transformed[:tf.shape(self.cells)[0]] if self.rows_of_lists else transformed

    def by_request(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits `[M]` -> `[R, K]`, `NO_LOGIT` where a request has no candidate."""
        return tf.tensor_scatter_nd_update(tf.fill(self.answer_shape, NO_LOGIT), self.cells, logits)


def as_rows(inputs: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor | tf.SparseTensor], CandidateRows]:
    """The tensors of `candidates` as columns for the transform graph.

    Single values are repeated for each candidate, whose rows they are. Lists are not: a list that is shared is one row, and is
    looked up once. Where there are fewer rows of one kind than of the other, missing values follow, which nobody reads.

    Raises:
      tf.errors.InvalidArgumentError: first dimensions differ, a count is negative or more than any field has values,
        `shared_fields` names what is no field, or a field has fewer values than candidates and is not named as shared.
    """
    counts, shared_fields = inputs[CANDIDATE_COUNT_INPUT], inputs[SHARED_FIELDS_INPUT]
    columns = {name: x for name, x in inputs.items() if name not in (CANDIDATE_COUNT_INPUT, SHARED_FIELDS_INPUT)}
    names = tf.constant(list(columns))
    sizes = tf.stack([tf.shape(x)[:2] if x.shape.rank > 2 else tf.shape(x) for x in columns.values()])  # (F, 2)
    dimension_checks = _dimension_checks(sizes, tf.size(shared_fields), counts)
    with tf.control_dependencies(dimension_checks):
        counts, widths = tf.cast(counts, tf.int32), sizes[:, 1]
    shared, naming_check = _shared(shared_fields, names, tf.size(counts))  # (R, F)
    with tf.control_dependencies([naming_check, _width_check(shared, counts, widths, names)]):
        cells = tf.where(tf.sequence_mask(counts))  # (M, 2)
    request, place = tf.unstack(tf.cast(cells, tf.int32), axis=1)
    places = tf.where(tf.gather(tf.transpose(shared), request, axis=1), 0, place)  # (F, M)
    reader = _Reader(list(columns), request, widths, places)
    lists = [name for name, x in columns.items() if x.dtype == tf.string and x.shape.rank == 3]
    rows = reader.rows(lists, tf.size(counts))
    found = {name: reader.lists(name, columns[name], rows) for name in lists}
    for dtype in MISSING_VALUE:
        single = {name: x for name, x in columns.items() if x.dtype == dtype and x.shape.rank == 2}
        with tf.control_dependencies(dimension_checks):  # before columns of different length are joined
            found |= reader.single_values(single, rows) if single else {}
    found |= {name: reader.vectors(name, x, rows) for name, x in columns.items() if name not in found}
    most = tf.reduce_max(tf.concat([counts, [0]], axis=0))
    return found, CandidateRows(cells, {name: reader.row_of(name) for name in lists}, tf.stack([tf.size(counts), most]))


@dataclass(frozen=True)
class _Reader:
    """Reads what each of M candidates reads.

    Attributes:
      fields: the names of the F fields.
      request: int32 `[M]`.
      widths: int32 `[F]`: values of a request.
      places: int32 `[F, M]`: which of them.
    """

    fields: Sequence[str]
    request: tf.Tensor
    widths: tf.Tensor
    places: tf.Tensor

    def rows(self, lists: Sequence[str], requests: tf.Tensor) -> tf.Tensor | None:
        """How many rows all columns have; None for one a candidate."""
        if not lists:
            return None
        return tf.maximum(tf.size(self.request), requests * tf.reduce_max(tf.gather(self.widths, self._numbers(lists))))

    def row_of(self, name: str) -> tf.Tensor:
        """Where the values stand, int32 `[M]`, once those of all requests stand below one another."""
        field = self.fields.index(name)
        return self.request * self.widths[field] + self.places[field]

    def single_values(self, columns: Mapping[str, tf.Tensor], rows: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """`[R, k]` -> `[rows]` for each column; together, since what counts is the number of operations."""
        widths, places = (tf.gather(x, self._numbers(columns)) for x in (self.widths, self.places))  # (n,), (n, M)
        starts = tf.cumsum(widths, exclusive=True)[:, tf.newaxis]  # (n, 1)
        index = self.request * tf.reduce_sum(widths) + starts + places  # (n, M)
        values = tf.reshape(tf.concat(list(columns.values()), axis=1), [-1])
        return dict(zip(columns, tf.unstack(_read(values, index, rows)), strict=True))

    def vectors(self, name: str, x: tf.Tensor, rows: tf.Tensor | None) -> tf.Tensor:
        """`[R, k, size]` -> `[rows, size]`."""
        return _read(tf.reshape(x, [-1, x.shape[2]]), self.row_of(name)[tf.newaxis], rows)[0]

    def lists(self, name: str, x: tf.Tensor, rows: tf.Tensor) -> tf.SparseTensor:
        """`[R, k, L]` -> `[rows, L]`, without what fills the lists up."""
        found = tf.sparse.from_dense(x)
        request, place, position = tf.unstack(found.indices, axis=1)
        row = request * tf.cast(self.widths[self.fields.index(name)], tf.int64) + place
        shape = tf.stack([tf.cast(rows, tf.int64), found.dense_shape[2]])
        return tf.SparseTensor(tf.stack([row, position], axis=1), found.values, shape)

    def _numbers(self, names: Iterable[str]) -> list[int]:
        return [self.fields.index(name) for name in names]


def _read(values: tf.Tensor, index: tf.Tensor, rows: tf.Tensor | None) -> tf.Tensor:
    """`values[index]`, `[n, M, ...]`, or `[n, rows, ...]` with missing ones behind."""
    if rows is not None:
        behind = [[0, 0], [0, rows - tf.shape(index)[1]]]
        index = tf.pad(index, behind, constant_values=tf.shape(values)[0])
        values = tf.pad(values, [[0, 1]] + [[0, 0]] * (values.shape.rank - 1), constant_values=MISSING_VALUE[values.dtype])
    return tf.gather(values, index)


def _dimension_checks(sizes: tf.Tensor, of_shared_fields: tf.Tensor, counts: tf.Tensor) -> list[tf.Operation]:
    """That there are as many of everything as there are requests, and no more candidates than were sent, though all be shared."""
    firsts, widest = sizes[:, 0], tf.reduce_max(sizes[:, 1])
    return [
        _assert(
            tf.reduce_all(firsts == tf.size(counts)) & (of_shared_fields == tf.size(counts)),
            [f"the first dimension of every input must be the number of requests; that of {CANDIDATE_COUNT_INPUT} is",
             tf.size(counts), f"that of {SHARED_FIELDS_INPUT}", of_shared_fields, "those of the fields", firsts],
        ),
        _assert(
            tf.reduce_all((counts >= 0) & (counts <= tf.cast(widest, tf.int64))),
            [f"{CANDIDATE_COUNT_INPUT} must be from 0 to the number of values of the field with most, which is", widest,
             "; received", counts],
        ),
    ]  # fmt: skip


def _shared(shared_fields: tf.Tensor, names: tf.Tensor, requests: tf.Tensor) -> tuple[tf.Tensor, tf.Operation]:
    """Whether each request shares each field, bool `[R, F]`, and the check that only fields were named."""
    split = tf.raw_ops.StringSplitV2(input=shared_fields, sep=SEPARATOR)
    named = tf.strings.strip(split.values)  # (n,)
    same = named[:, tf.newaxis] == names  # (n, F)
    wrong = ~tf.reduce_any(same, axis=1) & (named != "")
    message = [f"{SHARED_FIELDS_INPUT} names what is no field:", _only(named, wrong), "; the fields are", names]
    check = _assert(~tf.reduce_any(wrong), message)
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
