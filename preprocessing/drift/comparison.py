"""The differences between two logs, each against its limit."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.drift import measures
from preprocessing.drift.profile import FieldProfile, LogProfile
from preprocessing.schema import SPECIAL_ROWS, UNKNOWN_ROW, NumericField, Schema, TableField, drift_measures

LOG = "the log"
CERTAIN_Z = 4.0
FEW_ROWS = 2000


@dataclass(frozen=True)
class Difference:
    """One measure of one field, or of the log as a whole.

    Attributes:
      subject: the field's name, or `LOG`.
      measure: as the limit is called in the schema.
      before, now: the share or rate in the data folder and in the new log; None where only their distance is known.
      size: what the limit holds for.
      z: the difference in standard deviations of what chance makes of it.
      place: of a distribution, the value, bucket or length that moved most, counted from 0.
    """

    subject: str
    measure: str
    before: float | None
    now: float | None
    size: float
    limit: float
    z: float
    place: int | None = None

    @property
    def ratio(self) -> float:
        """How many times the limit the difference is; below 0 for the better."""
        return self.size / self.limit

    @property
    def exceeded(self) -> bool:
        """Beyond the limit, and certainly not by chance."""
        return self.ratio > 1 and abs(self.z) >= CERTAIN_Z

    @property
    def uncertain(self) -> bool:
        """Beyond the limit, but the log is too small to tell it from chance."""
        return self.ratio > 1 and not self.exceeded


def compare(schema: Schema, train: LogProfile, valid: LogProfile, new: LogProfile) -> list[Difference]:
    """Compares a new log with the training split; the worst difference first.

    What is new to a vocabulary is compared with the validation split instead, if it has rows: the vocabulary was built from
    the training rows, so they hold too few unknown values to expect as few of other rows.

    Args:
      schema: with the limits.
      train, valid: of the data folder.
      train, new: at least one row.
    """
    found = [*_of_log(schema, train, new)]
    for field in schema.fields:
        profiles = (profile.fields[field.name] for profile in (train, valid, new))
        found += _of_field(schema, field.name, drift_measures(field), *profiles)
        if field.name in new.frequencies:
            found += _of_distribution(schema, field, train.frequencies[field.name], new.frequencies[field.name])
    return sorted(found, key=lambda one: (not one.exceeded, -one.ratio, one.subject, one.measure))


def _of_log(schema: Schema, train: LogProfile, new: LogProfile) -> Iterator[Difference]:
    limits = schema.drift
    yield _increase("rejected_share", limits.rejected_share, (train.rejected, train.read), (new.rejected, new.read))
    yield _increase("unlabelled_share", limits.unlabelled_share, (train.unlabelled, train.rows), (new.unlabelled, new.rows))
    if train.positives and new.labelled:
        clicks = (train.positives, train.labelled, new.positives, new.labelled)
        before, now = train.positives / train.labelled, new.positives / new.labelled
        yield Difference(LOG, "label_rate", before, now, abs(now / before - 1), limits.label_rate, measures.two_proportion_z(*clicks))


def _increase(measure: str, limit: float, before: tuple[int, int], now: tuple[int, int], subject: str = LOG) -> Difference:
    shares = before[0] / before[1], now[0] / now[1]
    return Difference(subject, measure, *shares, shares[1] - shares[0], limit, measures.two_proportion_z(*before, *now))


def _of_field(schema: Schema, name: str, measured: tuple[str, ...], train: FieldProfile, valid: FieldProfile,
              new: FieldProfile) -> Iterator[Difference]:
    limits = {measure: schema.drift.of(measure, name) for measure in measured}
    before, now = train.missing / train.rows, new.missing / new.rows
    z = measures.two_proportion_z(train.missing, train.rows, new.missing, new.rows)
    yield Difference(name, "missing_share", before, now, abs(now - before), limits["missing_share"], z)
    expected = valid if valid.values else train
    if "new_share" in measured and expected.values and new.values:
        yield _increase("new_share", limits["new_share"], (expected.unknown, expected.values), (new.unknown, new.values), name)
    if train.lengths is not None and train.values and new.values:
        yield _divergence(name, "length_divergence", limits["length_divergence"], train.lengths[1:], new.lengths[1:])


def _of_distribution(schema: Schema, field: TableField, before: np.ndarray, now: np.ndarray) -> Iterator[Difference]:
    """The distance of the shares of values or buckets; none where a log has no value, or the field's rows stand for none."""
    totals = [int(frequencies[UNKNOWN_ROW:].sum()) for frequencies in (before, now)]
    before, now = before[SPECIAL_ROWS:], now[SPECIAL_ROWS:]
    if not all(totals) or not len(before):
        return
    if isinstance(field, NumericField):
        measure = "jensen_shannon_divergence"
        yield _divergence(field.name, measure, schema.drift.of(measure, field.name), before, now)
        return
    distance, place = measures.infinity_norm(before, now, *totals)
    z = measures.two_proportion_z(int(before[place]), totals[0], int(now[place]), totals[1])
    shares = before[place] / totals[0], now[place] / totals[1]
    yield Difference(field.name, "infinity_norm", *shares, distance, schema.drift.of("infinity_norm", field.name), z, place)


def _divergence(name: str, measure: str, limit: float, before: np.ndarray, now: np.ndarray) -> Difference:
    divergence, place = measures.jensen_shannon_divergence(before, now)
    z = measures.homogeneity_z(before, now)
    shares = before[place] / before.sum(), now[place] / now.sum()
    return Difference(name, measure, *shares, divergence, limit, z, place)
