"""The figures of a run, metrics of each split, what calibration changes, cold slices; and of runs that are averaged."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from benchmarks.accuracy.plan import Run
from preprocessing.files import replaced_file
from trainer.metrics import Predictions, click_metrics, platt_scaling
from trainer.slices import slices_of

if TYPE_CHECKING:
    from trainer.data_folder import DataFolder

# Platt: sigmoid(a logit + b); temperature: sigmoid(a logit); isotonic: any rising function of the logit.
CALIBRATIONS = ("platt", "temperature", "isotonic")
CALIBRATED = ("logloss", "ece", "calibration_bias")


def calibrator(kind: str, fitted_on: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    """Fits a calibration, Platt's as the trainer does. Returns the function from logits to calibrated logits.

    Isotonic regression says 0 and 1 where the fitted rows do; it is held off them by half a row, as logloss is infinite there.
    """
    logits, labels, weights = fitted_on.logits.astype(np.float64), fitted_on.labels, fitted_on.weights
    if kind == "isotonic":
        margin = 0.5 / len(labels)
        curve = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip").fit(logits, labels, sample_weight=weights)
        return lambda values: logit(curve.predict(values.astype(np.float64)))
    if kind == "platt":
        line = platt_scaling(fitted_on)
        return lambda values: line.slope * values.astype(np.float64) + line.intercept
    slope = LogisticRegression(C=np.inf, tol=1e-8, fit_intercept=False).fit(logits[:, np.newaxis], labels, sample_weight=weights).coef_[0, 0]
    return lambda values: slope * values.astype(np.float64)


def calibrated_metrics(fitted_on: Predictions, applied_to: Predictions) -> dict[str, dict[str, float]]:
    """Metrics of `applied_to` by kind, after a calibration fitted on `fitted_on`; empty where that has one class only."""
    if fitted_on.labels.min() == fitted_on.labels.max():
        return {}
    found = {}
    for kind in CALIBRATIONS:
        metrics = click_metrics(replace(applied_to, logits=calibrator(kind, fitted_on)(applied_to.logits), groups=None))
        found[kind] = {name: metrics[name] for name in CALIBRATED}
    return found


def seed_average(runs: Sequence[Predictions]) -> Predictions:
    """Predictions of the same rows by runs that differ in their seed: the mean of their logits."""
    return replace(runs[0], logits=np.mean([run.logits for run in runs], axis=0, dtype=np.float64))


def average_file(folder: Path, split: str, seeds: Sequence[int]) -> Path:
    """Of the average of these seeds' runs, in the folder of their configuration; where it was made elsewhere."""
    return folder / f"{split}-average-{'-'.join(map(str, sorted(seeds)))}.json"


def average_of(runs: Sequence[Run], split: str) -> dict | None:
    """The average of runs of one configuration as "seeds" and "metrics"; None of a single run.

    Where predictions are gone it is that of as many of these runs as one was made of elsewhere, None if of none.
    """
    if len(runs) < 2:
        return None
    seeds, files = sorted(run.seed for run in runs), [run.predictions_file(split) for run in runs]
    if all(file.is_file() for file in files):
        return {"seeds": seeds, "metrics": click_metrics(seed_average([load_predictions(file) for file in files]))}
    made = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(runs[0].folder).parent.glob(f"{split}-average-*.json"))]
    return max((row for row in made if set(row["seeds"]) <= set(seeds)), key=lambda row: len(row["seeds"]), default=None)


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Writes them whole or not at all."""
    arrays = {name: values for name, values in asdict(predictions).items() if values is not None}
    with replaced_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_predictions(path: Path) -> Predictions:
    with np.load(path) as arrays:
        return Predictions(**arrays)


def figures_of(split: str, predictions: dict[str, Predictions], sliced_by: Sequence[str], data: "DataFolder") -> dict:
    """What a row says of a split. Calibrations are fitted on the validation split, so that one says nothing of them."""
    found = click_metrics(predictions[split]) | {"slices": slices_of(predictions[split], sliced_by, data)}
    if split != "valid":
        found["calibrated"] = calibrated_metrics(predictions["valid"], predictions[split])
    return found
