"""Two listeners, one gunicorn: which application answers is decided by the address a client connected to.

::

    public listener       probe paths ──► operations application
                          all others  ──► the product
    management listener   everything  ──► operations application

Metrics and details are therefore a plain 404 on the public listener: that application has no such route. A
request whose listener cannot be told is public.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LISTENER_KEY: Final = "photo_api.listener"
"""Names the listener (``public``, ``management``) where there is no gunicorn socket, as in tests."""

PUBLIC: Final = "public"
MANAGEMENT: Final = "management"

_SOCKET_KEY = "gunicorn.socket"
_ANY_HOST = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104  # recognised, not bound


class ListenerSplit:
    """WSGI application that hands a request to one of two others.

    Args:
        public: The product.
        operations: Health, details, metrics.
        management_bind: ``host:port``, ``[v6]:port`` or ``unix:path``, as gunicorn was given it.
        probe_paths: What ``operations`` answers on the public listener too.
    """

    def __init__(
        self,
        public: WSGIApplication,
        operations: WSGIApplication,
        *,
        management_bind: str,
        probe_paths: Collection[str],
    ) -> None:
        self._public = public
        self._operations = operations
        self._management = _Address(management_bind)
        self._probe_paths = frozenset(probe_paths)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ.get("PATH_INFO") in self._probe_paths or self.listener_of(environ) == MANAGEMENT:
            return self._operations(environ, start_response)
        return self._public(environ, start_response)

    def listener_of(self, environ: WSGIEnvironment) -> str:
        """Return ``management`` or ``public``."""
        connection = environ.get(_SOCKET_KEY)
        if connection is None:
            return MANAGEMENT if environ.get(LISTENER_KEY) == MANAGEMENT else PUBLIC
        try:
            name = connection.getsockname()
        except OSError:  # the client is gone and the socket with it
            return PUBLIC
        return MANAGEMENT if self._management.matches(name) else PUBLIC


class _Address:
    """An address to bind to, comparable with what ``getsockname`` says of an accepted connection."""

    def __init__(self, bind: str) -> None:
        self._path: str | None = None
        self._port = 0
        self._hosts: frozenset[str] | None = None
        if bind.startswith("unix:"):
            self._path = bind.removeprefix("unix:")
            return
        host, _, port = bind.rpartition(":")
        host = host.strip("[]")
        self._port = int(port)
        if host not in _ANY_HOST:
            self._hosts = frozenset(_plain(str(found[4][0])) for found in socket.getaddrinfo(host, self._port))

    def matches(self, name: Any) -> bool:
        if not isinstance(name, tuple):
            text = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
            return self._path is not None and text == self._path
        host, port = name[0], name[1]
        if self._path is not None or port != self._port:
            return False
        return self._hosts is None or _plain(host) in self._hosts


def _plain(host: str) -> str:
    # A dual-stack socket shows IPv4 peers in IPv6 clothes; a link-local address carries its interface.
    return host.removeprefix("::ffff:").partition("%")[0]
