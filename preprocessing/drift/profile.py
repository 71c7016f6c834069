"""What is compared of a log: counts of its rows, and of each field's values."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FieldProfile:
    """Counts of one field in a log.

    Attributes:
      rows: of the log.
      missing: rows without a value; of a list field, without any.
      values: occurrences of values (of a list field several a row, of others at most one).
      unknown: occurrences of values that the vocabulary lacks.
      lengths: int64 [max_length + 1], rows of a list field by their number of values; None where not known.
      new_values: the most frequent of the unknown values, with at least so many occurrences.
    """

    rows: int
    missing: int
    values: int
    unknown: int = 0
    lengths: np.ndarray | None = None
    new_values: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class LogProfile:
    """Counts of a log.

    Attributes:
      rows: well-formed rows, labelled or not; positives: rows with a click.
      rejected: malformed rows of the `read` rows; of a split of a data folder, which malformed rows have not, all of the
        folder's.
      reasons: how many rows were malformed by the most frequent reasons.
      days: the first and the last day of the time stamps (UTC, ISO 8601); None where not known.
      fields: by field name.
      frequencies: by the name of each field that has rows in the shared table, int64 [rows]: occurrences of the missing row,
        the unknown row, and each value or bucket.
    """

    rows: int
    positives: int
    unlabelled: int
    rejected: int
    read: int
    reasons: dict[str, int] = field(default_factory=dict)
    days: tuple[str, str] | None = None
    fields: dict[str, FieldProfile] = field(default_factory=dict)
    frequencies: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def labelled(self) -> int:
        return self.rows - self.unlabelled
