"""What the model card says of calibration and limits, each line from a number or setting that model or data folder hold."""

from collections.abc import Collection

from preprocessing.schema import CategoricalField, ListField, NumericField, Schema, SequenceField, VectorField
from serving.export.card_text import date

SHOWN_FIELDS = 5
SMALL_BIAS = 0.005


def calibration(validation: dict, evaluation: dict | None) -> list[str]:
    """How far predicted clicks are from actual ones, and whether predictions were corrected for it."""
    if "platt_slope" in validation:
        line = "{platt_slope:.4f} times the network's logit, plus {platt_intercept:.4f}".format(**validation)
        line = f"Logits are calibrated by Platt scaling, fitted on the validation split: {line}."
    else:
        line = "Probabilities are the network's own: nothing was fitted to correct them."
    measured = {"valid": validation} | ({evaluation["split"]: evaluation} if evaluation else {})
    return [line] + [_bias(split, metrics) for split, metrics in measured.items() if metrics.get("calibration_bias") is not None]


def _bias(split: str, metrics: dict) -> str:
    bias = metrics["calibration_bias"]
    amount = "as many clicks as there were" if abs(bias) < SMALL_BIAS else f"{abs(bias):.1%} too {'many' if bias > 0 else 'few'} clicks"
    return f"On {split}, it predicts {amount}, of {metrics['positives']:,}; ECE {metrics['ece']:.4f}."


def limits(schema: Schema, manifest: dict, statistics: dict, ignored_fields: Collection[str]) -> list[str]:
    """What the model cannot know or does not look at."""
    unseen = "A feature may be absent, empty or unseen: a field has one row for missing values and, unless hashed, one for all unknown ones."
    lines = [unseen, *_unknown(statistics), *_ranges(schema, statistics), *_lengths(schema), *_hashed(schema, statistics)]
    unread = [field.name for field in schema.fields if field.name in ignored_fields or isinstance(field, VectorField)]
    if unread:
        lines.append(f"Fields that are asked for but change no answer: {', '.join(unread)}.")
    if times := manifest["splits"]["train"].get("times"):
        lines.append(f"Training rows end at {date(times[1])} UTC: of values and habits that came later it knows nothing.")
    return lines


def _unknown(statistics: dict) -> list[str]:
    """The fields whose validation values the vocabulary lacks most often."""
    fields = statistics.get("splits", {}).get("valid", {}).get("fields", {})
    shares = {name: field.get("unknown_share") or 0.0 for name, field in fields.items()}
    worst = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])[:SHOWN_FIELDS]
    return [f"Values that the vocabulary lacks, most in validation: {', '.join(f'{name} {shares[name]:.2%}' for name in worst)}."] if worst else []


def _ranges(schema: Schema, statistics: dict) -> list[str]:
    learnt = statistics.get("fields", {})
    ranges = [f"{field.name} {learnt[field.name]['min']:g} to {learnt[field.name]['max']:g}" for field in schema.fields
              if isinstance(field, NumericField) and learnt.get(field.name, {}).get("min") is not None]  # fmt: skip
    return [f"Numbers beyond the training range count as its outermost bucket: {', '.join(ranges)}."] if ranges else []


def _lengths(schema: Schema) -> list[str]:
    kept = [f"the {'last' if isinstance(field, SequenceField) else 'first'} {field.max_length} of {field.name}"
            for field in schema.fields if isinstance(field, ListField)]  # fmt: skip
    return [f"Of longer lists it reads {', '.join(kept)}."] if kept else []


def _hashed(schema: Schema, statistics: dict) -> list[str]:
    learnt = statistics.get("fields", {})
    hashed = [f"{field.name} ({learnt[field.name]['collision_rate']:.1%})" for field in schema.fields
              if isinstance(field, CategoricalField | ListField) and "collision_rate" in learnt.get(field.name, {})]  # fmt: skip
    return [f"Hashed fields, and the share of their values that are taken for another: {', '.join(hashed)}."] if hashed else []
