"""Differences in words that need no statistics: what changed, what it means, what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from preprocessing.drift.comparison import Difference
from preprocessing.drift.profile import LogProfile
from preprocessing.schema import SPECIAL_ROWS, UNKNOWN_ROW, AnyField, NumericField, Schema
from preprocessing.transform import Scale, read_buckets
from preprocessing.vocabulary_files import read_values, vocabulary_path

_EXAMPLES = 5
_TITLES = {
    "rejected_share": "malformed rows",
    "unlabelled_share": "rows without label",
    "label_rate": "click rate",
    "missing_share": "missing",
    "new_share": "new values",
    "infinity_norm": "one value's share",
    "jensen_shannon_divergence": "distribution",
    "length_divergence": "length of lists",
}
DIVERGENCES = ("jensen_shannon_divergence", "length_divergence")


def percent(share: float) -> str:
    """0.1234 -> 12.3%, 0.000456 -> 0.046%."""
    return f"{share:.1%}" if abs(share) >= 0.01 or share == 0 else f"{100 * share:.2g}%"


@dataclass(frozen=True)
class Comparison:
    """Two logs and what differs.

    Attributes:
      schema: of the data folder, with the limits that were used.
      train, valid: of the data folder.
      differences: the worst first.
    """

    data_dir: Path
    schema: Schema
    train: LogProfile
    valid: LogProfile
    new: LogProfile
    differences: list[Difference]

    @property
    def exceeded(self) -> list[Difference]:
        return [one for one in self.differences if one.exceeded]

    @property
    def uncertain(self) -> list[Difference]:
        return [one for one in self.differences if one.uncertain]

    def title(self, one: Difference) -> str:
        """What was measured, in two or three words."""
        return _TITLES[one.measure]

    def change(self, one: Difference) -> str:
        """From what to what, in a few words."""
        if one.measure in DIVERGENCES:
            return "median {} -> {}".format(*self._medians(one))
        return f"{percent(one.before)} -> {percent(one.now)}"

    def meaning(self, one: Difference) -> str:
        """What changed, in a sentence or two."""
        return getattr(self, f"_{one.measure}")(one)

    def advice(self, one: Difference) -> str:
        """What to do about it."""
        return _ADVICE[one.measure]

    def shares(self, one: Difference) -> list[np.ndarray]:
        """In the training split and in the new log, the shares of the values, buckets or lengths that a distance is of."""
        if one.measure == "length_divergence":
            return [counts / counts.sum() for counts in self._counts(one)]
        totals = (log.frequencies[one.subject][UNKNOWN_ROW:].sum() for log in (self.train, self.new))
        return [counts / total for counts, total in zip(self._counts(one), totals, strict=True)]

    def names(self, one: Difference, places: Iterable[int]) -> list[str]:
        """What some of the values, buckets or lengths of `shares` are called; short and in one line."""
        field = self._fields[one.subject]
        if one.measure == "length_divergence":
            return [f"length {1 + place}" for place in places]
        if isinstance(field, NumericField):
            return [_bucket(self._scales[field.name].boundaries, place) for place in places]
        if field.hash_buckets:
            return [f"hash bucket {place}" for place in places]
        vocabulary = read_values(vocabulary_path(self.data_dir, field))
        return [_shown(vocabulary[place].as_py()) for place in places]

    # ---- One sentence a measure ----

    def _rejected_share(self, one: Difference) -> str:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in self.new.reasons.items())
        return f"{percent(one.now)} of the rows cannot be read, before {percent(one.before)}. Most frequent: {reasons}."

    def _unlabelled_share(self, one: Difference) -> str:
        return f"{percent(one.now)} of the rows have no label, before {percent(one.before)}."

    def _label_rate(self, one: Difference) -> str:
        return f"{percent(one.now)} of the labelled rows are clicks, before {percent(one.before)}: {one.now / one.before:.2f} times."

    def _missing_share(self, one: Difference) -> str:
        return f"{percent(one.now)} of the rows have no value, before {percent(one.before)}."

    def _new_share(self, one: Difference) -> str:
        found, split = self.new.fields[one.subject], "validation" if self.valid.fields[one.subject].values else "training"
        examples = ", ".join(f"`{_shown(text)}` ({percent(count / found.values)})" for text, count in found.new_values[:_EXAMPLES])
        return (f"{percent(one.now)} of the values are not in the vocabulary, in the {split} split {percent(one.before)}."
                + (f" Most frequent new ones: {examples}." if examples else ""))

    def _infinity_norm(self, one: Difference) -> str:
        return (f"The value `{self.names(one, [one.place])[0]}` makes up {percent(one.now)} of the values, before "
                f"{percent(one.before)}; no other moved as much.")

    def _jensen_shannon_divergence(self, one: Difference) -> str:
        before, now = self._medians(one)
        moved = self.names(one, [one.place])[0]
        return f"The median was {before} and is {now}. What moved most: {moved}, from {percent(one.before)} to {percent(one.now)}."

    _length_divergence = _jensen_shannon_divergence

    def _medians(self, one: Difference) -> list[str]:
        """The bucket or length at which half is reached, before and now."""
        places = (int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) for counts in self._counts(one))
        return self.names(one, places)

    def _counts(self, one: Difference) -> list[np.ndarray]:
        if one.measure == "length_divergence":
            return [log.fields[one.subject].lengths[1:] for log in (self.train, self.new)]
        return [log.frequencies[one.subject][SPECIAL_ROWS:] for log in (self.train, self.new)]

    @cached_property
    def _fields(self) -> dict[str, AnyField]:
        return {field.name: field for field in self.schema.fields}

    @cached_property
    def _scales(self) -> dict[str, Scale]:
        return read_buckets(self.data_dir)


_ADVICE = {
    "rejected_share": "The rows listed here would be lost to training. Compare the log's format with the schema: a new column, "
                      "another separator or another way to write numbers is the usual cause.",
    "unlabelled_share": "Rows without label cannot teach what is clicked. Check that clicks are joined to the log, and that "
                        "the log is not read before they are. Of a log that is to have none, set `unlabelled_share: 1`.",
    "label_rate": "Predictions of the model in service will be off by about this factor until it is fine-tuned on the new "
                  "log. First make sure that the clicks are right: late or doubled clicks, a new filter, robots.",
    "missing_share": "To the model a missing value is a value of its own. Check the source of the column: a renamed key, a "
                     "join that finds nothing, a client that no longer sends it.",
    "new_share": "The model in service sees all new values as one and the same. If they are real, write a data folder with "
                 "`--transform_from` and `--grow_vocabulary` and train from the earlier model; if they are old values "
                 "written in another way (upper case, a prefix, 1.0 for 1), correct the log.",
    "infinity_norm": "If the change is real (a campaign, a season, a new client), fine-tune on the new log. If not, look for "
                     "a default that replaced real values, or for a source that is missing or counted twice. A field that "
                     "follows the calendar, such as the weekday, differs in every log of one day: give it a limit of its own.",
    "jensen_shannon_divergence": "Check the unit first (cents for euros, seconds for days), then defaults such as 0 or -1 that "
                                 "stand for missing. If the change is real, fine-tune on the new log; if it lasts, write the "
                                 "data folder anew, so that the buckets fit.",
    "length_divergence": "Check the separator first, then the source: a history that starts anew, another limit of its length.",
}


def _bucket(boundaries: tuple[float, ...], place: int) -> str:
    if not boundaries:
        return "any number"
    if place == 0:
        return f"below {boundaries[0]:.4g}"
    if place == len(boundaries):
        return f"{boundaries[-1]:.4g} or more"
    return f"{boundaries[place - 1]:.4g} .. {boundaries[place]:.4g}"


def _shown(text: str) -> str:
    """A value of the log, short and in one line."""
    text = " ".join(text.split()).replace("`", "'").replace("|", "/")
    return text if len(text) <= 40 else text[:37] + "..."
