"""Evaluation of a fine-tuned model: metrics.json, plots, and a report that a product manager can read."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.errors import UserError
from preprocessing.files import write_atomically
from preprocessing.schema import SCHEMA_FILE, SPLITS
from trainer import plots
from trainer.checkpoints import RANDOM, StageCheckpoints, load_trained
from trainer.config import ScoringConfig
from trainer.data_folder import DataFolder
from trainer.loss_parts import FIELD
from trainer.metrics import click_metrics, normalized_entropy
from trainer.prediction import Predictor
from trainer.progress import print_table
from trainer.slices import field_place, slices_of

MEANINGS = {
    "auc": ("AUC", "How often a random click is ranked above a random non-click: 0.5 is a coin, 1 is perfect."),
    "gauc": ("GAUC", "The same within each group (usually a user), averaged by rows."),
    "logloss": ("Logloss", "How surprised the model is by what happened, in nats per row; lower is better."),
    "normalized_entropy": ("Normalized entropy", "Logloss relative to always predicting the click rate: below 1 is useful."),
    "calibration_bias": ("Calibration bias", "Predicted clicks over actual clicks, minus 1: +0.05 promises 5% too many."),
    "ece": ("ECE", "Mean distance between predicted and actual click rate over 20 equal groups of rows."),
}


def evaluate(data_dir: str | Path, model_dir: str | Path, split: str = "test", sliced_by: Sequence[str] = ()) -> dict:
    """Evaluates the best fine-tuned checkpoint on the rows of a split that have a label, and writes `model_dir/report/`.

    Args:
      sliced_by: fields by whose values' training occurrences the metrics are shown too (see `trainer.slices`).

    Returns:
      What metrics.json holds: the split's name, what identifies the weights, the column that weights its rows (None: all count the same), the
      metrics of `trainer.metrics.click_metrics`, and under "slices" those of `trainer.slices.slices_of`.
    """
    data, model_dir = DataFolder.open(data_dir), Path(model_dir)
    for field in sliced_by:
        field_place(field, data.schema, data.path)  # refused before the model is loaded
    model = load_trained(model_dir)
    data = data.without(model.run_config.model.ignored_fields)
    finetuning = StageCheckpoints(model_dir, "finetune")
    state = finetuning.state(finetuning.best())
    if state.data != data.checksum:
        raise UserError(f"model folder {model_dir} was trained on other data than {data.path} (another {SCHEMA_FILE}, other "
                        "training rows or vocabularies): give the data folder that it was trained on")
    predictions = Predictor(model, data).predict(split, with_ids=bool(sliced_by))
    metrics = {"split": split, "model": finetuning.fingerprint(), "weighted_by": data.schema.weight, **click_metrics(predictions),
               "slices": slices_of(predictions, sliced_by, data)}

    report_dir = model_dir / "report"
    report_dir.mkdir(parents=True, exist_ok=True)
    pretraining = StageCheckpoints(model_dir, "pretrain").history() if state.origin.startswith("pretrain") else []
    histories = {"pretrain": pretraining, "finetune": finetuning.history()}
    seconds = {stage: StageCheckpoints(model_dir, stage).seconds() for stage in histories}
    images = {
        "learning_curves.png": plots.learning_curves(histories),
        "calibration.png": plots.calibration(predictions),
        "scores.png": plots.score_distribution(predictions),
    }
    denoised = bool(pretraining) and StageCheckpoints(model_dir, "pretrain").config().pretrain.objective == "diffusion"
    if denoised and (losses := _field_losses(pretraining, data, model.run_config.model.scoring)):
        images["field_losses.png"] = plots.field_losses(losses)
    for name, figure in images.items():
        plots.save(figure, report_dir / name)
    write_atomically(report_dir / "metrics.json", json.dumps(metrics, indent=2))
    used = data.with_label_share(model.run_config.input.label_share)
    write_atomically(report_dir / "REPORT.md", _report(metrics, used, histories, seconds, state.origin, list(images)))
    _print_metrics(metrics, report_dir)
    return metrics


def _field_losses(history: list[dict], data: DataFolder, scoring: ScoringConfig) -> dict[str, tuple[float, float]]:
    """Per field: validation loss of the best pre-trained checkpoint, and entropy of its training frequencies, in nats.

    Fields that are scored against candidates are left out: their loss is over these, which no entropy over the whole field
    compares with. So are fields whose loss the history does not name, as before losses were called `field/NAME`.
    """
    best = min(history, key=lambda record: record["valid"]["loss"])["valid"]
    losses = {}
    for field, counts in zip(data.schema.token_fields, data.field_frequencies, strict=True):
        if scoring.is_full(field.rows) and FIELD + field.name in best:
            shares = counts[counts > 0] / counts.sum()
            losses[field.name] = (best[FIELD + field.name], float(-(shares * np.log(shares)).sum()))
    return losses


def _report(metrics: dict, data: DataFolder, histories: dict[str, list[dict]], seconds: dict[str, float],
            origin: str, images: list[str]) -> str:
    lines = [f"# Click model report: {data.schema.name}, {metrics['split']} split", "", _summary(metrics), "",
             "| measure | value | what it means |", "| --- | --- | --- |"]
    for key, (name, meaning) in MEANINGS.items():
        if metrics[key] is not None:
            lines.append(f"| {name} | {metrics[key]:.4f} | {meaning} |")
    if metrics["weighted_by"]:
        lines += ["", f"In these measures a row counts as often as its `{metrics['weighted_by']}` says: scikit-learn's `sample_weight`."]
    for field, records in metrics["slices"].items():
        lines += ["", *_slices(field, records)]
    lines += ["", "## Data", "", "| split | rows | with a label | clicks | click rate |", "| --- | --- | --- | --- | --- |"]
    for split in SPLITS:
        labelled, clicks = data.labelled(split), data.positives(split)
        lines.append(f"| {split} | {data.rows(split):,} | {labelled:,} | {clicks:,} | {clicks / max(labelled, 1):.2%} |")
    lines += ["", "## Training", ""]
    for stage, history in histories.items():
        if history:
            lines.append(f"- {stage}: {len(history)} epochs, {history[-1]['step']} steps, {seconds[stage]:.0f} s")
        elif stage == "pretrain":
            lines.append(f"- pretrain: none; the model {'was trained from scratch' if origin == RANDOM else f'started from {origin}'}")
    lines += ["", "## Plots", ""]
    lines += [f"![{Path(image).stem.replace('_', ' ')}]({image})\n" for image in images]
    return "\n".join(lines)


def _slices(field: str, records: list[dict]) -> list[str]:
    lines = [f"## By how often training has seen the row's {field}", "",
             "AUC ranks the rows of one slice. Slice 0: values that training never saw, or too few times for a row of their own.", "",
             "| training rows with this value | rows | clicks | AUC | logloss | calibration bias |", "| --- | --- | --- | --- | --- | --- |"]
    for record in records:
        cells = ["" if record[name] is None else f"{record[name]:.4f}" for name in ("auc", "logloss", "calibration_bias")]
        lines.append("| " + " | ".join([record["occurrences"], f"{record['rows']:,}", f"{record['positives']:,}", *cells]) + " |")
    return lines


def _summary(metrics: dict) -> str:
    rate = metrics["click_rate"]
    weighted = f", with their weights {rate:.2%}" if metrics["weighted_by"] else ""
    clicked = f"{metrics['positives']:,} ({metrics['positives'] / metrics['rows']:.2%}{weighted})"
    opening = f"Of {metrics['rows']:,} rows, {clicked} were clicked."
    if metrics["auc"] is None:
        return f"{opening} The split holds only one class, so ranking cannot be judged."
    bias = metrics["calibration_bias"]
    calibration = "as many clicks as happened" if abs(bias) < 0.005 else f"{abs(bias):.1%} too {'many' if bias > 0 else 'few'} clicks"
    knowledge = 1 - normalized_entropy(metrics["logloss"], rate)
    likelihood = (f"It removes {knowledge:.1%} of the uncertainty that the click rate alone leaves" if knowledge > 0 else
                  "Its probabilities are worse than always predicting the click rate")
    return (f"{opening} Given one clicked and one unclicked row, the model ranks the clicked one higher {metrics['auc']:.1%} "
            f"of the time. {likelihood}, and in total it predicts {calibration}.")


def _print_metrics(metrics: dict, report_dir: Path) -> None:
    rows = [(name, f"{metrics[key]:.5f}") for key, (name, _) in MEANINGS.items() if metrics[key] is not None]
    print_table(f"evaluate: {metrics['split']} split, {metrics['rows']:,} rows", rows)
    print(f"evaluate: report in {report_dir / 'REPORT.md'}")
