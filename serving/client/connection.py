"""Connections to a server of TensorFlow Serving's gRPC protocol, plain or with TLS."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from preprocessing.errors import UserError

MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),  # by default 4 MB
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default of two minutes would outlast any wait for a starting server
    ("grpc.enable_retries", 0),  # the client's own retries know which refusals are final
]


@dataclass(frozen=True)
class Tls:
    """What a connection with TLS needs, as paths of PEM files.

    Attributes:
      ca: the certificates of the authorities that may have signed the server's; None: the public ones that gRPC knows.
      cert, key: the client's own certificate chain and private key, for a server that asks for them (mutual TLS); both or
        neither.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            given, absent = ("--tls_cert", "--tls_key") if self.cert else ("--tls_key", "--tls_cert")
            raise UserError(
                f"{given} was given without {absent}: a client's certificate needs its private key, so give both or neither"
            )

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(_pem("--tls_ca", self.ca), _pem("--tls_key", self.key), _pem("--tls_cert", self.cert))


def _pem(flag: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be read ({error.strerror}): give the path of a PEM file") from error
    if b"-----BEGIN " not in content:
        raise UserError(
            f"{flag} {path} is not a PEM file: expected text with a line `-----BEGIN ...-----`; convert it, for example "
            "with `openssl x509 -inform der`, or give another file"
        )
    return content


def open_channel(server: str, tls: Tls | None) -> grpc.Channel:
    """A connection to HOST:PORT for threads; without `tls` it is not encrypted. It connects when it is first used."""
    if tls is None:
        return grpc.insecure_channel(server, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(server, tls.credentials(), options=CHANNEL_OPTIONS)


def open_aio_channel(server: str, tls: Tls | None) -> grpc.aio.Channel:
    """As `open_channel`, for the event loop that is running."""
    if tls is None:
        return grpc.aio.insecure_channel(server, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(server, tls.credentials(), options=CHANNEL_OPTIONS)
