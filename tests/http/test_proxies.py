"""The client's address, and what a proxy can do: believed from trusted proxies only, never from clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from app.http.proxies import SENDFILE_TYPE, TrustedProxies

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "fd00::/8")


def address_behind(peer: str, forwarded: str | None, trusted: tuple[str, ...] = TRUSTED) -> str:
    """Return the address that the application behind the middleware sees."""
    seen: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        return []

    environ = {"REMOTE_ADDR": peer} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    TrustedProxies(application, trusted)(environ, lambda *_: lambda _: None)
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("10.1.2.3", "198.51.100.7", "198.51.100.7"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("10.1.2.3", "198.51.100.7, 10.9.9.9, 192.0.2.1", "198.51.100.7"),
        ("10.1.2.3", "10.4.4.4", "10.4.4.4"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "nonsense", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.7, nonsense", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.7:443", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.7,", "10.1.2.3"),
        ("", "198.51.100.7", "198.51.100.7"),
        ("", "6.6.6.6, 198.51.100.7, 10.4.4.4", "198.51.100.7"),
        ("", "6.6.6.6, 198.51.100.7,", ""),
    ],
)
def test_the_last_untrusted_address_is_the_clients(peer: str, forwarded: str | None, address: str) -> None:
    assert address_behind(peer, forwarded) == address


def test_without_trusted_proxies_the_header_says_nothing() -> None:
    assert address_behind("127.0.0.1", "198.51.100.7", ()) == "127.0.0.1"


def test_over_a_unix_socket_comes_a_proxy_of_this_host() -> None:
    assert address_behind("", "6.6.6.6, 198.51.100.7", ()) == "198.51.100.7"


@pytest.mark.parametrize(
    ("peer", "trusted", "is_believed"),
    [
        ("10.1.2.3", TRUSTED, True),
        ("fd00::1", TRUSTED, True),
        ("", (), True),
        ("203.0.113.9", TRUSTED, False),
        ("127.0.0.1", (), False),
        ("nonsense", TRUSTED, False),
    ],
    ids=["trusted", "trusted IPv6", "unix socket", "stranger", "nobody is trusted", "no address"],
)
def test_only_a_trusted_proxy_may_be_given_names_of_files(
    peer: str, trusted: tuple[str, ...], is_believed: bool
) -> None:
    seen: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(SENDFILE_TYPE in environ)
        return []

    # What the proxy says of its client's address changes nothing: it is the proxy that sends the bytes.
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "198.51.100.7", SENDFILE_TYPE: "X-Accel-Redirect"}
    TrustedProxies(application, trusted)(environ, lambda *_: lambda _: None)

    assert seen == [is_believed]
