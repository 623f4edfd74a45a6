"""The written forms of single settings: addresses, URLs, host names, secrets.

Each function judges one value by itself and says what is wrong **without repeating the value**: what
stands in the wrong place may be a secret. Rules between settings are in ``settings_rules``, the models
in ``settings``, where values come from in ``settings_sources``. Nothing here opens a file or a socket.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

DATABASE_DRIVERS = ("sqlite", "postgresql+psycopg", "mysql+pymysql")
MASK = "********"

_DRIVER_BY_MISTAKE = {
    "mariadb": "mysql+pymysql",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg2": "postgresql+psycopg",
    "sqlite3": "sqlite",
}
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_MAX_HOST_NAME_CHARACTERS = 253
_MAX_PORT = 65_535
_MAX_SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un holds 108 bytes with the closing NUL

MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key is at least as long as the hash
_MIN_SECRET_BITS = 256
_MIN_DISTINCT_CHARACTERS = 12
_REPEAT_LENGTH = 10
_SEQUENCE_LENGTH = 8
_PLACEHOLDER_WORDS = (
    "asdfgh",
    "change-me",
    "change_me",
    "changeme",
    "default",
    "example",
    "insecure",
    "letmein",
    "password",
    "photo-api",
    "photoapi",
    "placeholder",
    "qwerty",
    "replace-me",
    "replaceme",
    "secret",
)
_WORDS = re.compile(r"[A-Za-z]?[a-z]+(?:[ ._-]?[A-Za-z]?[a-z]+)*[ ._!-]?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener stands: a host and port, or a unix socket.

    Attributes:
        host: A name or IP address without brackets; empty for a unix socket.
        port: 1 to 65535; 0 for a unix socket.
        path: The unix socket's path; None for TCP.
    """

    host: str
    port: int
    path: Path | None

    def is_local(self) -> bool:
        """Return whether only this host or a private network can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return (address.is_private or address.is_loopback) and not address.is_unspecified

    def is_loopback(self) -> bool:
        """Return whether it is this host's own, which no other host can reach."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def collides_with(self, other: Address) -> bool:
        """Return whether both cannot be bound at once."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        hosts = {_canonical_host(self.host), _canonical_host(other.host)}
        return self.port == other.port and (len(hosts) == 1 or not hosts.isdisjoint({"0.0.0.0", "::"}))  # noqa: S104 - compared, not bound


def parse_address(text: str) -> Address:
    """Read ``host:port``, ``[IPv6]:port`` or ``unix:path``.

    Raises:
        ValueError: It is none of them; the message does not repeat it.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or path.startswith("//") or "\0" in path:
            raise ValueError("after unix: comes a path such as unix:var/photo-api.sock")
        if len(path.encode("utf-8", "surrogateescape")) > _MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"a unix socket's path has at most {_MAX_SOCKET_PATH_BYTES} bytes")
        return Address("", 0, Path(path))
    if "://" in text:
        raise ValueError("no scheme, only the address")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("the port is missing")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"the port is a whole number from 1 to {_MAX_PORT}")
    return Address(_bind_host(host), int(port), None)


def _bind_host(host: str) -> str:
    """Return the host of an address without brackets."""
    if not host:
        raise ValueError("the host is missing; 0.0.0.0 stands for every IPv4 interface")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            pass  # the message of the standard library repeats the value
        raise ValueError("between the brackets stands an IPv6 address")
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8000")
    if not is_host_name(host):
        raise ValueError("the host is a name or an IP address")
    return host


def _canonical_host(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host.lower()


def is_host_name(text: str) -> bool:
    """Return whether this is a DNS name or an IPv4 address (RFC 1123 section 2.1, underscores allowed)."""
    if len(text) > _MAX_HOST_NAME_CHARACTERS or not _HOST_NAME.fullmatch(text):
        return False
    if re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
    return True


def check_allowed_host(text: str) -> None:
    """Accept a host name, an IPv4 address, or ``.domain`` for a domain and all below it.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    if "*" in text:
        raise ValueError("no wildcards; .example.org stands for example.org and every name below it")
    if "/" in text or ":" in text:
        raise ValueError("host names only, without scheme, port or path")
    if not is_host_name(text.removeprefix(".")):
        raise ValueError("an entry is no host name")


def check_network(text: str) -> None:
    """Accept an IP address or a network in CIDR form that is not the whole internet.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        network = None
    if network is None:
        raise ValueError("an entry is no IP address or network such as 10.0.0.0/8 (with no host bits set)")
    if network.prefixlen == 0:
        raise ValueError("trusting every address lets any client choose its own address")


def check_ip_address(text: str) -> None:
    """Accept one IP address.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        valid = False
    else:
        valid = True
    if not valid:
        raise ValueError("it is no IPv4 or IPv6 address")


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL; None when it has none, or a port that is no port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 else parts


def check_http_url(text: str) -> None:
    """Accept ``http(s)://host[:port][/path]`` without user, query or fragment.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    parts = _split(text)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it starts with http:// or https:// and a host")
    if "@" in text:
        raise ValueError("no user name or password in it")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("no query and no fragment")
    if re.search(r"[\s\x00-\x1f\\]", text):
        raise ValueError("no spaces, backslashes or control characters")
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):
        raise ValueError("no . and no .. in its path; browsers leave them out, signatures do not")


