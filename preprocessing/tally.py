"""What the ids of a descriptor's rows say: how often each row of the table occurs, and what is missing or unknown."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.files import replaced_file
from preprocessing.schema import MISSING_ROW, SPLITS, UNKNOWN_ROW, ListField, Schema, TableField
from preprocessing.splits import TRAIN
from preprocessing.transform import Encoded

_DENSE = ("cells", "missing", "unknown", "uncut", "cut")


@dataclass
class Tally:
    """Integer counts, which add up exactly, whatever the order of rows, descriptors and workers.

    Attributes:
      frequencies: int64 [table_rows], occurrences of each row of the shared table in the training split; a list counts
        each of its values.
      cells, missing, unknown: int64 [splits, fields], in the order of `schema.fields`. Of a list field, `cells` and
        `unknown` count values, `missing` counts empty lists; a vector is there or missing.
      uncut, cut: int64 [splits, fields]: of list fields, the values before the cut at `max_length`, and the rows that lost
        some to it.
      longest: int64 [splits, fields]: of list fields, the values of the longest before the cut.
      shared: by the name of each field that shares another's rows, int64 [rows]: its part of the other's `frequencies`.
      lengths: by the name of each list field, int64 [max_length + 1]: rows of the training split by number of values.
    """

    frequencies: np.ndarray
    cells: np.ndarray
    missing: np.ndarray
    unknown: np.ndarray
    uncut: np.ndarray
    cut: np.ndarray
    longest: np.ndarray
    shared: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]

    @classmethod
    def empty(cls, schema: Schema) -> "Tally":
        shape = (len(SPLITS), len(schema.fields))
        shared = {field.name: field.rows for field in schema.sharing_fields}
        lengths = {field.name: field.max_length + 1 for field in schema.list_fields}
        by_name = [{name: np.zeros(size, np.int64) for name, size in sizes.items()} for sizes in (shared, lengths)]
        return cls(np.zeros(schema.table_rows, np.int64), *(np.zeros(shape, np.int64) for _ in range(6)), *by_name)

    def add(self, encoded: Encoded, split: np.ndarray, schema: Schema) -> None:
        """Counts the rows of a batch; `split` int8 [rows] is the place of each row's split in `SPLITS`."""
        id_columns = dict(zip([field.name for field in schema.id_fields], encoded.ids.T, strict=True))
        for place, field in enumerate(schema.fields):
            if field.name in id_columns:
                self._add_ids(place, field, id_columns[field.name], split)
            elif field.name in encoded.lists:
                ids, lengths = encoded.lists[field.name]
                self._add_ids(place, field, ids, np.repeat(split, lengths))
                self.missing[:, place] += _by_split(split[lengths == 0])
                self._add_uncut(place, field, encoded.uncut_lengths[field.name], split)
                self.lengths[field.name] += np.bincount(lengths[split == TRAIN], minlength=field.max_length + 1)
            else:
                self.cells[:, place] += _by_split(split)
                self.missing[:, place] += _by_split(split[encoded.missing_vectors(field)])

    def _add_ids(self, place: int, field: TableField, ids: np.ndarray, split: np.ndarray) -> None:
        training = ids[split == TRAIN]
        np.add.at(self.frequencies, training + field.offset, 1)
        if field.name in self.shared:
            np.add.at(self.shared[field.name], training, 1)
        self.cells[:, place] += _by_split(split)
        self.missing[:, place] += _by_split(split[ids == MISSING_ROW])
        self.unknown[:, place] += _by_split(split[ids == UNKNOWN_ROW])

    def _add_uncut(self, place: int, field: ListField, lengths: np.ndarray, split: np.ndarray) -> None:
        self.uncut[:, place] += np.bincount(split, weights=lengths, minlength=len(SPLITS)).astype(np.int64)
        self.cut[:, place] += _by_split(split[lengths > field.max_length])
        np.maximum.at(self.longest[:, place], split, lengths)

    def shares(self, schema: Schema, split: int, rows: int) -> dict[str, dict[str, float]]:
        """Of each field: the share of rows that are missing (of lists: empty), and of values that are unknown.

        Of lists also: how long they are, and the share of rows that lose values, before the cut at `max_length`.
        """
        shares = {}
        for place, field in enumerate(schema.fields):
            counted = {"missing_share": self.missing[split, place] / max(rows, 1)}
            if isinstance(field, TableField):
                counted["unknown_share"] = self.unknown[split, place] / max(self.cells[split, place], 1)
            if isinstance(field, ListField):
                counted |= {"cut_share": self.cut[split, place] / max(rows, 1), "mean_length": self.uncut[split, place] / max(rows, 1),
                            "longest": self.longest[split, place]}
            shares[field.name] = {name: float(share) for name, share in counted.items()}
        return shares

    def write(self, path: Path) -> None:
        """Writes the counts to an npz file, as (place, count) pairs where most places are zero."""
        arrays = {name: getattr(self, name) for name in (*_DENSE, "longest")}
        for name, counts in self._sparse().items():
            places = np.flatnonzero(counts)
            arrays |= {f"{name} places": places, f"{name} counts": counts[places]}
        with replaced_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def read_sum(cls, paths: Iterable[Path], schema: Schema) -> "Tally":
        """The sum of the tallies in these files."""
        total = cls.empty(schema)
        for path in paths:
            with np.load(path, allow_pickle=False) as part:
                for name in _DENSE:
                    getattr(total, name)[:] += part[name]
                np.maximum(total.longest, part["longest"], out=total.longest)
                for name, counts in total._sparse().items():
                    counts[part[f"{name} places"]] += part[f"{name} counts"]
        return total

    def _sparse(self) -> dict[str, np.ndarray]:
        return {"frequencies": self.frequencies, **{f"shared {name}": counts for name, counts in self.shared.items()},
                **{f"lengths {name}": counts for name, counts in self.lengths.items()}}


def _by_split(split: np.ndarray) -> np.ndarray:
    return np.bincount(split, minlength=len(SPLITS))
