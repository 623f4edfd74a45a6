"""Access tokens: JWTs after RFC 9068 and RFC 8725, made and judged here only.

Everything about a token is pinned: header members, type, algorithm, issuer, audience, required claims. What the
signature does not cover (is the account still open, the session not ended?) is judged in
:mod:`app.accounts.authentication`. Refresh tokens are no JWTs: see :mod:`app.accounts.refresh_tokens`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import jwt
from cachetools import LRUCache

from app.accounts.keyring import JWT, KeyRings
from app.accounts.scopes import granted_scopes
from app.db.base import utc_now
from app.errors import InvalidTokenError

LEEWAY_SECONDS = 30

_ALGORITHM = "HS256"
_TYPE = "at+jwt"
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})  # so that jwk, jku, x5u, crit, zip are all refused
_ISSUER = "urn:photo-api"
_AUDIENCE = "urn:photo-api:api"
_CLAIMS = ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid", "scope", "tv"]
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TOKEN_CHARACTERS_MAX = 4096
_REMEMBERED_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What an access token says.

    Attributes:
        user_id: Whose it is.
        session_id: The login it came from.
        scopes: What it may do.
        token_version: The user's at the time of issue.
        not_before: From when on it holds, in seconds of the epoch.
        expires_at: Until when, likewise.
    """

    user_id: UUID
    session_id: UUID
    scopes: frozenset[str]
    token_version: int
    not_before: int
    expires_at: int


class AccessTokens:
    """Issues and reads access tokens. Thread-safe.

    A token whose signature was checked is remembered by its hash, with its key: the next time only its times and
    its key's retirement are judged.

    Args:
        rings: The keys.
        lifetime_seconds: How long a token holds.
        now: The wall clock.
    """

    def __init__(self, rings: KeyRings, lifetime_seconds: int, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._rings = rings
        self.lifetime_seconds = lifetime_seconds
        self._now = now
        self._verified: LRUCache[bytes, tuple[str, AccessClaims]] = LRUCache(_REMEMBERED_TOKENS)
        self._verified_lock = threading.Lock()

    def issue(self, user_id: UUID, session_id: UUID, token_version: int, *, is_admin: bool = False) -> str:
        """Return a new access token with all scopes that the user may have, signed with the newest key.

        Raises:
            UnavailableError: No key is active.
        """
        key = self._rings.signing(JWT)
        issued_at = int(self._now().timestamp())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": str(user_id),
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + self.lifetime_seconds,
            "jti": uuid4().hex,
            "sid": str(session_id),
            "scope": " ".join(sorted(granted_scopes(is_admin=is_admin))),
            "tv": token_version,
        }
        return jwt.encode(claims, key.secret, _ALGORITHM, headers={"kid": key.kid, "typ": _TYPE})

    def read(self, token: str) -> AccessClaims:
        """Return what a token says.

        Raises:
            InvalidTokenError: It is not ours, not for us, not whole, not yet or no longer good.
        """
        if len(token) > _TOKEN_CHARACTERS_MAX:
            raise _invalid()
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        known = self._remembered(digest)
        if known is None:
            known = self._verify(token)
            with self._verified_lock:
                self._verified[digest] = known
        elif self._rings.verifying(JWT, known[0]) is None:
            raise _invalid()
        self._judge_times(known[1])
        return known[1]

    def _remembered(self, digest: bytes) -> tuple[str, AccessClaims] | None:
        with self._verified_lock:
            try:
                return self._verified[digest]  # in one step, where get() takes two
            except KeyError:
                return None

    def _verify(self, token: str) -> tuple[str, AccessClaims]:
        if not _TOKEN.fullmatch(token):
            raise _invalid()
        try:
            header = jwt.get_unverified_header(token)
            kid = _judge_header(header)
            key = self._rings.verifying(JWT, kid)
            if key is None:
                raise _invalid()
            claims = jwt.decode(
                token,
                key.secret,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                # Times are judged by our own clock, each time the token comes.
                options={
                    "require": _CLAIMS,
                    "strict_aud": True,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            return kid, _claims(claims)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _invalid() from None

    def _judge_times(self, claims: AccessClaims) -> None:
        seconds = self._now().timestamp()
        if seconds >= claims.expires_at + LEEWAY_SECONDS:
            raise InvalidTokenError("The access token has expired. Refresh it, or log in again.")
        if seconds < claims.not_before - LEEWAY_SECONDS:
            raise _invalid()


def _judge_header(header: Mapping[str, Any]) -> str:
    kid = header.get("kid")
    if set(header) != _HEADER_MEMBERS or header["typ"] != _TYPE or header["alg"] != _ALGORITHM:
        raise _invalid()
    if not isinstance(kid, str):
        raise _invalid()
    return kid


def _claims(claims: Mapping[str, Any]) -> AccessClaims:
    instants = [claims["iat"], claims["nbf"], claims["exp"], claims["tv"]]
    texts = [claims["sub"], claims["sid"], claims["jti"], claims["scope"]]
    if any(type(value) is not int for value in instants) or any(type(value) is not str for value in texts):
        raise _invalid()
    return AccessClaims(
        user_id=UUID(claims["sub"]),
        session_id=UUID(claims["sid"]),
        scopes=frozenset(claims["scope"].split()),
        token_version=claims["tv"],
        not_before=max(claims["nbf"], claims["iat"]),
        expires_at=claims["exp"],
    )


def _invalid() -> InvalidTokenError:
    return InvalidTokenError("The access token is not valid. Log in again.")
