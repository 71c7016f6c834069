"""Failures that have a gRPC status, the same as TensorFlow Serving's for the same mistake."""

from collections.abc import Iterable

import grpc

CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


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


def braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
