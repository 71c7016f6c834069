"""What the cells of a column mean: any Arrow column to texts, numbers, times, labels, lists or vectors.

A value is missing if its cell is null, NaN, the empty text or one of the schema's `missing` texts; all are one and the
same. A log says the same thing in several types, and means the same value by each:

- a whole number stored as a float (as Parquet stores ids beside nulls) is the text of its integer: 3.0 is "3";
- true and false are 1 and 0, as texts too;
- a `missing` text that is a number, such as -1, also means every number that equals it as float32;
- bytes (as tf.Example stores texts) are UTF-8.

Where one value is expected a list of one (as tf.Example stores it) is that value, and an empty list is missing. A cell
that cannot mean what is asked of it makes its row malformed: that is noted in a `RowReasons`.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.errors import UserError
from preprocessing.schema import Label

UNLABELLED = -1
_NUMBER = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))$"
_ISO_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
_BEYOND_MICROSECONDS = r"(\.[0-9]{6})[0-9]+"
_WHOLE_NUMBER = r"^[+-]?[0-9]{1,18}$"
_MICROSECONDS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_INT64_LIMIT = 2.0**63
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999  # of the years 1 to 9999: Python has dates of no others


class RowReasons:
    """Collects which rows of a batch are malformed; the first reason found counts."""

    def __init__(self, rows: int):
        self._reason = np.full(rows, -1, np.int32)
        self._texts: list[str] = []

    def add(self, malformed: np.ndarray, text: str) -> None:
        if malformed.any():
            self._reason[malformed & (self._reason < 0)] = len(self._texts)
            self._texts.append(text)

    @property
    def good(self) -> np.ndarray:
        return self._reason < 0

    def of(self, row: int) -> str:
        """Why a malformed row is malformed."""
        return self._texts[self._reason[row]]

    def add_elements(self, elements: "RowReasons", row_of_element: np.ndarray) -> None:
        """Takes over what was found in the elements of lists; `row_of_element` [elements] says whose they are."""
        for code, text in enumerate(elements._texts):
            malformed = np.zeros(len(self._reason), bool)
            malformed[row_of_element[elements._reason == code]] = True
            self.add(malformed, text)


def texts(column: pa.Array, missing: Sequence[str], role: str, reasons: RowReasons) -> pa.DictionaryArray:
    """Names: a dictionary array [rows] of different strings, null where missing.

    Args:
      column: of any type but nested ones; a list of at most one value is a single value.
      missing: texts that mean no value, beside the empty one.
      role: what the column is to the schema, for reasons and errors.

    Raises:
      UserError: the column's type cannot be read as one value a row.
    """
    return _without(_as_strings(_single(column, role, reasons), role, reasons).dictionary_encode(), missing)


def numbers(column: pa.Array, missing: Sequence[str], role: str, reasons: RowReasons) -> np.ndarray:
    """Numbers: float64 [rows], NaN where missing. A time or date is its seconds since 1970.

    Args and errors: as `texts`. Malformed: a text that is not a number.
    """
    column = _single(column, role, reasons)
    kind = column.type
    if _is_text(kind):
        parsed = _parsed_numbers(_as_strings(column, role, reasons), missing, role, reasons)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        parsed = pc.divide(pc.cast(_as_microseconds(column), pa.float64()), 1e6)
    elif pa.types.is_boolean(kind):
        parsed = pc.cast(pc.cast(column, pa.int8()), pa.float64())
    else:
        parsed = _cast(column, pa.float64(), role)
    found = pc.fill_null(parsed, np.nan).to_numpy(zero_copy_only=False)
    if absent := missing_numbers(missing):
        found = np.where(np.isin(single_precision(found), absent), np.nan, found)
    return found


def single_precision(found: np.ndarray) -> np.ndarray:
    """Numbers as float32; one too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def missing_numbers(missing: Sequence[str]) -> list[np.float32]:
    """The numbers among the texts that mean no value, as float32."""
    found = single_precision(np.array([float(text) for text in missing if re.match(_NUMBER, text)]))
    return [number for number in found if not np.isnan(number)]


