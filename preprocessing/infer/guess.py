"""From the profiles of a sample's columns to a whole schema, each part with what speaks for it."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.errors import UserError
from preprocessing.infer import fields, names, roles
from preprocessing.infer.fields import ColumnGuess
from preprocessing.infer.profile import Profile
from preprocessing.infer.roles import LabelGuess, TimeGuess
from preprocessing.schema import RESERVED_NAMES, UNSERVABLE_NAMES

_MAX_NAME = 64
_HASHED_COLUMNS = 3  # where neither a user nor a key is there to split by
_VALID_SHARE, _TEST_SHARE = 0.1, 0.1
_ROUND_TO = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000)  # microseconds of a day, an hour, a minute, a second
_SEEDS = 5  # of the hash, tried where a small log leaves a split empty
_MISSING_TIMES_ALLOWED = 0.001


@dataclass(frozen=True)
class Guess:
    """Everything the schema says, and the reasons that its comments give.

    Attributes:
      missing: by text, the columns it occurs in.
      time: of the time stamp, or of the numbers that split by time; None: no column holds times.
      splits: ways to split, the best first.
      columns: all others than the label, in the order of the log.
    """

    missing: Mapping[str, list[str]]
    label: LabelGuess
    group: str | None
    time: TimeGuess | None
    key: str | None
    splits: tuple["SplitGuess", ...]
    columns: tuple[ColumnGuess, ...]

    @property
    def fields(self) -> list[ColumnGuess]:
        return [one for one in self.columns if one.left_out is None]

    def content(self, split: "SplitGuess") -> dict[str, Any]:
        """What the schema with this split holds beside its name and how its files are written."""
        timestamp = {"column": self.time.column, "unit": self.time.unit} if self.time and self.time.unit else None
        content = {
            "missing": list(self.missing),
            "label": {"column": self.label.column, "positive": list(self.label.positive),
                      "negative": list(self.label.negative)},
            "group": self.group, "timestamp": timestamp, "key": self.key, "split": dict(split.content),
            "fields": [one.entry for one in self.fields],
        }
        return {key: value for key, value in content.items() if value}


@dataclass(frozen=True)
class SplitGuess:
    """A split as the schema writes it, and what speaks for it."""

    content: Mapping[str, Any]
    reason: str


def guess_schema(profiles: Mapping[str, Profile], label: str | None = None, positive: tuple[str, ...] | None = None,
                 has_header: bool = True, files_split: Mapping[str, str] | None = None,
                 repeated: Collection[str] = (), codes: bool = False) -> Guess:
    """Guesses a schema.

    Args:
      profiles: by column, before any text counts as missing.
      label, positive: what the user said of the label.
      has_header: the columns have names of their own.
      files_split: the pattern of each split's files, where their names say it.
      repeated: columns whose values stand in other columns too.
      codes: all numbers are codes, as the format of the files says.

    Raises:
      UserError: the label cannot be found, or no column is left for a feature.
    """
    missing = fields.guess_missing(profiles)
    profiles = {name: profile.without(tuple(missing)) for name, profile in profiles.items()}
    answer = roles.guess_label(profiles, label, positive, has_header)
    others = {name: profile for name, profile in profiles.items() if name != answer.column}
    split_column = roles.guess_split_column(others)
    times = _times(others)
    time = _main_time(times, others)
    columns = {name: ColumnGuess(profile, left_out=_reason_against(profile, answer, times, split_column, repeated))
               for name, profile in others.items()}
    _fill_in(columns, times, codes)
    for one in columns.values():
        if one.left_out is None and (doubt := fields.doubt(one.profile, answer.values)):
            one.notes.append(doubt)
    _name_fields(columns)
    features = [name for name, one in columns.items()
                if one.left_out is None and one.entry["kind"] in ("categorical", "numeric")]
    if not features:
        raise _no_feature(answer, columns)
    group = roles.guess_group(others, [name for name in features if columns[name].entry["kind"] == "categorical"])
    key = next((name for name, profile in others.items() if name and name not in times and profile.missing_share == 0
                and _is_key(profile)), None)
    splits = tuple(_splits(files_split, split_column, time, group, key, others, features))
    return Guess(missing, answer, group, time, key, splits, tuple(columns.values()))


def _no_feature(label: LabelGuess, columns: Mapping[str, ColumnGuess]) -> UserError:
    reasons = "; ".join(f"{name}: {one.left_out or 'its cells hold several values'}" for name, one in columns.items())
    return UserError(f"no column with one value a cell is left for a feature beside the label {label.column!r}: {reasons}; check "
                     "--label and --separator, or write the schema by hand")


def _times(profiles: Mapping[str, Profile]) -> dict[str, TimeGuess]:
    guesses = {name: roles.guess_time(profile) for name, profile in profiles.items()}
    return {name: guess for name, guess in guesses.items() if guess}


def _main_time(times: Mapping[str, TimeGuess], profiles: Mapping[str, Profile]) -> TimeGuess | None:
    """The column of event time: never missing, with a unit, named like one, with the most different times."""
    usable = [name for name in times if profiles[name].missing_share <= _MISSING_TIMES_ALLOWED and name]

    def fitness(name: str) -> tuple:
        return times[name].unit is not None, names.suspicion(name) is None, names.names_time(name), profiles[name].distinct

    best = max(usable, default=None, key=fitness)
    return times[best] if best else None


# ---- Features ----


def _reason_against(profile: Profile, label: LabelGuess, times: Mapping[str, TimeGuess],
                    split_column: tuple[str, Any] | None, repeated: Collection[str]) -> str | None:
    """Why a column is left out of the fields, or None."""
    if profile.name in repeated:
        return "its values stand in the other columns too"
    if profile.is_constant:
        return f"it is always {profile.values[0].as_py()!r}" if profile.distinct else "it is always missing"
    if not profile.name:
        return "it has no name (the index that pandas writes?)"
    if split_column and profile.name == split_column[0]:
        return "it names the split"
    if profile.name in times:
        return "it is a time, which a new row never repeats; derive columns such as hour and weekday from it"
    if names.names_weight(profile.name):
        return f"it is named like the weight of a row; to train with it: `weight: {profile.name}`"
    if fields.is_bracketed(profile):
        return "its cells look like lists or mappings in brackets, which are not split; write them as 'a|b|c'"
    if _is_key(profile):
        share = "all" if profile.distinct == profile.present else f"{profile.distinct / profile.present:.1%} of"
        return f"{share} its cells differ: a key says nothing of a new row"
    return fields.leak(profile, label.values)


def _is_key(profile: Profile) -> bool:
    return roles.is_key(profile) and not fields.is_bracketed(profile) and not fields.cells_of_several(profile)


def _fill_in(columns: Mapping[str, ColumnGuess], times: Mapping[str, TimeGuess], codes: bool) -> None:
    """Guesses the kind of all columns but times; of those that are left out too, so that a user can take them in."""
    several = {name: fields.cells_of_several(one.profile) for name, one in columns.items() if name not in times}
    for name, one in columns.items():
        if not several.get(name) and one.profile.distinct and name not in times:
            guess = fields.guess_single(one.profile, codes)
            one.entry, one.notes = guess.entry, guess.notes
    owners = {name: one.profile for name, one in columns.items()
              if one.left_out is None and not several.get(name) and one.entry["kind"] == "categorical"}
    for name, one in columns.items():
        if several.get(name):
            guess = fields.guess_several(one.profile, several[name], owners)
            one.entry, one.notes = guess.entry, guess.notes


def _name_fields(columns: Mapping[str, ColumnGuess]) -> None:
    """Puts a legal and free name first into each entry, and the column where that is another."""
    taken: set[str] = set()
    named: dict[str, str] = {}
    for column, one in columns.items():
        if one.entry is not None:
            named[column] = _free_name(column, taken)
            taken.add(named[column].lower())
            if one.entry["kind"] == "vector":
                taken.add(f"{named[column]}_missing".lower())
    for column, one in columns.items():
        if one.entry is not None:
            place = {"name": named[column]} | ({"column": column} if named[column] != column else {})
            one.entry = place | one.entry
            if "vocabulary" in one.entry:
                one.entry["vocabulary"] = named[one.entry["vocabulary"]]


def _free_name(column: str, taken: set[str]) -> str:
    legal = re.fullmatch(r"[A-Za-z]\w*", column, re.ASCII)
    name = column if legal else re.sub(r"[^A-Za-z0-9]+", "_", column).strip("_")
    if not name[:1].isalpha() or name in RESERVED_NAMES | UNSERVABLE_NAMES:
        name = f"column_{name}".rstrip("_")
    name, number = name[:_MAX_NAME], 2
    candidate = name
    while candidate.lower() in taken:
        ending = f"_{number}"
        candidate, number = name[:_MAX_NAME - len(ending)] + ending, number + 1
    return candidate


# ---- Split ----


def _splits(files_split: Mapping[str, str] | None, split_column: tuple[str, Mapping[str, list[str]]] | None,
            time: TimeGuess | None, group: str | None, key: str | None, profiles: Mapping[str, Profile],
            features: list[str]) -> Iterator[SplitGuess]:
    if files_split:
        yield SplitGuess({"by": "files", **files_split}, "the names of the files say it; --input is then their folder")
    if split_column:
        column, texts = split_column
        yield SplitGuess({"by": "column", "column": column, **texts}, "the log names the split of each row")
    limits = _time_limits(time) if time else None
    if limits:
        yield SplitGuess({"by": "time", "column": time.column, "valid_from": limits[0], "test_from": limits[1]},
                         "by time, as the model will be used; check the limits against the whole log")
    largest = sorted(features, key=lambda name: -profiles[name].distinct)[:_HASHED_COLUMNS]
    by_user = ("no column of times was found; all rows of a user stay together, so that every user of the test split is a new one; "
               "with one more column in `key` users are in all splits")
    for columns, reason in (([group], by_user), ([key], "neither times nor users were found"),
                            (largest, "neither times, users nor a key were found; equal values of these columns stay together")):
        if columns[0]:
            for seed in range(_SEEDS):
                yield SplitGuess(_hash_split(columns, seed), reason)


def _hash_split(key: list[str], seed: int) -> dict[str, Any]:
    return {"by": "hash", "key": key, "valid": _VALID_SHARE, "test": _TEST_SHARE} | ({"seed": seed} if seed else {})


def _time_limits(time: TimeGuess) -> tuple[Any, Any] | None:
    """Where validation and test begin, in the words of the schema; None where there are not three different times."""
    values = np.sort(time.values[~np.isnan(time.values)])
    distinct = np.unique(values)
    if len(distinct) < 3:
        return None
    dated = time.unit is not None and not time.from_zero
    for step in _ROUND_TO if dated else ():
        limits = [round(_quantile(values, share) / step) * step for share in (1 - _VALID_SHARE - _TEST_SHARE, 1 - _TEST_SHARE)]
        shares = np.diff([0, *np.searchsorted(values, limits), len(values)]) / len(values)
        if (np.abs(shares[1:] - (_VALID_SHARE, _TEST_SHARE)) <= 0.03).all():
            return microseconds_to_iso(limits[0]), microseconds_to_iso(limits[1])
    # Few different times: the nearest ones that leave rows for each split.
    test = int(np.clip(np.searchsorted(distinct, _quantile(values, 1 - _TEST_SHARE)), 2, len(distinct) - 1))
    valid = int(np.clip(np.searchsorted(distinct, _quantile(values, 1 - _VALID_SHARE - _TEST_SHARE)), 1, test - 1))
    found = distinct[valid], distinct[test]
    if dated:
        return microseconds_to_iso(found[0]), microseconds_to_iso(found[1])
    return tuple(_plain(float(limit / 1e6 if time.from_zero else limit)) for limit in found)


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number


def _quantile(ordered: np.ndarray, share: float) -> float:
    return float(ordered[int(share * len(ordered))])


def microseconds_to_iso(microseconds: float) -> str:
    """Microseconds since 1970 as a date and time of UTC."""
    return str(np.datetime64(int(microseconds), "us")).removesuffix(".000000") + "Z"