def check_redis_url(url: str) -> None:
    """Accept ``redis://``, ``rediss://`` (TLS) with a host, or ``unix://`` with a path; no query.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    if re.search(r"[\x00-\x20\x7f]", url) or url.count("@") > 1:
        raise ValueError("spaces, @ : / ? # and % in a user name or password must be percent-encoded")
    parts = _split(url)
    if parts is None:
        raise ValueError("the port is a number from 1 to 65535")
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("it starts with redis://, rediss:// or unix://")
    if parts.query or parts.fragment:
        raise ValueError("no query and no fragment; time-outs have settings of their own")
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or parts.hostname:
            raise ValueError("after unix:// comes the absolute path of the socket")
    elif not parts.hostname or not re.fullmatch(r"/?[0-9]{0,4}", parts.path):
        raise ValueError("a host, and after it at most /number of the database")


def check_database_url(url: str) -> None:
    """Accept a URL of one of :data:`DATABASE_DRIVERS` that names a database kept on disk.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    driver, separator, rest = url.partition("://")
    if not separator:
        raise ValueError("it starts with driver://")
    if driver not in DATABASE_DRIVERS:
        meant = _DRIVER_BY_MISTAKE.get(driver.lower()) or next(
            iter(get_close_matches(driver.lower(), DATABASE_DRIVERS, n=1)), None
        )
        raise ValueError("unknown driver" + (f", did you mean {meant}://?" if meant else ""))
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError("spaces and control characters must be percent-encoded")
    if driver == "sqlite":
        _check_sqlite_url(rest)
    else:
        _check_server_url(url)


def _check_sqlite_url(rest: str) -> None:
    path, _, query = rest.partition("?")
    if path in {"", "/", "/:memory:"} or ":memory:" in rest or "mode=memory" in query:
        raise ValueError("a database in memory is lost with the process and split between workers; name a file")
    if not path.startswith("/"):
        raise ValueError("three slashes for a path in the working folder, four for an absolute one")
    if path.startswith("/file:"):
        raise ValueError("a plain path, not a file: URI")


def _check_server_url(url: str) -> None:
    if url.count("@") > 1:
        raise ValueError("@ : / ? # and % in a user name or password must be percent-encoded")
    parts = _split(url)
    if parts is None:
        raise ValueError("the port is no number, or a user name or password is not percent-encoded")
    if not parts.hostname and "host=" not in parts.query:
        raise ValueError("the host is missing")
    if not re.fullmatch(r"/[A-Za-z0-9_.$-]+", parts.path) or parts.fragment:
        raise ValueError("after the host comes /database, and every other character is percent-encoded")


def absolute_database_url(url: str, folder: Path) -> str:
    """Return the URL with a relative SQLite path made absolute under a folder; others unchanged."""
    prefix = "sqlite:///"
    if not url.startswith(prefix) or url.startswith(prefix + "/"):
        return url
    path, question_mark, query = url.removeprefix(prefix).partition("?")
    return f"{prefix}{folder / path}{question_mark}{query}"


def mask_database_url(url: str) -> str:
    """Return the URL with neither user, password nor query; entirely masked when it cannot be read surely."""
    if url.startswith("sqlite:"):
        # An @ in a file's name is rarer than a server's URL whose driver alone was changed.
        return f"sqlite:///{MASK}" if "@" in url else url.partition("?")[0]
    host = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?"
    match = re.fullmatch(rf"([a-z+]+)://(?:[^/?#@]*@)?({host})(/[A-Za-z0-9_.$-]*)(?:\?[^@]*)?", url)
    return f"{match[1]}://{MASK}@{match[2]}{match[3]}" if match else MASK


def password_in(url: str) -> str | None:
    """Return the password inside a server's URL as written, or None when there is none."""
    try:
        return urlsplit(url).password
    except ValueError:
        return None


def contains_placeholder(secret: str) -> bool:
    """Return whether a secret was never chosen: it holds a word of our examples, such as ``change-me``."""
    lowered = secret.lower()
    return any(word in lowered for word in _PLACEHOLDER_WORDS)


def secret_weakness(secret: str) -> str | None:
    """Say why a signing secret is not 32 random bytes, or None when it may be.

    It cannot prove randomness; it refuses what people type and copy. A true random secret of 43 base64
    characters or 64 hexadecimal digits is refused less than once in a million.

    Args:
        secret: The secret as written.

    Returns:
        The reason without any part of the secret.
    """
    if contains_placeholder(secret):
        return "it contains a word or an example value"
    if _WORDS.fullmatch(secret):
        return "it is made of words"
    if _estimated_bits(secret) < _MIN_SECRET_BITS:
        return "it is shorter than 32 random bytes (43 characters of base64, 64 hexadecimal digits)"
    if len(set(secret)) < _MIN_DISTINCT_CHARACTERS or _repeats(secret):
        return "it repeats itself"
    if _has_sequence(secret):
        return "it contains a run of consecutive characters"
    return None


def _estimated_bits(secret: str) -> float:
    """Return the bits that a random string of this length and these kinds of characters would hold."""
    if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", secret):
        return len(secret) * 4.0
    if re.search("[a-z]", secret) and re.search("[A-Z]", secret):
        return len(secret) * 6.0  # base64; one random text of 2000 has no digit in it
    kinds = (("[0-9]", 10), ("[A-Za-z]", 26), ("[^0-9A-Za-z]", 2))
    return len(secret) * math.log2(sum(size for kind, size in kinds if re.search(kind, secret)))


def _repeats(secret: str) -> bool:
    """Return whether the same ten characters come twice."""
    pieces = [secret[start : start + _REPEAT_LENGTH] for start in range(len(secret) - _REPEAT_LENGTH + 1)]
    return len(set(pieces)) < len(pieces)


def _has_sequence(secret: str) -> bool:
    """Return whether eight neighbours count up or down, as in 12345678."""
    steps = [ord(right) - ord(left) for left, right in itertools.pairwise(secret)]
    length = _SEQUENCE_LENGTH - 1
    return any(
        steps[start : start + length] in ([1] * length, [-1] * length) for start in range(len(steps) - length + 1)
    )
