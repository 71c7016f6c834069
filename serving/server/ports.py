"""Whether a server can have the ports that it is told to listen on, asked before it spends minutes and memory on loading."""

import socket

from preprocessing.errors import UserError


def require_free(host: str, port: int, flag: str) -> None:
    """Takes a port for a moment, with the same options as the server will.

    Args:
      host: name or address; one of its addresses is enough, as for gRPC.
      port: 0: any, which can always be had.
      flag: the flag that gave the port, for the message.

    Raises:
      UserError: the host is not this machine's, or the port is in use.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise port_error(host, port, flag) from error
    if not any(_is_free(family, address) for family, _, _, _, address in addresses):
        raise port_error(host, port, flag)


def _is_free(family: socket.AddressFamily, address: tuple) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the server before may still linger
            probe.bind(address)
    except OSError:
        return False
    return True


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def port_error(host: str, port: int, flag: str) -> UserError:
    return UserError(
        f"cannot listen on {bracketed(host)}:{port}: the port is in use or the address is not this machine's; choose another {flag}, "
        f"or {flag} 0 for a free one"
    )
