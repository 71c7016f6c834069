"""Requests of the benchmark: PredictRequests in files, `SIGNATURE-ROWS-NUMBER.pb`, the same rows for each signature.

The rows of a request are candidates of one user: the fields of `user_fields` are the same in all of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.serving.rows import Columns, candidates_of_one_user, columns_of, serialized_examples, user_fields
from benchmarks.speed.log import draw_rows
from preprocessing.files import replaced_file

REQUESTS = 8  # of each form and size, so that no cache is warmer than in real life
LAST_FORM = "serving_default"  # is written after the others


def are_written(folder: Path, sizes: Sequence[int]) -> bool:
    return all(request_path(folder, LAST_FORM, rows, REQUESTS - 1).is_file() for rows in sizes)


def write_requests(folder: Path, values: Sequence[int], sizes: Sequence[int]) -> None:
    """Writes the requests of sizes that are not there yet."""
    folder.mkdir(exist_ok=True)
    for rows in sizes:
        for number in range(REQUESTS):
            ids, _ = draw_rows(values, rows, seed=100 + number)
            columns = columns_of(candidates_of_one_user(ids))
            for signature, inputs in _forms(columns, rows).items():
                path = request_path(folder, signature, rows, number)
                if not path.is_file():
                    with replaced_file(path) as temporary:
                        temporary.write_bytes(_request(signature, inputs))


def _forms(columns: Columns, rows: int) -> dict[str, Columns]:
    """The inputs of each signature that is measured."""
    from serving import signatures

    shared = user_fields(list(columns))
    of_user_once = {name: (column[:1] if name in shared else column)[np.newaxis] for name, column in columns.items()}
    count, names = np.array([rows], np.int64), np.array([",".join(shared)], object)
    return {
        signatures.NAMED_SIGNATURE: columns,
        signatures.CANDIDATES_SIGNATURE: {
            **of_user_once, signatures.CANDIDATE_COUNT_INPUT: count, signatures.SHARED_FIELDS_INPUT: names},
        signatures.DEFAULT_SIGNATURE: {signatures.EXAMPLES_INPUT: np.array(serialized_examples(columns), object)},
    }


def request_path(folder: Path, signature: str, rows: int, number: int) -> Path:
    return folder / f"{signature}-{rows}-{number}.pb"


def address(requests: Path, folder: Path, name: str) -> Path:
    """Writes all requests with the name that a server knows the model by into `folder`, and returns it."""
    from tensorflow_serving.apis import predict_pb2

    folder.mkdir(parents=True, exist_ok=True)
    for path in requests.glob("*.pb"):
        request = predict_pb2.PredictRequest.FromString(path.read_bytes())
        request.model_spec.name = name
        (folder / path.name).write_bytes(request.SerializeToString())
    return folder


def _request(signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return request.SerializeToString()
