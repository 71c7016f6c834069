"""TLS for both ports of a server, from PEM files."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from preprocessing.errors import UserError


@dataclass(frozen=True)
class Tls:
    """A server's certificate, and whose clients it admits.

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
        """For the REST port.

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

    def credentials(self) -> grpc.ServerCredentials:
        """For the gRPC port. Raises UserError as `ssl_context` does, which checks the files."""
        self.ssl_context()
        authority = self.client_authority.read_bytes() if self.client_authority else None
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=authority is not None)

    def _files(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_authority) if path]


def _refuse_passphrase() -> bytes:
    raise ssl.SSLError("the key is encrypted")
