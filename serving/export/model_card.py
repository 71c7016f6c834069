"""The model card of an export: data, training, metrics, calibration and limits, from what model and data folder hold.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing.schema import MANIFEST_FILE, SPLITS, STATISTICS_FILE, Schema, load_data_folder_schema
from serving.export.card_limits import calibration, limits
from serving.export.card_text import code, date, percent, split_rule, table

if TYPE_CHECKING:
    from trainer.checkpoints import TrainingState
    from trainer.config import Config

MODEL_CARD_FILE = Path("assets.extra") / "model_card.md"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = Path("report") / "metrics.json"
MEASURES = {
    "auc": "AUC: how often a random click is ranked above a random non-click",
    "gauc": "GAUC: the same within each group, averaged by rows",
    "logloss": "logloss, in nats a row",
    "normalized_entropy": "normalized entropy: logloss relative to always predicting the click rate",
    "calibration_bias": "calibration bias: predicted clicks over actual clicks, minus 1",
    "ece": "ECE: mean distance between predicted and actual click rate over 20 equal groups of rows",
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
      schema: of the data folder.
      manifest, statistics: of the data folder; statistics are empty where it holds none.
      config, state: of the best checkpoint of fine-tuning.
      pretraining: the epochs of the pre-training that it started from, if any.
      weights: what identifies the weights of that checkpoint.
      environment: of the model folder: versions of packages, checksum of the training rows.
      evaluation: what was evaluated of exactly these weights, by `--stage=evaluate`, if anything was.
    """

    schema: Schema
    manifest: dict
    statistics: dict
    config: "Config"
    state: "TrainingState"
    pretraining: list[dict]
    weights: str
    environment: dict
    evaluation: dict | None

    @property
    def validation(self) -> dict:
        """Metrics of the validation split at the epoch that is exported."""
        return self.state.history[-1]["valid"]


def read_facts(model_dir: Path, data_dir: Path) -> Facts:
    """Reads what a model folder with a fine-tuned checkpoint and its data folder say of themselves."""
    from trainer.checkpoints import StageCheckpoints

    finetuning = StageCheckpoints(model_dir, "finetune")
    best = finetuning.best()
    state, weights = finetuning.state(best), finetuning.fingerprint()
    return Facts(
        schema=load_data_folder_schema(data_dir),
        manifest=_read_json(data_dir / MANIFEST_FILE),
        statistics=_read_json(data_dir / STATISTICS_FILE) if (data_dir / STATISTICS_FILE).is_file() else {},
        config=finetuning.config(best),
        state=state,
        pretraining=StageCheckpoints(model_dir, "pretrain").history() if state.origin.startswith("pretrain") else [],
        weights=weights,
        environment=_read_json(model_dir / ENVIRONMENT_FILE),
        evaluation=_evaluation(model_dir, weights),
    )


def _evaluation(model_dir: Path, weights: str) -> dict | None:
    """The report of the model folder, if it is about these weights and not about those of an earlier training."""
    path = model_dir / METRICS_FILE
    metrics = _read_json(path) if path.is_file() else {}
    return metrics if metrics.get("model") == weights else None


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_model_card(version: Path, facts: Facts, rows: int, difference: float) -> None:
    """Writes the card into the folder of an export.

    Args:
      rows: how many rows were compared with the trainer.
      difference: the largest difference that was found.
    """
    (version / MODEL_CARD_FILE).parent.mkdir(exist_ok=True)
    (version / MODEL_CARD_FILE).write_text(model_card(facts, rows, difference), encoding="utf-8")


