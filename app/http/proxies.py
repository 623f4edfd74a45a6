"""The client's real address behind proxies that are trusted, and only behind those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class TrustedProxies:
    """WSGI middleware: replaces ``REMOTE_ADDR`` by the last address in ``X-Forwarded-For`` that is no trusted proxy.

    The list is read from its end: what a client wrote into the header itself stands before the address that
    the first trusted proxy saw, and is never reached. A peer without an address came over a unix socket: only who may
    open that file gets there, so it is a proxy of this host and believed.

    Args:
        application: What answers.
        networks: Addresses of the proxies, CIDR.
    """

    def __init__(self, application: WSGIApplication, networks: Sequence[str]) -> None:
        self._application = application
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        forwarded = environ.get("HTTP_X_FORWARDED_FOR")
        peer = environ.get("REMOTE_ADDR", "")
        if forwarded and (self._networks or not peer):
            environ["REMOTE_ADDR"] = self._client(peer, forwarded.split(","))
        return self._application(environ, start_response)

    def _client(self, address: str, hops: list[str]) -> str:
        for hop in reversed(hops):
            if not self._is_trusted(address) or _parsed(hop) is None:
                break
            address = hop.strip()
        return address

    def _is_trusted(self, address: str) -> bool:
        if not address:
            return True
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address.strip())
    except ValueError:
        return None
