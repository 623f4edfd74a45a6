"""What proxies say, believed of those that are trusted: the client's real address, and that nginx can send files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SENDFILE_TYPE: Final = "HTTP_X_SENDFILE_TYPE"
"""Where WSGI has ``X-Sendfile-Type``: by which header the proxy takes the name of what it is to send itself."""


class TrustedProxies:
    """WSGI middleware: replaces ``REMOTE_ADDR`` by the last address in ``X-Forwarded-For`` that is no trusted proxy.

    ``X-Sendfile-Type`` of anyone but a trusted proxy is removed: who sends it gets the name of a file instead of its
    bytes. A trusted proxy sends its own or none, whatever its client has sent.

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
        if SENDFILE_TYPE in environ and not self._is_trusted(peer):
            del environ[SENDFILE_TYPE]
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
