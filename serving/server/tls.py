"""TLS for both ports of a server, from PEM files, which may be renewed while it runs."""

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from preprocessing.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerTls:
    """The files of a server's certificate, and whose clients it admits.

    Attributes:
      certificate: PEM file, the server's own certificate first, then those of intermediate authorities.
      key: PEM file of its private key, without a passphrase.
      client_authority: PEM file of the authorities that sign clients' certificates; a client without one is refused. None:
        clients need no certificate.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """What the files say now.

        Raises:
          UserError: a file is absent or no PEM, or key and certificate do not belong together.
        """
        for path in self._files():
            if not path.is_file():
                raise UserError(f"the TLS file {path} does not exist: give PEM files that this user can read")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_refuse_passphrase)
            if self.client_authority:
                context.load_verify_locations(self.client_authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as error:
            raise UserError(
                f"the TLS files {', '.join(map(str, self._files()))} cannot be used ({error}): expected PEM files, --tls_key being the private key of "
                "--tls_cert, without a passphrase"
            ) from error
        return context

    def grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        """The same for gRPC, unchecked. Raises OSError where a file cannot be read."""
        authority = self.client_authority.read_bytes() if self.client_authority else None
        return grpc.ssl_server_certificate_configuration([(self.key.read_bytes(), self.certificate.read_bytes())], authority)

    def stamp(self) -> tuple:
        """Equal as long as the files are the same, content and permissions."""
        return tuple(_stamp(path) for path in self._files())

    def _files(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_authority) if path]


class Certificates:
    """What new connections to a server are shown. Renewed files are used from the next connection on.

    Files that do not fit together, since one of them is still being written, say, leave what was before in use.

    Args:
      tls: the files.

    Raises:
      UserError: as `ServerTls.ssl_context`.
    """

    def __init__(self, tls: ServerTls):
        self._tls = tls
        self._lock = threading.Lock()  # one look at a time
        self._stamp = tls.stamp()
        self._context, self._configuration = tls.ssl_context(), tls.grpc_configuration()
        self._known_to_grpc = self._configuration

    def ssl_context(self) -> ssl.SSLContext:
        """For a new connection to the REST port."""
        with self._lock:
            self._look()
            return self._context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC port, for good."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._renewed, require_client_authentication=self._tls.client_authority is not None
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at each connection; None: nothing has changed."""
        with self._lock:
            self._look()
            if self._configuration is self._known_to_grpc:
                return None
            self._known_to_grpc = self._configuration
            return self._configuration

    def _look(self) -> None:
        stamp = self._tls.stamp()
        if stamp == self._stamp:
            return
        try:
            context, configuration = self._tls.ssl_context(), self._tls.grpc_configuration()
        except (UserError, OSError) as error:
            log.error("TLS: renewed files are not used, new connections get the certificate from before: %s", error)
        else:
            if self._tls.stamp() != stamp:
                return  # replaced while they were read, perhaps only in part: the next connection looks again
            self._context, self._configuration = context, configuration
            log.info("TLS: new connections get the renewed certificate %s", self._tls.certificate)
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _refuse_passphrase() -> bytes:
    raise ssl.SSLError("the key is encrypted")
