"""Export: a SavedModel with the transform graph inside, checked in a new process, published by one rename."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing.errors import UserError
from preprocessing.schema import SCHEMA_FILE, Schema, load_data_folder_schema, train_checksum
from serving.export.model_card import Facts, read_facts, write_model_card
from serving.versions.folders import SCHEMA_ASSET
from serving.versions.labels import read_register
from serving.versions.publishing import keep_highest, require_publishable, staged_version
from serving.versions.publishing import publish as publish_version

if TYPE_CHECKING:
    from serving.export.served_model import ClickModel

# TensorFlow takes seconds to import: in the functions that need it.

ENVIRONMENT_FILE = "environment.json"


def export(model_dir: str | Path, data_dir: str | Path, base_path: str | Path, keep: int | None = None, label: str | None = None) -> Path:
    """Exports the fine-tuned model of a model folder and returns the folder of the new version.

    Args:
      model_dir: model folder with a fine-tuned checkpoint.
      data_dir: the data folder that the model was trained on; its transform graph goes into the export.
      base_path: the model base path that a server polls; the new version is the highest one that was ever there plus 1.
      keep: delete all but so many of the highest versions afterwards (`serving.versions.publishing.keep_highest`).
      label: a label that the new version gets, such as "canary".

    Raises:
      UserError: no fine-tuned checkpoint, a data folder of another schema or other training rows, no sample rows, a label
        that the new version cannot have, or an exported model whose answers differ from the trainer's by more than 1e-5.
        Nothing is published then.
    """
    from trainer.checkpoints import load_trained

    model_dir, data_dir, base_path = Path(model_dir), Path(data_dir), Path(base_path)
    require_publishable(base_path, keep, label)
    model = load_trained(model_dir)
    _require_same_schema(model.schema.without(()), load_data_folder_schema(data_dir), model_dir, data_dir)
    _require_same_training_rows(model_dir, data_dir)
    return publish(model, data_dir, base_path, read_facts(model_dir, data_dir), keep, label)


def publish(model: "ClickModel", data_dir: Path, base_path: Path, facts: Facts | None = None, keep: int | None = None,
            label: str | None = None) -> Path:
    """Writes `model` behind the transform graph of `data_dir` as the next version under `base_path`.

    Args:
      facts: what its model card is written from; None: it gets none.
      keep, label: as in `export`.
    """
    from serving.export.parity import TOLERANCE, read_samples, require_parity
    from serving.export.served_model import save_served_model
    from serving.signatures import raw_specs
    from serving.warmup import write_warmup
    from trainer.folding import folded_batch_norms

    examples, records = read_samples(data_dir)
    with staged_version(base_path) as version:
        print("export: writing the model, then checking it in a new process", flush=True)
        with folded_batch_norms():
            save_served_model(model, data_dir, version)
        write_warmup(version, examples, raw_specs(model.schema))
        (version / SCHEMA_ASSET).write_text(model.schema.to_yaml(), encoding="utf-8")
        difference = require_parity(model, records, version, data_dir)
        print(f"export: largest difference from the trainer over {len(examples)} rows {difference:.1e} (at most {TOLERANCE:.0e})")
        if facts is not None:
            write_model_card(version, facts, len(examples), difference)
        version_dir = publish_version(version, base_path, label)
    print(f"export: published {version_dir}" + (f" with label {label}" if label else ""))
    if (pin := read_register(base_path).pin) is not None:
        print(f"export: version {pin} is pinned, so servers stay with it until `python -m serving.versions unpin {base_path}`")
    if keep is not None and (gone := keep_highest(base_path, keep)):
        print(f"export: removed versions {', '.join(map(str, gone))}")
    return version_dir


def _require_same_schema(trained: Schema, given: Schema, model_dir: Path, data_dir: Path) -> None:
    if trained == given:
        return
    old, new = trained.model_dump(mode="json"), given.model_dump(mode="json")
    differing = [key for key in old if key != "fields" and old[key] != new[key]]
    old_fields = {field["name"]: field for field in old["fields"]}
    new_fields = {field["name"]: field for field in new["fields"]}
    names = dict.fromkeys([*old_fields, *new_fields])
    differing += [f"field {name}" for name in names if old_fields.get(name) != new_fields.get(name)]
    raise UserError(
        f"data folder {data_dir} does not belong to model folder {model_dir}: their {SCHEMA_FILE} differ in "
        f"{', '.join(differing) or 'the order of fields'}; give the --data_dir that the model was trained on"
    )


def _require_same_training_rows(model_dir: Path, data_dir: Path) -> None:
    """Equal schemas do not mean equal vocabularies: other rows put other values in the same number of table rows."""
    try:
        environment = json.loads((model_dir / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        trained_on, checksum = environment["data_folder"], environment["train_checksum"]
    except (FileNotFoundError, KeyError) as error:
        raise UserError(
            f"model folder {model_dir}: {ENVIRONMENT_FILE} is absent or does not say which rows the model was trained on "
            f"({error}): restore it from a copy of the folder, or train into a new --model_dir"
        ) from error
    if checksum != train_checksum(data_dir):
        raise UserError(
            f"data folder {data_dir} was not written from the rows that the model in {model_dir} was trained on (expected "
            f"the content of {trained_on} at that time), so its vocabularies may give other ids; give the --data_dir that "
            "the model was trained on, or train again on this one"
        )
