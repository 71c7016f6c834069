"""What a client makes of calls that fail: which are tried again, and what to do about the others."""

import grpc
from tenacity import retry_if_exception, stop_before_delay, wait_random_exponential

from preprocessing.errors import UserError
from serving.client.connection import Tls

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 2.0
_LAST_ATTEMPT = 0.9  # of the deadline
_TOO_LARGE = "larger than max"
_TOO_MANY_WORDS = "metadata size exceeds"
_NO_HANDSHAKE = "handshake failed"
_NOT_GRPC = "failed parsing http/2"
_UNEQUAL_LISTS = "padding is turned off"

Code = grpc.StatusCode


class PredictError(UserError):
    """A call that the server refused or did not answer.

    Attributes:
      code: the gRPC status code.
    """

    def __init__(self, message: str, code: grpc.StatusCode):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> PredictError:
    return PredictError(message, Code.INVALID_ARGUMENT)


def may_be_repeated(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later. A prediction changes nothing, so asking twice is harmless.

    UNAVAILABLE: no server took the call, or its queue is full; RESOURCE_EXHAUSTED: it is overloaded. Final are a message
    beyond its limits, a refusal in more words than gRPC takes, a failed TLS handshake, and an answer that is not gRPC, which come
    with the same codes.
    """
    if not isinstance(error, grpc.RpcError) or error.code() not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        return False
    details = (error.details() or "").lower()
    return not any(final in details for final in (_TOO_LARGE, _TOO_MANY_WORDS, _NO_HANDSHAKE, _NOT_GRPC))


def retry_policy(deadline: float) -> dict:
    """Arguments of tenacity's `Retrying` and `AsyncRetrying`.

    The n-th wait is drawn from [0, 0.1 * 2^(n-1)] s, at most 2 s, so that clients of a restarted server do not come back
    all at once. No attempt begins in the last tenth of `deadline` seconds, so that the last one has time to fail by itself.
    """
    return {
        "retry": retry_if_exception(may_be_repeated),
        "stop": stop_before_delay(_LAST_ATTEMPT * deadline),
        "reraise": True,
        "wait": wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
    }


def advice(error: grpc.RpcError, deadline: float, tls: Tls | None) -> str:
    """What a failed call means, and what to do. A server that misses a client's certificate only closes the connection."""
    code, details = error.code(), (error.details() or "").lower()
    or_tls = "; a server that wants TLS needs --tls or --tls_ca"
    if tls:
        or_tls = "" if tls.cert else "; a server that admits known clients only needs --tls_cert and --tls_key"
    if _TOO_LARGE in details:
        return "the request or its answer is larger than the server takes: send fewer rows a call (chunk_rows)"
    if _TOO_MANY_WORDS in details:
        return (
            "the server refused the call in more words than gRPC takes: compare the inputs with the signature that GetModelMetadata "
            "tells, or send the same rows by REST to read what it says"
        )
    if _NO_HANDSHAKE in details:
        return (
            "the TLS handshake failed: give the certificate of the authority that signed the server's (--tls_ca), the host "
            "name that stands in it, and the client's certificate if the server asks for one (--tls_cert, --tls_key)"
        )
    if _NOT_GRPC in details:
        return (
            "what answers there does not speak gRPC like this: give the server's gRPC port (usually 8500; 8501 is REST)"
            + or_tls
        )
    if _UNEQUAL_LISTS in details:
        return (
            "the server joins calls into batches, and lists of different length do not fit into one: set its "
            "pad_variable_length_inputs, which the lists of this client allow, or turn its batching off for this model"
        )
    if code == Code.INVALID_ARGUMENT and "version label" in details:
        return "no version there carries that label: set it on the server, or correct the label"
    return {
        Code.UNAVAILABLE: "no server answers there: start one with `python -m serving.server`, or correct HOST:PORT"
        + or_tls,
        Code.NOT_FOUND: "the server does not serve that model or version: correct the model's name or the version",
        Code.DEADLINE_EXCEEDED: f"no answer within {deadline:g} s: raise the deadline or send fewer rows a call",
        Code.RESOURCE_EXHAUSTED: "the server is overloaded: send fewer calls at once, or try again later",
        Code.INVALID_ARGUMENT: "the server refused the inputs: compare them with the signature that GetModelMetadata tells",
        Code.FAILED_PRECONDITION: "that version has no such signature, or cannot answer it: choose another one",
        Code.UNIMPLEMENTED: "what answers there is not TensorFlow Serving's gRPC protocol: correct HOST:PORT",
    }.get(code, "the server refused the call")
