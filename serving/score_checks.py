"""What is checked before a file is scored, whether a server scores it or a SavedModel without one."""

from collections.abc import Mapping, Sequence

from preprocessing.errors import UserError
from preprocessing.sources import Layout


def require_csv_outputs(ranks: Mapping[str, int], instead: str) -> None:
    """Refuses a signature of which CSV cannot hold the answers.

    Args:
      ranks: output -> number of its dimensions, the batch's included.
      instead: what to do instead, for the message.

    Raises:
      UserError: an output has other than one value a row.
    """
    if several := sorted(name for name, rank in ranks.items() if rank != 1):
        raise UserError(f"the signature answers several values a row in {several}, which CSV cannot hold: {instead}")


def has_header(layout: Layout, path: str) -> bool:
    """Whether a file says once which columns all of its rows have; rows of libsvm or TFRecord may lack some."""
    return layout.format_of(path) in ("csv", "parquet")


def absent_and_repeated(names: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The wanted columns that are not among a file's, and those that are there more than once."""
    return [name for name in wanted if name not in names], [name for name in wanted if names.count(name) > 1]
