"""Guesses of the columns that are not features: label, split, time, key, group."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UserError
from preprocessing.infer import names
from preprocessing.infer.profile import Profile
from preprocessing.schema import SPLITS

UNLABELLED = -1
ALMOST_ALL_DIFFER = 0.98
_MAX_LABEL_TEXTS = 20
_CLICK_TEXTS = ("1", "1.0", "true", "t", "yes", "y", "click", "clicked", "positive", "pos", "+1")
_NO_CLICK_TEXTS = ("0", "0.0", "false", "f", "no", "n", "-1", "noclick", "no_click", "nonclick", "not_clicked",
                   "negative", "neg")
_OPPOSITES = {"1": "0", "true": "false", "True": "False", "TRUE": "FALSE", "yes": "no", "Yes": "No", "y": "n", "Y": "N", "t": "f",
              "1.0": "0.0"}
_SPLIT_TEXTS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test", "testing", "holdout"),
}
_EPOCH = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_FIRST_SECOND, _LAST_SECOND = 631_152_000, 2_208_988_800  # the years 1990 to 2039
_COMPACT = (
    r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])([01][0-9]|2[0-3])?$",  # YYYYMMDD or YYYYMMDDHH
    r"^[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])([01][0-9]|2[0-3])$",  # YYMMDDHH
)


# ---- Label ----


@dataclass(frozen=True)
class LabelGuess:
    """The label's column and texts.

    Attributes:
      values: int64 [rows], 1 click, 0 no click, -1 without label.
      sure: the texts themselves say which of them means click.
    """

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    values: np.ndarray
    sure: bool = True


def guess_label(profiles: Mapping[str, Profile], wanted: str | None, positive: tuple[str, ...] | None,
                has_header: bool = True) -> LabelGuess:
    """Finds the label by `wanted`, else by name, else as the first column of a file without header.

    Raises:
      UserError: no column or several could be it, or its texts are not two.
    """
    if not has_header and wanted is None and _is_clicks(next(iter(profiles.values()))):
        wanted = next(iter(profiles))
    return _label_of(profiles[_label_column(profiles, wanted, positive)], positive)


def _is_clicks(profile: Profile) -> bool:
    return profile.distinct == 2 and all(text.lower() in _CLICK_TEXTS + _NO_CLICK_TEXTS for text in profile.values.to_pylist())


def _label_column(profiles: Mapping[str, Profile], wanted: str | None, positive: tuple[str, ...] | None) -> str:
    binary = [name for name, profile in profiles.items() if profile.distinct == 2]
    if wanted is not None:
        if wanted not in profiles:
            raise UserError(f"--label {wanted}: there is no such column: expected one of {list(profiles)}{_suggest(binary)}")
        return wanted
    named = [name for name in profiles if names.names_label(name)]
    named = [name for name in named if profiles[name].distinct <= 2] or named
    if len(named) == 1:
        return named[0]
    if named:
        shown = "; ".join(f"{name} with {_shown_texts(profiles[name])}" for name in named)
        raise UserError(f"several columns could be the label: {shown}: say which, for example --label {named[0]}")
    raise UserError(f"no column is named like a label (label, click, is_click, target): say which column is the label with "
                    f"--label COLUMN; the columns are {list(profiles)}{_suggest(binary)}")


def _suggest(binary: list[str]) -> str:
    return f"; columns with two values are {binary}" if binary else "; no column has just two values"


def _label_of(profile: Profile, positive: tuple[str, ...] | None) -> LabelGuess:
    texts = tuple(profile.values.to_pylist()[:_MAX_LABEL_TEXTS + 1])
    if positive is not None:
        return _with_positive(profile, texts, positive)
    if len(texts) == 1:
        texts += _opposite(texts[0])
    if len(texts) != 2:
        raise UserError(
            f"label column {profile.name!r} has {_shown_texts(profile)}, expected two texts, one for click and one for no click: "
            "name another column with --label, or say which texts mean click with --positive TEXT ..."
        )
    click = [text for text in texts if text.lower() in _CLICK_TEXTS]
    other = [text for text in texts if text.lower() in _NO_CLICK_TEXTS]
    if len(click) == 1:
        chosen = click[0]
    elif len(other) == 1:
        chosen = next(text for text in texts if text != other[0])
    else:
        chosen = texts[1]  # the rarer one
    return _labelled(profile, (chosen,), tuple(text for text in texts if text != chosen), len(click) == 1 or len(other) == 1)


def _with_positive(profile: Profile, texts: tuple[str, ...], positive: tuple[str, ...]) -> LabelGuess:
    negative = tuple(text for text in texts if text not in positive)
    unseen = [text for text in positive if text not in texts]
    if unseen or not negative or len(texts) > _MAX_LABEL_TEXTS:
        raise UserError(
            f"--positive {' '.join(positive)}: label column {profile.name!r} has {_shown_texts(profile)}, expected at most "
            f"{_MAX_LABEL_TEXTS} texts, these among them and at least one other; correct --positive or --label"
        )
    return _labelled(profile, positive, negative)


def _opposite(text: str) -> tuple[str, ...]:
    pairs = _OPPOSITES | {negative: positive for positive, negative in _OPPOSITES.items()}
    return (pairs[text],) if text in pairs else ()


def _labelled(profile: Profile, positive: tuple[str, ...], negative: tuple[str, ...], sure: bool = True) -> LabelGuess:
    values = np.where(profile.is_in(positive), 1, 0)
    return LabelGuess(profile.name, positive, negative, np.append(values, UNLABELLED)[profile.codes], sure)


def _shown_texts(profile: Profile) -> str:
    shown = ", ".join(f"{text!r} ({count / profile.rows:.1%})" for text, count
                      in zip(profile.values.to_pylist()[:5], profile.counts, strict=False))
    if not profile.distinct:
        return "no text at all"
    return f"{profile.distinct:,} texts: {shown}{', ...' if profile.distinct > 5 else ''}"


# ---- Split column ----


def guess_split_column(profiles: Mapping[str, Profile]) -> tuple[str, dict[str, list[str]]] | None:
    """A column whose texts name all three splits and nothing else, and its texts by split."""
    for name, profile in profiles.items():
        if not names.names_split(name) or profile.distinct > 6:
            continue
        texts = {split: [text for text in profile.values.to_pylist() if text.lower() in known]
                 for split, known in _SPLIT_TEXTS.items()}
        if all(texts[split] for split in SPLITS) and sum(map(len, texts.values())) == profile.distinct:
            return name, texts
    return None


def split_of_file(name: str) -> str | None:
    """The split that the name of a file speaks of, if it speaks of one: `train-00001.csv` of train."""
    found = {split for split, known in _SPLIT_TEXTS.items() if set(known) & set(names.words(name))}
    return found.pop() if len(found) == 1 else None


# ---- Time ----


@dataclass(frozen=True)
class TimeGuess:
    """A column of times.

    Attributes:
      unit: what the schema's `timestamp` calls it; None where its numbers order the rows but count nothing that it
        knows, such as 20260131.
      values: float64 [rows]: microseconds since 1970, or the column's own numbers where `unit` is None; NaN where missing.
      from_zero: numbers that do not count from 1970.
    """

    column: str
    unit: str | None
    values: np.ndarray
    from_zero: bool = False


def guess_time(profile: Profile) -> TimeGuess | None:
    """Whether a column holds times: ISO 8601 texts, or by its name and the range of its numbers."""
    if profile.distinct < 2:
        return None
    named = names.names_time(profile.name)
    units = ["iso", *(_EPOCH if named or _rises(profile) else ())]
    for unit in units:
        if unit in _EPOCH and not _since_1970(profile, _EPOCH[unit]):
            continue
        times, good = profile.times(unit)
        if good.all():
            return TimeGuess(profile.name, unit, _by_row(times, profile))
    if not named:
        return None
    if any(profile.share_matching(pattern) == 1 for pattern in _COMPACT):
        return TimeGuess(profile.name, None, profile.row_numbers)
    if {"time", "timestamp", "ts"} & set(names.words(profile.name)) and _counts_up(profile):
        return TimeGuess(profile.name, "seconds", profile.row_numbers * 1e6, from_zero=True)
    return None


def _by_row(times: np.ndarray, profile: Profile) -> np.ndarray:
    return np.append(times.astype(np.float64), np.nan)[profile.codes]


def _since_1970(profile: Profile, per_second: float) -> bool:
    """Whether all are numbers in the years 1990 to 2039."""
    numbers = profile.numbers
    return bool(profile.is_number.all() and (numbers >= _FIRST_SECOND * per_second).all()
                and (numbers < _LAST_SECOND * per_second).all())


def _rises(profile: Profile) -> bool:
    """Whether the numbers never fall from row to row."""
    numbers = profile.row_numbers
    return bool(profile.is_number.all() and (np.diff(numbers[~np.isnan(numbers)]) >= 0).all())


def _counts_up(profile: Profile) -> bool:
    numbers = profile.finite
    return bool(len(numbers) == profile.distinct > 100 and numbers.min() >= 0)


# ---- Key and group ----


def is_key(profile: Profile) -> bool:
    """Whether a column seems to number or name the rows: almost all cells differ, and they are not amounts."""
    share = 1.0 if names.user_rank(profile.name) is not None else ALMOST_ALL_DIFFER  # many users come only once
    if not profile.looks_unique(share):
        return False
    if not profile.is_number.all():
        return True
    named = "code" if names.names_key(profile.name) else names.means(profile.name)
    return profile.is_integral and (named == "code" or named is None and _is_run(profile))


def _is_run(profile: Profile) -> bool:
    """Whether whole numbers follow one another nearly without gaps."""
    return len(profile.finite) > 1 and np.ptp(profile.finite) < 2 * profile.distinct


def guess_group(profiles: Mapping[str, Profile], candidates: list[str]) -> str | None:
    """The column that names the user, else the session, among the candidates: repeated, but no single name for most rows."""
    ranked = [(names.user_rank(name), name) for name in candidates if names.user_rank(name) is not None]
    repeated = [(rank, name) for rank, name in ranked
                if profiles[name].distinct < profiles[name].present and profiles[name].top_share < 0.5]
    return min(repeated)[1] if repeated else None

