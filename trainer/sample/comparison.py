"""How far generated rows differ from real ones, beside how far real rows differ among themselves.

Every measure compares two tables of equally many rows: generated with real, and other real rows with the same real ones.
What the second says is chance; only what the first says beyond it is the model's.

A table is int [rows, columns]: the id of each field, and in the last column the label, 0 or 1, where the model has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

SLICES = 10
SMALLEST_SLICE = 50
FOLDS = 2
TABLES = ("generated", "real", "other")


@dataclass(frozen=True)
class Tables:
    """Generated rows, real rows, and as many other real rows; and the names of their columns."""

    names: tuple[str, ...]
    generated: np.ndarray
    real: np.ndarray
    other: np.ndarray


@dataclass(frozen=True)
class Slices:
    """Label rates where field `field` has value `value`, in slices that have enough rows in every table; each [slices]."""

    field: np.ndarray
    value: np.ndarray
    rows: np.ndarray
    generated: np.ndarray
    real: np.ndarray
    other: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Tables, and what was found in them.

    Attributes:
      mutual_information: matrices "generated", "real" and "other", [columns, columns].
      slices: label rates, where the label was drawn.
      measures: what metrics.json holds; in pairs, "generated" compares the generated rows with the real ones, and "chance"
        the other real rows.
    """

    tables: Tables
    mutual_information: dict[str, np.ndarray]
    slices: Slices | None
    measures: dict


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """TV = 1/2 sum over v of |p_a(v) - p_b(v)|: the share of rows of one column that would have to change to be the other."""
    counts = [np.bincount(values, minlength=1 + max(a.max(), b.max())) / len(values) for values in (a, b)]
    return float(np.abs(counts[0] - counts[1]).sum() / 2)


def mutual_information(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> float:
    """I(x; y) in nats above what two unrelated columns of the same values and as many rows show.

        I(x; y) = H(x) + H(y) - H(x, y) by shares;   I(x; y) - I(x; y permuted) = H(x, y permuted) - H(x, y)

    Shares of few rows make any two columns seem related; permuting one shows by how much.
    """
    return _joint_entropy(x, rng.permutation(y)) - _joint_entropy(x, y)


def _joint_entropy(x: np.ndarray, y: np.ndarray) -> float:
    _, counts = np.unique(x.astype(np.int64) * (1 + int(y.max())) + y, return_counts=True)
    return float(entropy(counts))


def pairwise_mutual_information(table: np.ndarray, seed: int) -> np.ndarray:
    """`mutual_information` of every two columns, symmetric [columns, columns]; NaN on the diagonal."""
    columns = table.shape[1]
    matrix = np.full((columns, columns), np.nan)
    rng = np.random.default_rng(seed)
    for i in range(columns):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = mutual_information(table[:, i], table[:, j], rng)
    return matrix


def label_rates(tables: Tables) -> Slices:
    """Label rates by the most frequent real values of each field, up to 10, that have 50 rows or more in every table."""
    found = []
    for column in range(len(tables.names) - 1):
        columns = [(getattr(tables, name)[:, column], getattr(tables, name)[:, -1]) for name in TABLES]
        length = 1 + max(int(values.max()) for values, _ in columns)
        sizes = [np.bincount(values, minlength=length) for values, _ in columns]
        rates = [np.bincount(values, labels, minlength=length) / np.maximum(size, 1)
                 for (values, labels), size in zip(columns, sizes, strict=True)]
        values = np.flatnonzero(np.min(sizes, axis=0) >= SMALLEST_SLICE)
        values = values[np.argsort(-sizes[1][values], kind="stable")][:SLICES]
        found.append((np.full(len(values), column), values, sizes[1][values], *(rate[values] for rate in rates)))
    return Slices(*map(np.concatenate, zip(*found, strict=True)))


def distance_of_rates(slices: Slices, rates: np.ndarray) -> float | None:
    """Mean distance of label rates from the real ones, weighted by the rows of the slices; None without slices."""
    return float(np.average(np.abs(rates - slices.real), weights=slices.rows)) if len(slices.rows) else None


def discriminator_auc(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """AUC of gradient boosting that tells rows of `a` from rows of `b`, judged on rows that it was not fitted to.

    Ids enter as numbers: vocabularies are in order of frequency, and buckets in their own. 0.5: it cannot tell them apart.
    """
    rows, origin = np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    with threadpool_limits(1, user_api="openmp"):  # its threads wait for each other by turning: on busy cores twenty times slower
        scores = cross_val_predict(classifier, rows, origin, cv=folds, method="predict_proba")
    return float(roc_auc_score(origin, scores[:, 1]))


def compare(tables: Tables, with_label: bool, seed: int) -> Comparison:
    """All measures; `with_label` says whether the last column is a label that was drawn."""
    matrices = {name: pairwise_mutual_information(getattr(tables, name), seed) for name in TABLES}
    slices = label_rates(tables) if with_label else None
    measures = {
        "rows": len(tables.real),
        "discriminator_auc": _pair(discriminator_auc(tables.generated, tables.real, seed),
                                   discriminator_auc(tables.other, tables.real, seed)),
        "total_variation": {name: _pair(total_variation(tables.generated[:, k], tables.real[:, k]),
                                        total_variation(tables.other[:, k], tables.real[:, k]))
                            for k, name in enumerate(tables.names)},
        "mutual_information_distance": _pair(_distance(matrices["generated"], matrices["real"]),
                                             _distance(matrices["other"], matrices["real"])),
        "mutual_information": _pairs_of_columns(tables.names, matrices),
    }
    if slices:
        measures["label_rate"] = {name: float(getattr(tables, name)[:, -1].mean()) for name in TABLES}
        measures["label_rate_distance"] = _pair(distance_of_rates(slices, slices.generated), distance_of_rates(slices, slices.other))
    return Comparison(tables, matrices, slices, measures)


def _pair(generated: float | None, chance: float | None) -> dict[str, float | None]:
    return {"generated": generated, "chance": chance}


def _distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean absolute difference over the pairs of columns."""
    pairs = np.tril_indices(len(a), -1)
    return float(np.abs(a - b)[pairs].mean()) if len(pairs[0]) else None


def _pairs_of_columns(names: Sequence[str], matrices: dict[str, np.ndarray]) -> list[dict]:
    """Mutual information of every pair, the strongest real one first."""
    pairs = [{"columns": [names[j], names[i]], **{name: float(matrix[i, j]) for name, matrix in matrices.items()}}
             for i in range(len(names)) for j in range(i)]
    return sorted(pairs, key=lambda pair: -pair["real"])
