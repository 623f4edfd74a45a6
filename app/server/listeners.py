"""The sockets that a server listens on: whose each of them is, opened or taken over.

::

    public listener       the workers, and no other process
    management listener   the management process, and no other

Which is which is told by the address a socket is bound to, so it does not matter in what order they come: from a
server that is being replaced (SIGUSR2) or from systemd, which may hold both, one or none of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gunicorn import sock, systemd
from gunicorn.config import Config

from app.settings_forms import parse_address

DESCRIPTORS_VARIABLE: Final = "GUNICORN_FD"
"""Names the descriptors that a server hands to the one that replaces it."""

ACTIVATED_VARIABLE: Final = "PHOTO_SYSTEMD_SOCKETS"
"""Set in the replacing server when systemd holds the sockets: their files are not the server's to remove."""

_KINDS: Final = {
    socket.AF_INET: sock.TCPSocket,
    socket.AF_INET6: sock.TCP6Socket,
    socket.AF_UNIX: sock.UnixSocket,
}
_FOR_US_ALONE: Final = 0o177  # a unix socket of operators is for the server's user, the public one for its proxy
_ANY_HOST = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104  # recognised, not bound


@dataclass(frozen=True, slots=True)
class Listeners:
    """What a server listens on; gunicorn's sockets, whose descriptors outlive an ``exec``.

    Attributes:
        public: Where clients come in; at least one.
        management: Where operators come in; at least one.
        is_activated: Whether systemd has made any of them.
    """

    public: tuple[Any, ...]
    management: tuple[Any, ...]
    is_activated: bool

    @property
    def all(self) -> tuple[Any, ...]:
        """All of them, public ones first."""
        return (*self.public, *self.management)


def open_listeners(
    bind: str, management_bind: str, log: Any, environ: MutableMapping[str, str], *, replaces: bool
) -> Listeners:
    """Take over what is there already, and open what is missing.

    Args:
        bind: Of the public listener: ``host:port``, ``[v6]:port`` or ``unix:path``.
        management_bind: Of the management listener.
        log: Gunicorn's logger.
        environ: Where what is there is named, by systemd or by the server before; no longer afterwards.
        replaces: Whether this server replaces one that runs.

    Raises:
        SystemExit: An address cannot be had, which the log says.
    """
    count = systemd.listen_fds()
    if count:
        given = list(range(systemd.SD_LISTEN_FDS_START, systemd.SD_LISTEN_FDS_START + count))
        is_activated = True
    else:
        named = environ.pop(DESCRIPTORS_VARIABLE, "") if replaces else ""
        given = [int(number) for number in named.split(",") if number]
        is_activated = environ.pop(ACTIVATED_VARIABLE, "") == "1"
    taken = [_taken_over(descriptor, log) for descriptor in given]
    address = ListenerAddress(management_bind)
    management = [listener for listener in taken if address.matches(listener.getsockname())]
    public = [listener for listener in taken if listener not in management]
    return Listeners(
        tuple(public or sock.create_sockets(_listening_on([bind]), log)),
        tuple(management or sock.create_sockets(_listening_on([management_bind], _FOR_US_ALONE), log)),
        is_activated,
    )


def handed_on(listeners: Listeners) -> Mapping[str, str]:
    """Return the variables by which the next server takes them over."""
    activated = {ACTIVATED_VARIABLE: "1"} if listeners.is_activated else {}
    return {DESCRIPTORS_VARIABLE: ",".join(str(each.fileno()) for each in listeners.all), **activated}


def close_listeners(listeners: Iterable[Any], *, unlink: bool) -> None:
    """Close sockets of this process.

    Args:
        listeners: Gunicorn's.
        unlink: Whether the files of unix sockets go, too: nobody else listens on them.
    """
    sock.close_sockets([listener for listener in listeners if listener.sock is not None], unlink)


def _taken_over(descriptor: int, log: Any) -> Any:
    with socket.socket(fileno=os.dup(descriptor)) as look:
        kind = _KINDS[look.family]
        name = look.getsockname()
    return kind(name, _listening_on([]), log, fd=descriptor)


def _listening_on(binds: Sequence[str], umask: int = 0) -> Config:
    configuration = Config()
    configuration.set("bind", list(binds))
    configuration.set("umask", umask)
    return configuration


class ListenerAddress:
    """An address to bind to, comparable with what ``getsockname`` says.

    Args:
        bind: ``host:port``, ``[v6]:port`` or ``unix:path``.
        resolve: Finds the addresses of a host's name.
    """

    def __init__(self, bind: str, resolve: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        address = parse_address(bind)
        self._path = None if address.path is None else str(address.path)
        self._port = address.port
        self._hosts: frozenset[str] | None = None
        if self._path is None and address.host not in _ANY_HOST:
            self._hosts = frozenset(_plain(str(found[4][0])) for found in resolve(address.host, address.port))

    def matches(self, name: Any) -> bool:
        """Tell whether a socket of this name is bound here.

        Args:
            name: What ``getsockname`` has returned.
        """
        if not isinstance(name, tuple):
            return self._path is not None and os.fsdecode(name) == self._path
        host, port = name[0], name[1]
        if self._path is not None or port != self._port:
            return False
        return self._hosts is None or _plain(host) in self._hosts


def _plain(host: str) -> str:
    # A dual-stack socket shows IPv4 addresses in IPv6 clothes; a link-local address carries its interface.
    return host.removeprefix("::ffff:").partition("%")[0]
