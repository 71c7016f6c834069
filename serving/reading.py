"""Rows of files as a signature with one tensor a column takes them, batch by batch.

What a cell means, and which rows are malformed, is what preprocessing says; only what the model reads is looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from preprocessing import values  # what a cell means must not differ
from preprocessing.errors import UserError
from preprocessing.rows import rejections
from preprocessing.schema import Schema
from preprocessing.sources import Batch, Descriptor, Layout, Rejection, read
from preprocessing.values import RowReasons

DEFAULT_LIST_SEPARATOR = "|"
MAX_REJECTED_SHARE = 0.01  # of a file's rows may be malformed
NOTHING = MappingProxyType({})
_KEPT = (pa.types.is_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64,
         pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_date)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """How an input of the signature is read.

    Attributes:
      name: of the input.
      source: the column of the file.
      texts: whether its values are texts, or numbers.
      several: whether a row has several: a list of texts of any length, or `size` numbers.
      separator: between several values in a cell of text.
      missing: texts that mean no value, beside the empty one.
    """

    name: str
    source: str
    texts: bool
    several: bool = False
    size: int | None = None
    separator: str = DEFAULT_LIST_SEPARATOR
    missing: tuple[str, ...] = ()

    def read(self, column: pa.Array, reasons: RowReasons) -> pa.Array:
        """The values of a column of a file: dictionary-encoded texts, null where missing, or lists of them without nulls;
        float32 numbers, NaN where missing, or lists of `size` of them.
        """
        role = f"field {self.name!r} (column {self.source!r})"
        if self.texts:
            if self.several:
                return values.lists(column, self.separator, self.missing, role, reasons)
            return values.texts(column, self.missing, role, reasons)
        if self.several:
            found = values.vectors(column, self.size, self.separator, self.missing, role, reasons)
            return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), self.size)
        return pa.array(values.single_precision(values.numbers(column, self.missing, role, reasons)))


@dataclass
class Block:
    """A stretch of a file: its well-formed rows, and the malformed ones.

    Attributes:
      features: what the model reads of the well-formed rows, by the names of the inputs; types as of `Column.read`.
      keys: the columns that identify these rows, by the names of the files' columns, in plain types.
      rejections: the malformed rows, by line.
      bytes_read: how far into the (compressed) file the reader was after this block.
    """

    features: pa.RecordBatch
    keys: pa.RecordBatch
    rejections: list[Rejection]
    bytes_read: int
    _batch: Batch
    _good: np.ndarray

    def __len__(self) -> int:
        """The number of rows, malformed ones included."""
        return len(self._batch.columns) + len(self._batch.rejections)

    def places(self) -> np.ndarray:
        """The places of the well-formed rows among all rows of the block, int64 `[well-formed rows]`."""
        places = np.arange(len(self._batch.columns))
        if self._batch.rejections:
            lines = [line for line, _ in self._batch.locate(places)]
            places += np.searchsorted([rejection.line for rejection in self._batch.rejections], lines)
        return places[self._good]


@dataclass(frozen=True)
class Reading:
    """What to read of files, for one signature.

    Attributes:
      layout: how the files are written; its columns are those that are read.
      columns: one an input of the signature.
      keys: columns of the files that identify a row.
    """

    layout: Layout
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = ()

    def blocks(self, descriptor: Descriptor) -> Iterator[Block]:
        """Reads the rows that a descriptor stands for.

        Raises:
          UserError: the file cannot be read to its end, or a column's type cannot mean what the model takes.
        """
        for batch in read(descriptor, self.layout):
            try:
                block = self._typed(batch)
            except UserError as error:
                raise UserError(f"file {descriptor.path}: {error}") from error
            yield block

    def _typed(self, batch: Batch) -> Block:
        reasons = RowReasons(len(batch.columns))
        features = {column.name: column.read(batch.columns[column.source], reasons) for column in self.columns}
        keys = {name: _plain(batch.columns[name], f"key (column {name!r})", reasons) for name in self.keys}
        good = reasons.good
        return Block(
            _filtered(features, good), _filtered(keys, good), sorted(batch.rejections + rejections(batch, reasons)),
            batch.bytes_read, batch, good,
        )  # fmt: skip


def reading_of(specs: Mapping, schema: Schema | None = None, *, name: str,
               sources: Mapping[str, str] = NOTHING, separators: Mapping[str, str] = NOTHING, missing: Sequence[str] = (),
               separator: str | None = None, keys: Sequence[str] = ()) -> Reading:  # fmt: skip
    """How to read files for a signature.

    Args:
      specs: by name, the dtype and shape of each input (`tf.TensorSpec`): texts or numbers, one or several a row.
      schema: of the log that the model learnt from: says which column a field is read from, how the files are written, and
        what is missing. None: columns are called as the inputs are.
      name: of what is read, for messages, where there is no schema.
      sources, separators: by input, its column and what stands between its values, instead of what the schema says.
      missing: texts that mean no value in columns of numbers, beside the schema's. (A model's transform graph knows what is
        missing among texts.)
      separator: between the columns of text; by default the schema's, or a comma.
      keys: columns that identify a row.

    Raises:
      UserError: the schema is not that of the signature, or the signature takes what no file can give.
    """
    _check_types(specs)
    fields = {field.name: field for field in schema.fields} if schema else {}
    if schema and set(fields) != set(specs):
        raise UserError(
            f"schema {schema.name!r} is not that of the model: it has the fields {sorted(fields)}, and the signature takes "
            f"{sorted(specs)}: give the schema.yaml of the data folder that the model was trained on"
        )
    several = [name for name, spec in specs.items() if spec.shape.rank == 2]
    _check_names("--column", sources, specs, "inputs of the signature")
    _check_names("--list_separator", separators, several, "columns of lists or vectors")
    of_schema = schema.missing if schema else ()
    columns = []
    for one, spec in specs.items():
        texts, field = spec.dtype.name == "string", fields.get(one)
        columns.append(Column(
            one, sources.get(one, field.source if field else one), texts, one in several,
            spec.shape[1] if one in several and not texts else None,
            separators.get(one, getattr(field, "separator", DEFAULT_LIST_SEPARATOR)),
            of_schema if texts else (*of_schema, *missing),
        ))  # fmt: skip
    wanted = tuple(dict.fromkeys([*(column.source for column in columns), *keys]))
    return Reading(_layout(schema, name, wanted, separator), tuple(columns), tuple(keys))


def _layout(schema: Schema | None, name: str, columns: tuple[str, ...], separator: str | None) -> Layout:
    if schema is None:
        return Layout(name, columns, separator=separator or ",")
    return replace(Layout.of(schema), columns=columns, optional=frozenset(), separator=separator or schema.separator)


def _check_types(specs: Mapping) -> None:
    odd = {name: f"{spec.dtype.name} {spec.shape}" for name, spec in specs.items()
           if spec.dtype.name not in ("string", "float32") or spec.shape.rank not in (1, 2)
           or spec.dtype.name == "float32" and spec.shape.rank == 2 and not spec.shape[1]}  # fmt: skip
    if odd:
        raise UserError(
            f"the signature takes {odd}, and a file can give one or several texts, one number, or a fixed number of "
            "numbers a row only: choose another --signature"
        )


def _check_names(flag: str, given: Mapping, known: Sequence[str] | Mapping, what: str) -> None:
    if not given.keys() <= set(known):
        raise UserError(f"{flag} names {sorted(given.keys() - set(known))}: expected {what}, which are {sorted(known)}")


def _plain(column: pa.Array, role: str, reasons: RowReasons) -> pa.Array:
    """A column in a type that any output can hold: numbers, times and texts as they are, anything else as text."""
    if any(is_kept(column.type) for is_kept in _KEPT):
        return column
    return values.texts(column, (), role, reasons).cast(pa.string())


def _filtered(columns: Mapping[str, pa.Array], good: np.ndarray) -> pa.RecordBatch:
    mask = None if good.all() else pa.array(good)
    return pa.RecordBatch.from_pydict({name: column.filter(mask) if mask else column for name, column in columns.items()})