def times(column: pa.Array, unit: str, missing: Sequence[str], role: str, reasons: RowReasons) -> np.ndarray:
    """Times: int64 [rows], microseconds since 1970 (UTC), rounded down; 0 where the row is malformed.

    A column of Arrow's own time stamps or dates means what it says, whatever `unit`; without a time zone it is UTC.

    Args:
      unit: of numbers: seconds, milliseconds, microseconds or nanoseconds; or "iso": ISO 8601 texts.
      Others and errors: as `texts`. Malformed: a missing or unreadable time, or one outside the years 1 to 9999.
    """
    column = _single(column, role, reasons)
    dated = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
    if dated:
        found = _as_microseconds(column)
    elif unit == "iso":
        found = _iso_times(texts(column, missing, role, reasons), role, reasons)
    elif pa.types.is_integer(column.type):
        found = _scaled_whole(_signed(column, missing, role, reasons), unit)
    else:
        found = _numbered_times(column, unit, missing, role, reasons)
    found = pc.fill_null(found, _LAST_TIME + 1).to_numpy(zero_copy_only=False)
    outside = (found < _FIRST_TIME) | (found > _LAST_TIME)
    if not outside.any():
        return found
    if not dated and unit != "iso":
        _name_fitting_unit(column, outside, unit, missing, role, reasons)
    reasons.add(outside, f"{role} is missing or out of range")
    return np.where(outside, 0, found)


def labels(column: pa.Array, label: Label, missing: Sequence[str], reasons: RowReasons) -> np.ndarray:
    """Labels: int64 [rows], 1 click, 0 no click, -1 unlabelled.

    Malformed: neither positive nor negative; or missing where the schema rejects rows without label.
    """
    role = f"label (column {label.column!r})"
    named = {*label.positive, *label.negative}
    found = texts(column, [text for text in missing if text not in named], role, reasons)
    # One code a different text, the last of them for null: the rows gather theirs.
    positive, negative = (_is_in(found.dictionary, names) for names in (label.positive, label.negative))
    codes = np.append(np.select([positive, negative], [1, 0], -2), UNLABELLED)
    result = codes[pc.fill_null(found.indices, len(found.dictionary)).to_numpy(zero_copy_only=False)]
    reasons.add(result == -2, f"{role} is neither positive {list(label.positive)} nor negative {list(label.negative)}")
    if label.unlabelled == "reject":
        reasons.add(result == UNLABELLED, f"{role} is missing")
    return result.astype(np.int64)


def lists(column: pa.Array, separator: str, missing: Sequence[str], role: str, reasons: RowReasons) -> pa.ListArray:
    """Lists of names: a list array [rows] of dictionary-encoded strings, without nulls: missing elements are left out.

    Args:
      column: texts, cut at `separator`; lists, whose elements are taken as they are; or single values.
      Others and errors: as `texts`.
    """
    elements, lengths = _elements(column, separator, missing, role, reasons)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    inner = RowReasons(len(elements))
    found = texts(elements, missing, role, inner)
    reasons.add_elements(inner, rows)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(np.bincount(rows[found.is_valid().to_numpy(zero_copy_only=False)], minlength=len(lengths)), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), found.drop_null())


def vectors(column: pa.Array, size: int, separator: str, missing: Sequence[str], role: str, reasons: RowReasons) -> np.ndarray:
    """Vectors: float32 [rows, size], a row of NaN where missing (also: empty, or all of its numbers missing).

    Args and errors: as `lists`. Malformed: another size, or some numbers missing or infinite.
    """
    elements, lengths = _elements(column, separator, missing, role, reasons)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    inner = RowReasons(len(elements))
    found = single_precision(numbers(elements, missing, role, inner))
    reasons.add_elements(inner, rows)
    reasons.add((lengths > 0) & (lengths != size), f"{role} has another number of numbers than {size}")
    result = np.full((len(lengths), size), np.nan, np.float32)
    result[lengths == size] = found[np.repeat(lengths == size, lengths)].reshape(-1, size)
    usable = np.isfinite(result).all(axis=1) | np.isnan(result).all(axis=1)
    reasons.add(~usable, f"{role} has numbers that are missing or infinite beside others")
    return result


# ---- One value a cell, several values a cell ----


def _single(column: pa.Array, role: str, reasons: RowReasons) -> pa.Array:
    """Decodes dictionaries, and takes the value out of lists of at most one."""
    column = _plain(column)
    if not _is_list(column.type):
        return column
    elements, lengths = column.flatten(), _lengths(column)
    reasons.add(lengths > 1, f"{role} holds several values, expected one")
    place = pa.array(np.cumsum(lengths) - lengths, mask=lengths != 1)
    return _plain(elements).take(place)


