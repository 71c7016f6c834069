"""Runs an exported SavedModel in a process of its own and writes what it answers.

    python -m serving.verify --model DIR --examples FILE --output ANSWERS.npz

Export calls this in another working directory, so that a SavedModel which needs anything outside its folder fails
before it is published. It imports neither the trainer nor the transform library.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.signatures import (
    DEFAULT_SIGNATURE,
    EXAMPLES_INPUT,
    LOGIT_OUTPUT,
    NAMED_SIGNATURE,
    PROBABILITY_OUTPUT,
    parse_raw_examples,
)


def answers(model_dir: Path, examples: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Returns `SIGNATURE/OUTPUT` -> float32 `[rows]` for each signature, with the rows and with none at all."""
    model = tf.saved_model.load(str(model_dir))
    by_examples, by_name = model.signatures[DEFAULT_SIGNATURE], model.signatures[NAMED_SIGNATURE]
    specs = by_name.structured_input_signature[1]
    found = {}
    for rows in (tf.constant([], tf.string), tf.constant(list(examples), tf.string)):
        for signature, outputs in (
            (DEFAULT_SIGNATURE, by_examples(**{EXAMPLES_INPUT: rows})),
            (NAMED_SIGNATURE, by_name(**parse_raw_examples(rows, specs))),
        ):
            for name in (PROBABILITY_OUTPUT, LOGIT_OUTPUT):
                if outputs[name].shape != rows.shape:
                    raise ValueError(f"{signature} answered {name} {outputs[name].shape} to {rows.shape[0]} rows")
                found[f"{signature}/{name}"] = outputs[name].numpy()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.verify", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the SavedModel")
    parser.add_argument("--examples", type=Path, required=True, help="TFRecord of serialized raw tf.Examples")
    parser.add_argument("--output", type=Path, required=True, help="npz file to write")
    arguments = parser.parse_args(argv)
    examples = list(tf.data.TFRecordDataset(str(arguments.examples)).as_numpy_iterator())
    np.savez(arguments.output, **answers(arguments.model, examples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
