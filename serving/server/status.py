"""Failures that have a gRPC status, the same as TensorFlow Serving's for the same mistake."""

import bisect
import itertools
from collections.abc import Iterable

import grpc

CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
MAX_DETAILS = 4000  # bytes on the wire; with more than 8 KiB of metadata a client sees another error, whose code means overload


class StatusError(Exception):
    """A request or a load that failed, with the gRPC status to report."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.FAILED_PRECONDITION, message)


def sendable(details: str) -> str:
    """The beginning of a call's details, as much of it as takes MAX_DETAILS bytes when gRPC has percent-encoded it."""
    ends = list(itertools.accumulate(map(_sent_bytes, details[:MAX_DETAILS])))
    return details[: bisect.bisect_right(ends, MAX_DETAILS)]


def _sent_bytes(letter: str) -> int:
    return 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode(errors="surrogatepass"))


def braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