def model_card(facts: Facts, rows: int, difference: float) -> str:
    """The card as Markdown; see `write_model_card`."""
    parts = [_opening(facts), _data(facts), _fields(facts), _training(facts), _metrics(facts), _calibration(facts), _limits(facts),
             _origin(facts, rows, difference)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _opening(facts: Facts) -> str:
    label, model = facts.schema.label, facts.config.model
    network = model.kind + (f" with backbone {model.backbone}" if model.kind == "dgenctr" else "")
    return (
        f"# Model card: {facts.schema.name}\n\n"
        f"Predicts the probability of a click, column {code(label.column)} being {' or '.join(map(code, label.positive))} and not "
        f"{' or '.join(map(code, label.negative))}, from {len(facts.schema.fields)} features. Network: {network}. "
        "The version is the name of the folder that this export lies in."
    )


def _data(facts: Facts) -> str:
    schema, splits = facts.schema, facts.manifest["splits"]
    rows = []
    for name in SPLITS:
        split = splits[name]
        labelled = split["rows"] - split.get("unlabelled", 0)
        times = split.get("times") or ["", ""]
        rows.append([name, f"{split['rows']:,}", f"{labelled:,}", f"{split['positives']:,}", percent(split["positives"], labelled),
                     *map(date, times)])  # fmt: skip
    lines = [table(["split", "rows", "with a label", "clicks", "click rate", "first", "last"], rows), ""]
    lines.append(f"- Split: {split_rule(schema.split)}.")
    lines += [f"- {role}: column {code(column)}." for role, column in (
        ("Groups, within which GAUC ranks", schema.group), ("Weights of rows, in training and metrics", schema.weight),
        ("Scenario", schema.scenario)) if column]  # fmt: skip
    lines.append(f"- Malformed rows that were left out: {facts.manifest.get('rejected', 0):,}.")
    if facts.config.input.label_share < 1:
        lines.append(f"- Of the labels of training rows, {facts.config.input.label_share:.1%} were used.")
    return "\n".join(["## Data", "", *lines])


def _fields(facts: Facts) -> str:
    counted = facts.statistics.get("fields", {})
    seen = facts.statistics.get("splits", {}).get("valid", {}).get("fields", {})
    left_out = facts.config.model.ignored_fields
    rows = []
    for field in facts.schema.fields:
        of_train, of_valid = counted.get(field.name, {}), seen.get(field.name, {})
        read = "no" if field.name in left_out or field.kind == "vector" else "yes"
        shares = (of_train.get("missing_share"), of_train.get("unknown_share"), of_valid.get("unknown_share"))
        rows.append([field.name, field.kind, read, f"{field.rows:,}" if field.rows else "", *("" if x is None else f"{x:.2%}" for x in shares)])
    columns = ["field", "kind", "read by the model", "rows", "missing in train", "unknown in train", "unknown in valid"]
    note = "" if counted else "\n\nThe data folder holds no statistics of its fields."
    return f"## Features\n\n{table(columns, rows)}{note}"


def _training(facts: Facts) -> str:
    state, settings = facts.state, facts.config.finetune
    if facts.pretraining:
        lines = [f"- Pre-training: {len(facts.pretraining)} epochs, {facts.pretraining[-1]['step']:,} steps."]
    else:
        lines = [f"- No pre-training of its own; started from {state.origin}."]
    lines.append(f"- Fine-tuning: the weights after epoch {state.epoch} and {state.step:,} steps, the best by validation {settings.monitor}; "
                 f"seed {facts.config.seed}.")  # fmt: skip
    lines += [f"- Settings were changed at step {change['step']:,} of fine-tuning." for change in state.changes]
    return "\n".join(["## Training", "", *lines, "", "```yaml", facts.config.to_yaml().rstrip(), "```"])


def _metrics(facts: Facts) -> str:
    columns = {"valid": facts.validation}
    if facts.evaluation and facts.evaluation["split"] != "valid":
        columns[facts.evaluation["split"]] = facts.evaluation
    rows = [[meaning, *("" if of.get(key) is None else f"{of[key]:.4f}" for of in columns.values())] for key, meaning in MEASURES.items()]
    counts = [["rows", *(f"{of['rows']:,}" for of in columns.values())], ["clicks", *(f"{of['positives']:,}" for of in columns.values())]]
    note = "The validation split chose the epoch, so its metrics flatter the model."
    if "test" not in columns:
        note += " The model folder holds no evaluation of these weights on the test split (`python -m trainer.task --stage=evaluate`)."
    return f"## Metrics\n\n{table(['measure', *columns], counts + rows)}\n\n{note}"


def _calibration(facts: Facts) -> str:
    return "\n".join(["## Calibration", "", *(f"- {line}" for line in calibration(facts.validation, facts.evaluation))])


def _limits(facts: Facts) -> str:
    found = limits(facts.schema, facts.manifest, facts.statistics, facts.config.model.ignored_fields)
    return "\n".join(["## Limits", "", *(f"- {line}" for line in found)])


def _origin(facts: Facts, rows: int, difference: float) -> str:
    trained = {"python": facts.environment.get("python", ""), **facts.environment.get("packages", {})}
    installed = {name: _installed(name) for name in trained}
    packages = [[name, version, installed[name]] for name, version in trained.items()]
    return "\n".join([
        "## Origin", "",
        f"- Exported {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        f"- Answers {rows:,} rows as the trainer does: the largest difference is {difference:.1e}.",
        f"- Weights: {code(facts.weights)}.",
        f"- Checksum of schema, training rows and vocabularies: {code(facts.environment['train_checksum'])}.",
        "", table(["package", "trained with", "exported with"], packages),
    ])  # fmt: skip


def _installed(package: str) -> str:
    return platform.python_version() if package == "python" else metadata.version(package)
