"""Export: a SavedModel with the transform graph inside, checked in a new process, published by one rename.

    BASE/.export-*/   written, checked, synced to disk
    BASE/VERSION/     renamed into place: servers only ever see whole versions
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.files import flush
from preprocessing.schema import SCHEMA_FILE, Schema, load_data_folder_schema, train_checksum
from serving.served_model import ClickModel, save_served_model
from serving.signatures import DEFAULT_SIGNATURE, LOGIT_OUTPUT, NAMED_SIGNATURE, PROBABILITY_OUTPUT, raw_specs
from serving.versions import find_versions
from serving.warmup import write_warmup

TOLERANCE = 1e-5
ENVIRONMENT_FILE = "environment.json"
STAGING_PREFIX = ".export-"
RAW_SAMPLES = Path("samples") / "raw.tfrecord"
RECORD_SAMPLES = Path("samples") / "records.tfrecord"


def export(model_dir: str | Path, data_dir: str | Path, base_path: str | Path) -> Path:
    """Exports the fine-tuned model of a model folder and returns the folder of the new version.

    Args:
      model_dir: model folder with a fine-tuned checkpoint.
      data_dir: the data folder that the model was trained on; its transform graph goes into the export.
      base_path: the model base path that a server polls; the new version is the highest one there plus 1.

    Raises:
      UserError: no fine-tuned checkpoint, a data folder of another schema or other training rows, no sample rows, or an
        exported model whose answers differ from the trainer's by more than 1e-5. Nothing is published then.
    """
    from trainer.checkpoints import load_trained

    model_dir, data_dir = Path(model_dir), Path(data_dir)
    model = load_trained(model_dir)
    _require_same_schema(model.schema.without(()), load_data_folder_schema(data_dir), model_dir, data_dir)
    _require_same_training_rows(model_dir, data_dir)
    return publish(model, data_dir, Path(base_path))


def publish(model: ClickModel, data_dir: Path, base_path: Path) -> Path:
    """Writes `model` behind the transform graph of `data_dir` as the next version under `base_path`."""
    examples, records = _read_samples(data_dir)
    with _staging_folder(base_path) as staging:
        print("export: writing the model, then checking it in a new process", flush=True)
        save_served_model(model, data_dir, staging)
        write_warmup(staging, examples, raw_specs(model.schema))
        difference = _largest_difference(_trainer_answers(model, records), _exported_answers(staging, data_dir))
        print(f"export: largest difference from the trainer over {len(examples)} rows {difference:.1e} (at most {TOLERANCE:.0e})")
        if not difference <= TOLERANCE:
            raise UserError(
                f"exported model {staging} answers differently from the trainer: expected at most {TOLERANCE:.0e}, received "
                f"{difference:.1e}, so nothing was published: the transform graph of data folder {data_dir} does not give "
                "the ids of its own sample records; preprocess and train again with the installed versions"
            )
        _sync_to_disk(staging)
        version_dir = _publish_next_version(staging, base_path)
    print(f"export: published {version_dir}")
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
            f"({error}): call --stage=finetune again, which writes it"
        ) from error
    if checksum != train_checksum(data_dir):
        raise UserError(
            f"data folder {data_dir} was not written from the rows that the model in {model_dir} was trained on (expected "
            f"the content of {trained_on} at that time), so its vocabularies may give other ids; give the --data_dir that "
            "the model was trained on, or train again on this one"
        )


def _read_samples(data_dir: Path) -> tuple[list[bytes], list[bytes]]:
    """The same sample rows twice: raw as a server receives them, and as training reads them."""
    raw, records = (_read_tfrecord(data_dir / name) for name in (RAW_SAMPLES, RECORD_SAMPLES))
    if not raw or len(raw) != len(records):
        raise UserError(
            f"data folder {data_dir}: expected {RAW_SAMPLES} and {RECORD_SAMPLES} to hold the same rows, at least one; "
            f"received {len(raw)} and {len(records)}: preprocess again, with rows in the validation split"
        )
    return raw, records


def _read_tfrecord(path: Path) -> list[bytes]:
    try:
        return list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    except (tf.errors.NotFoundError, tf.errors.DataLossError) as error:
        raise UserError(f"sample file {path} cannot be read ({error.message}): preprocess the data folder again") from error


def _trainer_answers(model: ClickModel, records: list[bytes]) -> dict[str, np.ndarray]:
    from trainer.input import feature_spec, features_of_records

    parsed = tf.io.parse_example(tf.constant(records), feature_spec(model.schema))
    logit = model.click_logits(features_of_records(model.schema, parsed))
    return {PROBABILITY_OUTPUT: tf.sigmoid(logit).numpy(), LOGIT_OUTPUT: logit.numpy()}


def _exported_answers(version_dir: Path, data_dir: Path) -> dict[str, np.ndarray]:
    """What both signatures answer to the raw sample rows in a new process with another working directory."""
    with tempfile.TemporaryDirectory() as elsewhere:
        output = Path(elsewhere) / "answers.npz"
        command = [sys.executable, "-m", "serving.verify", "--model", str(version_dir.resolve()),
                   "--examples", str((data_dir / RAW_SAMPLES).resolve()), "--output", str(output)]  # fmt: skip
        packages = str(Path(__file__).resolve().parents[1])
        search = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            command, cwd=elsewhere, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise UserError(
                f"exported model {version_dir} does not answer in a new process, so nothing was published; its last words: "
                + " ".join(done.stderr.split()[-60:])
            )
        with np.load(output) as answers:
            return dict(answers)


def _largest_difference(expected: dict[str, np.ndarray], exported: dict[str, np.ndarray]) -> float:
    """Largest absolute difference of a probability, or of a logit divided by max(1, |logit|)."""
    scale = {PROBABILITY_OUTPUT: 1.0, LOGIT_OUTPUT: np.maximum(1.0, np.abs(expected[LOGIT_OUTPUT]))}
    differences = [
        np.abs(exported[f"{signature}/{output}"] - values) / scale[output]
        for signature in (DEFAULT_SIGNATURE, NAMED_SIGNATURE)
        for output, values in expected.items()
    ]
    return float(np.max(differences))


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Holds an exclusive lock on a folder; a process that dies lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _staging_folder(base_path: Path) -> Iterator[Path]:
    """A dot-folder under the base path, which servers ignore; its lock says that its export is alive."""
    base_path.mkdir(parents=True, exist_ok=True)
    staging = base_path / f"{STAGING_PREFIX}{uuid.uuid4().hex[:12]}"
    with _locked(base_path):
        _remove_leftovers(base_path)
        staging.mkdir()
        alive = os.open(staging, os.O_RDONLY)
        fcntl.flock(alive, fcntl.LOCK_EX)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(alive)


def _remove_leftovers(base_path: Path) -> None:
    """Removes what killed exports left behind: dot-folders that nobody holds a lock on."""
    for leftover in base_path.glob(f"{STAGING_PREFIX}*"):
        descriptor = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _sync_to_disk(folder: Path) -> None:
    for directory, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(directory, name) for name in names), directory):
            flush(path)


def _publish_next_version(staging: Path, base_path: Path) -> Path:
    with _locked(base_path):
        version_dir = base_path / str(max(find_versions(base_path), default=0) + 1)
        staging.rename(version_dir)
        flush(base_path)
    return version_dir