def _elements(column: pa.Array, separator: str, missing: Sequence[str], role: str,
              reasons: RowReasons) -> tuple[pa.Array, np.ndarray]:
    """The values of all cells one after another, and how many each cell has, int64 [rows]."""
    column = _plain(column)
    if _is_text(column.type):
        column = _as_strings(column, role, reasons)
        column = pc.split_pattern(_present(column, missing), separator)
    if _is_list(column.type):
        return _plain(column.flatten()), _lengths(column)
    return column.drop_null(), column.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_fixed_size_list(column.type):
        column = pc.cast(column, pa.list_(column.type.value_type))
    return column


def _lengths(column: pa.ListArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or _is_bytes(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
            or pa.types.is_binary_view(kind))


def _cast(column: pa.Array, kind: pa.DataType, role: str) -> pa.Array:
    try:
        return pc.cast(column, kind, safe=False)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{role} has the type {column.type}, expected texts, numbers, times, or lists of these: write the column in "
            "another type, or leave it out of the schema"
        ) from error


def _present(column: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Texts with null in place of those that mean no value; a comparison each is cheaper than hashing every cell."""
    absent = pc.equal(pc.binary_length(column), 0)
    for text in missing:
        absent = pc.or_(absent, pc.equal(column, text))
    return pc.if_else(absent, None, column)


def _is_in(column: pa.Array, values: Sequence[str]) -> np.ndarray:
    return pc.is_in(column, value_set=pa.array(values, pa.string())).to_numpy(zero_copy_only=False)


# ---- Texts ----


def _as_strings(column: pa.Array, role: str, reasons: RowReasons) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if _is_bytes(kind):
        return _decoded(column, role, reasons)
    if pa.types.is_boolean(kind):
        return pc.cast(pc.cast(column, pa.int8()), pa.string())
    if pa.types.is_floating(kind):
        return _float_texts(column)
    return _cast(column, pa.string(), role)


def _float_texts(column: pa.Array) -> pa.Array:
    """Whole numbers as integers, others in the shortest form that reads back, NaN as null."""
    if pa.types.is_float16(column.type):
        column = pc.cast(column, pa.float32())
    exact = column.to_numpy(zero_copy_only=False)
    whole = (exact == np.floor(exact)) & (np.abs(exact) < _INT64_LIMIT)
    integers = pa.array(np.where(whole, exact, 0).astype(np.int64), mask=~whole)
    others = pa.array(exact, column.type, mask=whole | np.isnan(exact))
    return pc.coalesce(pc.cast(integers, pa.string()), pc.cast(others, pa.string()))


def _decoded(column: pa.Array, role: str, reasons: RowReasons) -> pa.Array:
    """Bytes as UTF-8."""
    column = pc.cast(column, pa.binary())
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        encoded = column.dictionary_encode()
        decodable = np.array([_is_utf8(value) for value in encoded.dictionary.to_pylist()])
        good = pc.fill_null(pa.array(decodable).take(encoded.indices), True)
        reasons.add(~good.to_numpy(zero_copy_only=False), f"{role} is not valid UTF-8")
        return pc.cast(pc.if_else(good, column, None), pa.string())


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


def _without(encoded: pa.DictionaryArray, missing: Sequence[str]) -> pa.DictionaryArray:
    """Makes the missing texts null and drops them from the dictionary."""
    absent = _is_in(encoded.dictionary, ("", *missing))
    if not absent.any():
        return encoded
    place = pa.array(np.cumsum(~absent) - 1, pa.int32(), mask=absent)
    return pa.DictionaryArray.from_arrays(place.take(encoded.indices), encoded.dictionary.filter(pa.array(~absent)))


# ---- Numbers and times ----


def _parsed_numbers(column: pa.Array, missing: Sequence[str], role: str, reasons: RowReasons) -> pa.Array:
    text = _present(column, missing)
    try:
        found = pc.cast(text, pa.float64())
        if not pc.any(pc.and_(pc.is_nan(found), pc.match_substring(text, "("))).as_py():  # Arrow reads nan(1) as a number
            return found
    except pa.ArrowInvalid:
        pass
    text = pc.utf8_trim_whitespace(text)
    readable = _matches(text, _NUMBER)
    reasons.add(~readable, f"{role} is not a number")
    return pc.cast(pc.if_else(pa.array(readable), text, None), pa.float64())


def _matches(text: pa.Array, pattern: str) -> np.ndarray:
    """Which texts match; nulls do."""
    return pc.fill_null(pc.match_substring_regex(text, pattern), True).to_numpy(zero_copy_only=False)


def _as_microseconds(column: pa.Array) -> pa.Array:
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("s"))
    return _scaled_whole(pc.cast(column, pa.int64()), _UNIT_NAMES[column.type.unit])


def _signed(column: pa.Array, missing: Sequence[str], role: str, reasons: RowReasons) -> pa.Array:
    """Integers as int64, null where missing or too large."""
    there = ~np.isnan(numbers(column, missing, role, reasons))
    if pa.types.is_uint64(column.type):
        there &= pc.less_equal(pc.fill_null(column, 0), pa.scalar(2**63 - 1, pa.uint64())).to_numpy(zero_copy_only=False)
    return pc.cast(pc.if_else(pa.array(there), column, None), pa.int64())


def _scaled_whole(integers: pa.Array, unit: str) -> pa.Array:
    """Whole numbers of a unit as microseconds, exactly, rounded down; null where that is out of range."""
    factor = int(_MICROSECONDS[unit])
    if factor == 0:
        return _mapped(integers, lambda exact: np.floor_divide(exact, 1000))
    limit = (2**63 - 1) // factor
    inside = pc.and_(pc.less_equal(integers, limit), pc.greater_equal(integers, -limit))
    return _mapped(pc.if_else(inside, integers, None), lambda exact: exact * factor)


def _mapped(integers: pa.Array, function: Callable[[np.ndarray], np.ndarray]) -> pa.Array:
    exact = pc.fill_null(integers, 0).to_numpy(zero_copy_only=False)
    return pa.array(function(exact), mask=integers.is_null().to_numpy(zero_copy_only=False))


def _numbered_times(column: pa.Array, unit: str, missing: Sequence[str], role: str, reasons: RowReasons) -> pa.Array:
    """Texts and floats: whole numbers exactly (a float64 of nanoseconds is too coarse), the others as float64."""
    approximate = np.floor(numbers(column, missing, role, reasons) * _MICROSECONDS[unit])
    inside = np.abs(approximate) < _INT64_LIMIT  # not where NaN
    found = pa.array(np.where(inside, approximate, 0).astype(np.int64), mask=~inside)
    if not _is_text(column.type):
        return found
    text = pc.utf8_trim_whitespace(_as_strings(column, role, RowReasons(len(column))))
    whole = pa.array(_matches(text, _WHOLE_NUMBER) & ~np.isnan(approximate))
    digits = pc.utf8_ltrim(pc.if_else(whole, text, None), "+")
    return pc.coalesce(_scaled_whole(pc.cast(digits, pa.int64()), unit), found)


def _name_fitting_unit(column: pa.Array, outside: np.ndarray, unit: str, missing: Sequence[str], role: str, reasons: RowReasons) -> None:
    """Notes of the numbers that are no times in `unit` in which finer unit they would be, the coarsest of them."""
    found = numbers(column, missing, role, RowReasons(len(column)))
    for other, factor in _MICROSECONDS.items():
        if other != unit:
            fitting = outside & (found * factor >= _FIRST_TIME) & (found * factor <= _LAST_TIME)
            reasons.add(fitting, f"{role} is not within the years 1 to 9999 in {unit}, as it would be in {other}: correct `unit` of "
                                 "`timestamp` in the schema")


def _iso_times(text: pa.DictionaryArray, role: str, reasons: RowReasons) -> pa.Array:
    values = pc.replace_substring_regex(text.dictionary, _BEYOND_MICROSECONDS, r"\1")
    shaped = pc.if_else(pa.array(_matches(values, _ISO_TIME)), values, None)
    parsed = pd.to_datetime(shaped.to_numpy(zero_copy_only=False), format="ISO8601", utc=True, errors="coerce")
    found = pa.array(parsed.as_unit("us").asi8, mask=np.asarray(parsed.isna()))
    unreadable = found.is_null().take(text.indices)
    reasons.add(pc.fill_null(unreadable, False).to_numpy(zero_copy_only=False), f"{role} is not an ISO 8601 time")
    return found.take(text.indices)
