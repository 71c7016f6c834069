"""What cells of every Arrow type mean, as names, numbers, times, labels, lists and vectors."""

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import values
from preprocessing.errors import UserError
from preprocessing.schema import Label
from preprocessing.values import RowReasons

MISSING = ("NULL", "-1")
INSTANT = dt.datetime(1970, 1, 2, 0, 0, 1)


def read(function, column, *arguments, missing=MISSING):
    """What a function of `values` gives, as a list, and why each malformed row is malformed."""
    reasons = RowReasons(len(column))
    found = function(column, *arguments, missing, "the role", reasons)
    malformed = {row: reasons.of(row) for row in np.flatnonzero(~reasons.good).tolist()}
    return found.to_pylist() if isinstance(found, pa.Array) else found.tolist(), malformed


def labels(column, **settings):
    reasons = RowReasons(len(column))
    found = values.labels(column, Label(column="y", **settings), ("NULL", "0"), reasons)
    return found.tolist(), [reasons.of(row) for row in np.flatnonzero(~reasons.good)]


@pytest.mark.parametrize(("column", "expected"), [
    (pa.array(["a", "", "NULL", None, " a"]), ["a", None, None, None, " a"]),
    (pa.array(["a", "NULL"], pa.large_string()), ["a", None]),
    (pa.array([b"a", b"", None]), ["a", None, None]),
    (pa.array(["a", None, "NULL", "a"]).dictionary_encode(), ["a", None, None, "a"]),
    (pa.array([7, -1, None]), ["7", None, None]),
    (pa.array([3.0, np.nan, None, -1.0, 0.5, 1e18, 1e20, -0.0, np.inf]),
     ["3", None, None, None, "0.5", "1000000000000000000", "1e+20", "0", "inf"]),
    (pa.array([0.1, 3], pa.float32()), ["0.1", "3"]),
    (pa.array(np.array([0.5, 3, np.nan], np.float16)), ["0.5", "3", None]),
    (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
    (pa.array([True, False, None]), ["1", "0", None]),
    (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
    (pa.array([dt.date(2026, 1, 31)]), ["2026-01-31"]),
    (pa.array([dt.datetime(2026, 1, 31, 12)]), ["2026-01-31 12:00:00.000000"]),
    (pa.nulls(2), [None, None]),
    (pa.array([["a"], [], None]), ["a", None, None]),
    (pa.array([[b"a"], [b"b"]]).slice(1), ["b"]),
    (pa.array([[5], []]), ["5", None]),
    (pa.array([], pa.string()), []),
])
def test_names(column, expected):
    assert read(values.texts, column) == (expected, {})


def test_names_are_different_in_their_dictionary_and_null_is_not_in_it():
    found = values.texts(pa.array(["b", "NULL", "a", "", "b"]), MISSING, "the role", RowReasons(5))
    assert found.dictionary.to_pylist() == ["b", "a"]
    assert found.indices.to_pylist() == [0, None, 1, None, 0]


def test_names_that_make_a_row_malformed():
    assert read(values.texts, pa.array([["a"], ["a", "b"]]))[1] == {1: "the role holds several values, expected one"}
    assert read(values.texts, pa.array([b"a", b"\xff", b"\xff"]))[1] == dict.fromkeys((1, 2), "the role is not valid UTF-8")


@pytest.mark.parametrize(("column", "expected"), [
    (pa.array(["1.5", "-2e3", "", "NULL", None, "NaN", "inf", "1e308", "-Infinity", ".5", "5."]),
     [1.5, -2000, np.nan, np.nan, np.nan, np.nan, np.inf, 1e308, -np.inf, 0.5, 5]),
    (pa.array([" 7 ", "+3"]), [7, 3]),
    (pa.array(["-1", "-1.0", "-1.5"]), [np.nan, np.nan, -1.5]),
    (pa.array([-1, 3, None, 2**62]), [np.nan, 3, np.nan, 2.0**62]),
    (pa.array([-1.0, 0.5], pa.float32()), [np.nan, 0.5]),
    (pa.array([True, None]), [1, np.nan]),
    (pa.array([decimal.Decimal("1.50")]), [1.5]),
    (pa.array([[b"2.5"], []]), [2.5, np.nan]),
    (pa.array([[2.5], [None]]), [2.5, np.nan]),
    (pa.array([INSTANT]), [86401]),
    (pa.array([INSTANT.date()]), [86400]),
    (pa.array(["3", "4"]).dictionary_encode(), [3, 4]),
    (pa.nulls(1), [np.nan]),
    (pa.array([], pa.string()), []),
])
def test_numbers(column, expected):
    found, malformed = read(values.numbers, column)
    np.testing.assert_array_equal(found, expected)
    assert malformed == {}


@pytest.mark.parametrize("text", ["ten", "1,5", "1_000", "0x10", "1e", "--1", "1 2", "N/A", "nan(1)", "1f"])
def test_texts_that_are_no_numbers(text):
    found, malformed = read(values.numbers, pa.array(["1", text, "2"]))
    assert [found[0], found[2]] == [1, 2]
    assert malformed == {1: "the role is not a number"}


def test_the_numbers_among_the_missing_texts():
    assert values.missing_numbers(("NULL", "-1", "1_0", "nan", "0.1", "")) == [np.float32(-1), np.float32(0.1)]


@pytest.mark.parametrize(("column", "unit", "expected"), [
    (pa.array(["1", "1.5", "-5", " 7 ", "+4"]), "seconds", [1_000_000, 1_500_000, -5_000_000, 7_000_000, 4_000_000]),
    (pa.array([1, 2]), "seconds", [1_000_000, 2_000_000]),
    (pa.array([1.25]), "milliseconds", [1250]),
    (pa.array(["1700000000123456"]), "microseconds", [1_700_000_000_123_456]),
    # As float64 the first would be 1_700_000_000_123_456_768.
    (pa.array(["1700000000123456789", "-1500", "1.5e3"]), "nanoseconds", [1_700_000_000_123_456, -2, 1]),
    (pa.array([1700000000123456789, -1500]), "nanoseconds", [1_700_000_000_123_456, -2]),
    (pa.array([1700000000123456789], pa.uint64()), "nanoseconds", [1_700_000_000_123_456]),
    (pa.array([[7], [8]]), "seconds", [7_000_000, 8_000_000]),
    (pa.array([INSTANT]), "seconds", [86_401_000_000]),
    (pa.array([INSTANT], pa.timestamp("ns", "Europe/Berlin")), "iso", [86_401_000_000]),
    (pa.array([INSTANT.date()]), "milliseconds", [86_400_000_000]),
    (pa.array(["1970-01-02", "1970-01-02T00:00:01Z", "1970-01-02 01:00:01+01:00", "1970-01-01T00:00", "9999-12-31"]), "iso",
     [86_400_000_000, 86_401_000_000, 86_401_000_000, 0, 253_402_214_400_000_000]),
    (pa.array(["1969-12-31T23:59:59.5", "1970-01-01T00:00:00.123456789"]), "iso", [-500_000, 123_456]),
    (pa.array([b"1970-01-02"]), "iso", [86_400_000_000]),
    (pa.array([-62_135_596_800, 253_402_300_799]), "seconds", [-62_135_596_800_000_000, 253_402_300_799_000_000]),
])
def test_times(column, unit, expected):
    assert read(values.times, column, unit) == (expected, {})


@pytest.mark.parametrize(("column", "unit", "reason"), [
    (pa.array(["soon"]), "seconds", "the role is not a number"),
    (pa.array(["NULL"]), "seconds", "the role is missing or out of range"),
    (pa.array([-1]), "seconds", "the role is missing or out of range"),
    (pa.array(["inf"]), "seconds", "the role is missing or out of range"),
    (pa.array(["1e300"]), "seconds", "the role is missing or out of range"),
    (pa.array([2**63], pa.uint64()), "nanoseconds", "the role is missing or out of range"),
    (pa.array([253_402_300_800], pa.timestamp("s")), "milliseconds", "the role is missing or out of range"),
    (pa.array(["9999-12-31T23:59:59-01:00"]), "iso", "the role is missing or out of range"),
    (pa.array([None], pa.timestamp("us")), "iso", "the role is missing or out of range"),
    (pa.array([""]), "iso", "the role is missing or out of range"),
    (pa.array(["2026-02-30"]), "iso", "the role is not an ISO 8601 time"),
    (pa.array(["20260131"]), "iso", "the role is not an ISO 8601 time"),
    (pa.array(["31.1.2026"]), "iso", "the role is not an ISO 8601 time"),
])
def test_times_that_make_a_row_malformed(column, unit, reason):
    assert read(values.times, column, unit)[1] == {0: reason}


@pytest.mark.parametrize(("number", "unit", "fitting"), [
    (253_402_300_800, "seconds", "milliseconds"), (-62_135_596_801, "seconds", "milliseconds"),
    (1_700_000_000_000, "seconds", "milliseconds"), (1_700_000_000_000_000, "seconds", "microseconds"),
    (1_700_000_000_000_000_000, "seconds", "nanoseconds"), (1_700_000_000_000_000, "milliseconds", "microseconds"),
    (2**62, "milliseconds", "nanoseconds"), (1_700_000_000_000_000_000, "microseconds", "nanoseconds"),
])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string()])
def test_a_time_in_another_unit_is_malformed_and_its_unit_named(number, unit, fitting, kind):
    column = pa.array([1, number, None]).cast(kind, safe=False)  # float64 has no such long numbers
    found, malformed = read(values.times, column, unit)
    assert found[1:] == [0, 0]
    assert malformed == {
        1: f"the role is not within the years 1 to 9999 in {unit}, as it would be in {fitting}: correct `unit` of `timestamp` in the "
           "schema",
        2: "the role is missing or out of range",
    }


