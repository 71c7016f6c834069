"""Runs an exported SavedModel in a process of its own and writes what it answers.

    python -m serving.export.verify --model DIR --examples FILE --output ANSWERS.npz

Export calls this in another working directory, so that a SavedModel which needs anything outside its folder fails
before it is published. It imports neither the trainer nor the transform library.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.signatures import (
    CANDIDATE_COUNT_INPUT,
    CANDIDATES_SIGNATURE,
    CLASSES,
    CLASSES_OUTPUT,
    CLASSIFY_INPUT,
    CLASSIFY_SIGNATURE,
    CONTRIBUTION_OUTPUT,
    DEFAULT_SIGNATURE,
    EXAMPLES_INPUT,
    EXPLAIN_SIGNATURE,
    FIELD_OUTPUT,
    LOGIT_OUTPUT,
    NAMED_SIGNATURE,
    PROBABILITY_OUTPUT,
    REGRESS_INPUT,
    REGRESS_OUTPUT,
    REGRESS_SIGNATURE,
    SCORES_OUTPUT,
    SHARED_FIELDS_INPUT,
    is_list,
    parse_raw_examples,
)

TOLERANCE = 1e-5  # of a probability, and of a logit divided by max(1, |logit|)
EXPLAINED_ROWS = 20  # each costs as much as a prediction of as many rows as there are fields
FILLED_UP = 3  # empty texts before and behind each list

Answers = dict[str, np.ndarray]


def answers(model_dir: Path, examples: Sequence[bytes]) -> Answers:
    """Asks every signature of a SavedModel, with the rows and with none at all.

    Returns:
      `SIGNATURE/OUTPUT` -> float32 `[rows]`, of the signatures `serving_default` and `predict`.

    Raises:
      ValueError: a signature answers in other shapes than it should, or another probability than `predict` does.
    """
    model = tf.saved_model.load(str(model_dir))
    specs = model.signatures[NAMED_SIGNATURE].structured_input_signature[1]
    found: Answers = {}
    for rows in (tf.constant([], tf.string), tf.constant(list(examples), tf.string)):
        found = _predictions(model.signatures, rows, specs)
        for signature, probabilities in _other_probabilities(model.signatures, rows, specs):
            _require_equal(signature, probabilities, found[f"{NAMED_SIGNATURE}/{PROBABILITY_OUTPUT}"][:len(probabilities)])
    return found


def _predictions(signatures: Mapping[str, Callable], rows: tf.Tensor, specs: Mapping[str, tf.TensorSpec]) -> Answers:
    by_signature = {
        DEFAULT_SIGNATURE: signatures[DEFAULT_SIGNATURE](**{EXAMPLES_INPUT: rows}),
        NAMED_SIGNATURE: signatures[NAMED_SIGNATURE](**parse_raw_examples(rows, specs)),
    }
    for signature, outputs in by_signature.items():
        for name in (PROBABILITY_OUTPUT, LOGIT_OUTPUT):
            _require_shape(signature, name, outputs[name], rows.shape)
    return {
        f"{signature}/{name}": values.numpy() for signature, outputs in by_signature.items() for name, values in outputs.items()
    }


def _other_probabilities(signatures: Mapping[str, Callable], rows: tf.Tensor,
                         specs: Mapping[str, tf.TensorSpec]) -> Iterator[tuple[str, np.ndarray]]:
    """What the other signatures say is the probability of a click, for all rows or the first ones."""
    named, count = parse_raw_examples(rows, specs), rows.shape[0]
    blanks = [[0, 0], [FILLED_UP, FILLED_UP]]
    filled_up = {name: tf.pad(x, blanks, constant_values="") if is_list(x) else x for name, x in named.items()}
    yield f"{NAMED_SIGNATURE} of lists filled up", signatures[NAMED_SIGNATURE](**filled_up)[PROBABILITY_OUTPUT].numpy()
    classified = signatures[CLASSIFY_SIGNATURE](**{CLASSIFY_INPUT: rows})
    _require_shape(CLASSIFY_SIGNATURE, CLASSES_OUTPUT, classified[CLASSES_OUTPUT], [count, len(CLASSES)])
    yield CLASSIFY_SIGNATURE, classified[SCORES_OUTPUT].numpy()[:, 1]
    yield REGRESS_SIGNATURE, signatures[REGRESS_SIGNATURE](**{REGRESS_INPUT: rows})[REGRESS_OUTPUT].numpy()
    yield CANDIDATES_SIGNATURE, _of_one_request(signatures[CANDIDATES_SIGNATURE], named, count)
    if EXPLAIN_SIGNATURE in signatures:
        explained = signatures[EXPLAIN_SIGNATURE](**{name: x[:EXPLAINED_ROWS] for name, x in named.items()})
        _require_shape(EXPLAIN_SIGNATURE, FIELD_OUTPUT, explained[FIELD_OUTPUT], explained[CONTRIBUTION_OUTPUT].shape)
        yield EXPLAIN_SIGNATURE, explained[PROBABILITY_OUTPUT].numpy()


def _of_one_request(score: Callable, named: Mapping[str, tf.Tensor], count: int) -> np.ndarray:
    """Rows as the candidates of one request, which share nothing."""
    request = {name: x[tf.newaxis] for name, x in named.items()}
    outputs = score(**request, **{CANDIDATE_COUNT_INPUT: tf.constant([count], tf.int64), SHARED_FIELDS_INPUT: tf.constant([""])})
    _require_shape(CANDIDATES_SIGNATURE, PROBABILITY_OUTPUT, outputs[PROBABILITY_OUTPUT], [1, count])
    return outputs[PROBABILITY_OUTPUT].numpy()[0]


def _require_shape(signature: str, name: str, output: tf.Tensor, expected: Sequence[int]) -> None:
    if output.shape != expected:
        raise ValueError(f"{signature} answered {name} of shape {output.shape} where {tf.TensorShape(expected)} was expected")


def _require_equal(signature: str, probabilities: np.ndarray, expected: np.ndarray) -> None:
    if not np.all(np.abs(probabilities - expected) <= TOLERANCE):
        raise ValueError(
            f"{signature} answers other probabilities than {NAMED_SIGNATURE} to the same rows: the largest difference is "
            f"{np.max(np.abs(probabilities - expected)):.1e}, expected at most {TOLERANCE:.0e}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.export.verify", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the SavedModel")
    parser.add_argument("--examples", type=Path, required=True, help="TFRecord of serialized raw tf.Examples")
    parser.add_argument("--output", type=Path, required=True, help="npz file to write")
    arguments = parser.parse_args(argv)
    examples = list(tf.data.TFRecordDataset(str(arguments.examples)).as_numpy_iterator())
    np.savez(arguments.output, **answers(arguments.model, examples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
