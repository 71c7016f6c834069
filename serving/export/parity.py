"""Whether an exported model answers as the trainer does: sample rows through both, the export in a new process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from serving.export.served_model import ClickModel
from serving.signatures import DEFAULT_SIGNATURE, LOGIT_OUTPUT, NAMED_SIGNATURE, PROBABILITY_OUTPUT

TOLERANCE = 1e-5
RAW_SAMPLES = Path("samples") / "raw.tfrecord"
RECORD_SAMPLES = Path("samples") / "records.tfrecord"


def read_samples(data_dir: Path) -> tuple[list[bytes], list[bytes]]:
    """The same sample rows twice: raw as a server receives them, and as training reads them.

    Raises:
      UserError: a file is absent or damaged, they do not hold the same number of rows, or none.
    """
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


def require_parity(model: ClickModel, records: list[bytes], folder: Path, data_dir: Path) -> float:
    """Checks that the SavedModel in `folder` answers the raw samples as `model` answers `records`.

    Returns:
      The largest absolute difference of a probability, or of a logit divided by max(1, |logit|).

    Raises:
      UserError: the SavedModel does not load or answer in a new process, or differs by more than `TOLERANCE`.
    """
    difference = _largest_difference(_trainer_answers(model, records), _exported_answers(folder, data_dir))
    if not difference <= TOLERANCE:
        raise UserError(
            f"exported model {folder} answers differently from the trainer: expected at most {TOLERANCE:.0e}, received "
            f"{difference:.1e}, so nothing was published: the transform graph of data folder {data_dir} does not give "
            "the ids of its own sample records; preprocess and train again with the installed versions"
        )
    return difference


def _trainer_answers(model: ClickModel, records: list[bytes]) -> dict[str, np.ndarray]:
    from trainer.batch import feature_spec, features_of_records

    parsed = tf.io.parse_example(tf.constant(records), feature_spec(model.schema))
    logit = model.click_logits(features_of_records(model.schema, parsed))
    return {PROBABILITY_OUTPUT: tf.sigmoid(logit).numpy(), LOGIT_OUTPUT: logit.numpy()}


def _exported_answers(version_dir: Path, data_dir: Path) -> dict[str, np.ndarray]:
    """What both signatures answer to the raw sample rows in a new process with another working directory."""
    with tempfile.TemporaryDirectory() as elsewhere:
        output = Path(elsewhere) / "answers.npz"
        command = [sys.executable, "-m", "serving.export.verify", "--model", str(version_dir.resolve()),
                   "--examples", str((data_dir / RAW_SAMPLES).resolve()), "--output", str(output)]  # fmt: skip
        packages = str(Path(__file__).resolve().parents[2])
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
    scale = {PROBABILITY_OUTPUT: 1.0, LOGIT_OUTPUT: np.maximum(1.0, np.abs(expected[LOGIT_OUTPUT]))}
    differences = [
        np.abs(exported[f"{signature}/{output}"] - values) / scale[output]
        for signature in (DEFAULT_SIGNATURE, NAMED_SIGNATURE)
        for output, values in expected.items()
    ]
    return float(np.max(differences))