@pytest.mark.parametrize("column", [
    pa.array(["1", "0", "", None, "NULL"]), pa.array([b"1", b"0", b"", None, b"NULL"]), pa.array([1, 0, None, None, None]),
    pa.array([1.0, 0.0, np.nan, None, None]), pa.array([True, False, None, None, None]),
    pa.array([[1], [0], [], None, []]), pa.array(["1", "0", None, None, ""]).dictionary_encode(),
])
def test_labels(column):
    # "0" is among the missing texts too: as a label it is one.
    assert labels(column) == ([1, 0, -1, -1, -1], [])
    assert labels(column, unlabelled="reject")[1] == ["label (column 'y') is missing"] * 3


def test_labels_that_are_neither():
    found, reasons = labels(pa.array(["yes", "2", "no"]), positive=("yes",), negative=("no",))
    assert (found[0], found[2]) == (1, 0)
    assert reasons == ["label (column 'y') is neither positive ['yes'] nor negative ['no']"]
    assert labels(pa.nulls(2)) == ([-1, -1], [])


@pytest.mark.parametrize(("column", "expected"), [
    (pa.array(["a|b", "a", "", None, "NULL", "b|NULL||-1|a"]), [["a", "b"], ["a"], [], [], [], ["b", "a"]]),
    (pa.array([b"a|b"]), [["a", "b"]]),
    (pa.array([["a", "b"], [], None, ["NULL", None, "c|d"]]), [["a", "b"], [], [], ["c|d"]]),
    (pa.array([["a"], ["b", "", "c"]]).slice(1), [["b", "c"]]),
    (pa.array([[1, -1], [2]], pa.large_list(pa.int64())), [["1"], ["2"]]),
    (pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), [["1", "2"], ["3", "4"]]),
    (pa.array([[b"a", b"b"], []]), [["a", "b"], []]),
    (pa.array([3, None]), [["3"], []]),
    (pa.nulls(1), [[]]),
    (pa.array([], pa.string()), []),
])
def test_lists(column, expected):
    assert read(values.lists, column, "|") == (expected, {})


