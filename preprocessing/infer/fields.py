"""Guesses of the columns that are features: kind, vocabulary, limits; and why a column is better left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preprocessing.infer import leaks, names
from preprocessing.infer.profile import LISTED, Parts, Profile

FEW = 20  # so many different numbers are always treated as names
_DECIDES, _EXPLAINS_MUCH = 0.8, 0.3  # shares of the label's entropy
_AUC_OF_A_LEAK = 0.98
_MIN_COUNTS = ((100, 1), (10_000, 2), (200_000, 5), (float("inf"), 10))
_MULTIVALUED_LIMIT, _SEQUENCE_LIMIT = 64, 50
_SURE_SEPARATORS = ("|", ";", "^", "~", "\x01", "\x02", ",")
_MISSING_TEXTS = ("NULL", "null", "Null", "(null)", "<null>", r"\N", "NaN", "nan", "NAN", "None", "NA", "N/A", "n/a", "#N/A",
                  "<NA>", "-", "--", "?", "nil", "undefined")
_COUNTRY_LIKE = r"^[A-Z]{2}$"
_BRACKETED = r"(?s)^\s*[\[{(].*[\]})]\s*$"
_IDENTIFIER = r"^[A-Za-z]{0,3}[0-9]+$"


@dataclass
class ColumnGuess:
    """What becomes of a column.

    Attributes:
      entry: its line under `fields`; None where no kind can hold it.
      notes: why, and what to check.
      left_out: why it is not a field, or None.
    """

    profile: Profile
    entry: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    left_out: str | None = None


def percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 or share == 0 else "below 0.1%"


# ---- Missing ----


def guess_missing(profiles: Mapping[str, Profile]) -> dict[str, list[str]]:
    """Texts that seem to mean "no value", and the columns in which they occur.

    They are the usual ones (NULL, NA, ...), and the few texts (at most three) of a column whose other values are numbers.
    """
    suspects = list(_MISSING_TEXTS)
    for profile in profiles.values():
        strangers = profile.values.filter(np.invert(profile.is_number)).to_pylist()
        if len(strangers) <= 3 and profile.distinct - len(strangers) > FEW and profile.numeric_share >= 0.5:
            suspects += [text for text in strangers if text not in suspects]
    found = {}
    for text in suspects:
        columns = [name for name, profile in profiles.items()
                   if profile.is_in((text,)).any() and not _is_name(text, profile)]
        if columns:
            found[text] = columns
    return found


def _is_name(text: str, profile: Profile) -> bool:
    """Whether NA is Namibia, or a text is one of only two, so that it may well be a value of its own."""
    return (text == "NA" and profile.share_matching(_COUNTRY_LIKE) > 0.9) or (profile.distinct <= 2 and text in ("-", "?", "--"))


# ---- Leaks ----


def leak(profile: Profile, label: np.ndarray) -> str | None:
    """Why a column would leak the answer, or None."""
    share = leaks.decided_share(profile, label)
    if share >= _DECIDES:
        return f"it decides the label: alone it explains {share:.0%} of the label's entropy"
    if profile.distinct > 2 and profile.is_number.all():
        area = leaks.auc(profile, label)
        if max(area, 1 - area) >= _AUC_OF_A_LEAK:
            return f"it decides the label: as a score it has an AUC of {area:.3f}"
    return names.suspicion(profile.name)


def doubt(profile: Profile, label: np.ndarray) -> str | None:
    """What to check of a column that explains much of the label, though not enough to be left out."""
    share = leaks.decided_share(profile, label)
    if share < _EXPLAINS_MUCH:
        return None
    return f"CHECK that it is known before the click: alone it explains {share:.0%} of the label's entropy"


# ---- Kinds ----


def guess_single(profile: Profile, codes: bool = False) -> ColumnGuess:
    """A categorical or numeric field; `codes`: numbers are codes for sure."""
    if codes:
        kind, why = "categorical", None
    elif profile.is_number.all():
        kind, why = _kind_of_numbers(profile)
    else:
        strangers = 1 - profile.numeric_share
        mostly_numbers = strangers < 0.001 and len(profile.finite) > FEW and names.means(profile.name) != "code"
        kind = "numeric" if mostly_numbers else "categorical"
        why = f"{strangers:.2%} of the cells are not numbers: their rows will be rejected" if mostly_numbers else None
    guess = ColumnGuess(profile, {"kind": kind}, [why] if why else [])
    if kind == "categorical":
        _limit(guess, profile)
    return guess


def _kind_of_numbers(profile: Profile) -> tuple[str, str | None]:
    if profile.distinct <= FEW:
        return "categorical", "few different numbers, taken as names"
    if not profile.is_integral:
        return "numeric", None
    named = names.means(profile.name)
    if named == "code":
        return "categorical", "numbers taken as names, as the column's name says"
    if named == "amount":
        return "numeric", None
    if _looks_like_amounts(profile):
        return "numeric", "many small whole numbers and few large ones, taken as amounts; `categorical` if they are codes"
    return "categorical", "whole numbers taken as codes; `numeric` if they are amounts"


def _looks_like_amounts(profile: Profile) -> bool:
    """Counts start near zero, and their tail is long and full of gaps; codes are dense or start anywhere."""
    low, high = profile.finite.min(), profile.finite.max()
    return bool(-10 <= low <= 1 and high > 10 * max(profile.median, 1) and high - low > 1.2 * profile.distinct)


def _limit(guess: ColumnGuess, values: Profile) -> None:
    """Sets `min_count` by the number of different values, so that at most half of the cells become unknown."""
    start = next(min_count for most, min_count in _MIN_COUNTS if values.distinct <= most)
    for min_count in (start, 5, 2):
        if 1 < min_count <= start and values.rare_share(min_count) <= 0.5:
            guess.entry["min_count"] = min_count
            rare = values.rare_share(min_count)
            guess.notes.append(f"{percent(rare) if rare else 'none'} of the values are rarer than min_count")
            return


# ---- Lists and vectors ----


@dataclass(frozen=True)
class CellsOfSeveral:
    """How the cells of a column hold several values."""

    separator: str
    parts: Parts

    @property
    def entry(self) -> dict[str, Any]:
        return {} if self.separator == LISTED else {"separator": self.separator}


def cells_of_several(profile: Profile) -> CellsOfSeveral | None:
    """Whether cells hold several values, by a separator that repeats in them."""
    if profile.listed:
        return CellsOfSeveral(LISTED, Parts.of(profile, LISTED))
    if not profile.distinct or profile.is_number.all():
        return None
    for separator in (*_SURE_SEPARATORS, " "):
        parts = Parts.of(profile, separator)
        if parts.split_share >= 0.05 and (_is_vector(parts) or _is_list(profile, parts, separator)):
            return CellsOfSeveral(separator, parts)
    return None


def is_bracketed(profile: Profile) -> bool:
    """Whether cells look like lists or mappings of Python or JSON."""
    return not profile.listed and profile.distinct > 0 and profile.share_matching(_BRACKETED) > 0.95


def _is_vector(parts: Parts) -> bool:
    return parts.is_even and parts.longest > 1 and parts.are_fractions


def _is_list(profile: Profile, parts: Parts, separator: str) -> bool:
    """Whether parts recur in other cells, which the pieces of a single name would not."""
    if len(parts.distinct) >= max(profile.distinct, 2) or parts.share_matching(r"^\s") > 0.2:
        return False
    if separator in _SURE_SEPARATORS:
        return True
    return parts.split_share > 0.5 and (parts.share_matching(_IDENTIFIER) > 0.95 or profile.looks_unique(0.5))


def guess_several(profile: Profile, cells: CellsOfSeveral, owners: Mapping[str, Profile]) -> ColumnGuess:
    """A vector, sequence or multivalued field.

    Args:
      owners: the categorical columns, whose vocabulary a sequence may share.
    """
    parts = cells.parts
    if _is_vector(parts):
        return ColumnGuess(profile, {"kind": "vector", "size": parts.longest, **cells.entry})
    owner = _owner(profile.name, parts, owners)
    ordered = owner is not None or names.names_sequence(profile.name) or parts.repeats_within_cells
    limit = _SEQUENCE_LIMIT if ordered else _MULTIVALUED_LIMIT
    kind = "sequence" if ordered else "multivalued"
    guess = ColumnGuess(profile, {"kind": kind, **cells.entry, "max_length": min(parts.longest, limit)})
    guess.notes.append(f"{len(parts.distinct):,} different values, up to {parts.longest} a cell")
    if ordered:
        guess.notes.append("oldest first is assumed; `multivalued` if the order means nothing")
    if owner:
        guess.entry["vocabulary"] = owner
        guess.notes.append(f"its values are those of {owner}")
    else:
        _limit(guess, parts.profile)
    return guess


def _owner(name: str, parts: Parts, owners: Mapping[str, Profile]) -> str | None:
    """The categorical column whose values these are: the most alike by their share in common, helped by the name."""
    best, best_score = None, 0.0
    for candidate, profile in owners.items():
        if profile.distinct <= FEW or names.user_rank(candidate) is not None or parts.share_in(profile.values) < 0.5:
            continue
        common = int(parts.profile.is_in(tuple(profile.values.to_pylist())).sum())
        alike = common / (len(parts.distinct) + profile.distinct - common)
        score = alike + 0.5 * names.speak_of_the_same(name, candidate)
        if score > max(best_score, 0.25):
            best, best_score = candidate, score
    return best
