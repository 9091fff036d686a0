"""The sockets that a server listens on."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from nexus_llm.errors import ServingError

BACKLOG = 2_048  # connections that the kernel holds while we are busy; uvicorn's own default


@contextlib.contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that nobody else can have any more; port 0 takes a free one.

    Raises:
        ServingError: the port is taken or forbidden, or the host is not this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by its number: asyncio's own loop turns Nagle's algorithm off for no other socket, and a client that
    # kept its connection would get the first words 40 ms late.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        # Lets a new server follow a stopped one at once; two living ones still cannot share a port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise _explain_bind(error, host, port) from error
        yield listener


def address_of(listener: socket.socket) -> str:
    """The URL under which a socket is reached.

    >>> with bound_socket("127.0.0.1", 0) as one:
    ...     address_of(one).startswith("http://127.0.0.1:")
    True
    """
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _explain_bind(error: OSError, host: str, port: int) -> ServingError:
    if error.errno == errno.EADDRINUSE:
        return ServingError(
            f"port {port} on {host} is in use by another program", fix=f"stop it, or add: --port {port % 65_535 + 1}"
        )
    if isinstance(error, PermissionError):
        return ServingError(f"port {port} needs privileges that this user has not", fix="add: --port 8000")
    return ServingError(
        f"cannot listen on {host}:{port} ({error.strerror or error})",
        fix="use an address of this machine: --host 127.0.0.1 for itself, --host 0.0.0.0 for its network",
    )
