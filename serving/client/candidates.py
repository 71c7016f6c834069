"""One user's features sent once for many candidates: tensors of the signature `candidates`, and its answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.calls import AskedModel
from serving.client.columns import Signature, as_arrays, chunks
from serving.client.refusals import invalid
from serving.signatures import CANDIDATE_COUNT_INPUT, SHARED_FIELDS_INPUT


def candidate_chunks(shared: Mapping[str, Any], candidates: Mapping[str, Sequence], signature: Signature, asked: AskedModel,
                     rows: int) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
    """The inputs of the calls that score all candidates, `rows` of them a call.

    Args:
      shared: one value a field that all candidates share.
      candidates: one sequence a field that differs, all of one length.

    Raises:
      PredictError: as `as_arrays`; a field is in both, or no field differs.
    """
    if both := sorted(set(shared) & set(candidates)):
        raise invalid(f"the fields {both} are given as shared and by candidate: leave them out of one of them")
    if not candidates:
        raise invalid("no field differs between the candidates: give at least one sequence in `candidates`")
    extra = (CANDIDATE_COUNT_INPUT, SHARED_FIELDS_INPUT)
    fields = {name: spec for name, spec in signature.inner_inputs.items() if name not in extra}
    one = {name: [value] for name, value in shared.items()}
    _check_names(one, candidates, fields, asked)
    of_user = as_arrays(one, {name: fields[name] for name in one}, asked) if one else {}
    of_candidates = as_arrays(candidates, {name: fields[name] for name in candidates}, asked)
    for chunk in chunks(of_candidates, rows):
        count = len(next(iter(chunk.values())))
        yield {
            **{name: array[None] for name, array in (of_user | chunk).items()},
            CANDIDATE_COUNT_INPUT: np.array([count]), SHARED_FIELDS_INPUT: np.array([",".join(of_user)], object),
        }  # fmt: skip


def _check_names(shared: Mapping, candidates: Mapping, fields: Mapping, asked: AskedModel) -> None:
    given = {*shared, *candidates}
    if given != set(fields):
        raise invalid(
            f"{asked} takes the fields {sorted(fields)}, shared or by candidate: missing {sorted(set(fields) - given)}, "
            f"not known {sorted(given - set(fields))}"
        )


def of_one_request(outputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The answers for the candidates of the one request, `[count]`: a server that batches may fill them up."""
    return {name: output[0, :count] for name, output in outputs.items()}