def test_a_list_with_an_unreadable_element_is_malformed():
    found, malformed = read(values.lists, pa.array([[b"a"], [b"b", b"\xff"]]), "|")
    assert found[0] == ["a"]
    assert malformed == {1: "the role is not valid UTF-8"}


NOTHING = [np.nan, np.nan]


@pytest.mark.parametrize(("column", "expected"), [
    (pa.array(["1|2.5", "", "NULL", "|", "nan|NULL"]), [[1, 2.5], NOTHING, NOTHING, NOTHING, NOTHING]),
    (pa.array([[1.0, 2.5], [], None, [np.nan, None]]), [[1, 2.5], NOTHING, NOTHING, NOTHING]),
    (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), [[1, 2], NOTHING]),
    (pa.array([[b"1", b"2"]]), [[1, 2]]),
    (pa.nulls(1), [NOTHING]),
])
def test_vectors(column, expected):
    found, malformed = read(values.vectors, column, 2, "|")
    np.testing.assert_array_equal(found, expected)
    assert malformed == {}


@pytest.mark.parametrize(("text", "reason"), [
    ("1", "the role has another number of numbers than 2"), ("1|2|3", "the role has another number of numbers than 2"),
    ("1|", "the role has numbers that are missing or infinite beside others"),
    ("1|inf", "the role has numbers that are missing or infinite beside others"),
    ("1|1e39", "the role has numbers that are missing or infinite beside others"),
    ("1|x", "the role is not a number"),
])
def test_vectors_that_make_a_row_malformed(text, reason):
    found, malformed = read(values.vectors, pa.array(["1|2", text]), 2, "|")
    assert found[0] == [1, 2]
    assert malformed == {1: reason}


@pytest.mark.parametrize("column", [pa.array([{"a": 1}]), pa.array([[["a"]]])])
@pytest.mark.parametrize("function", [values.texts, values.numbers])
def test_a_type_that_cannot_be_read_is_a_user_error(column, function):
    with pytest.raises(UserError, match="the role has the type .*, expected texts, numbers, times, or lists of these"):
        read(function, column)


def test_the_first_reason_of_a_row_counts():
    reasons = RowReasons(3)
    reasons.add(np.array([False, True, True]), "first")
    reasons.add(np.array([False, False, True]), "second")
    assert reasons.good.tolist() == [True, False, False]
    assert (reasons.of(1), reasons.of(2)) == ("first", "first")
