"""Who asks, and whether this operation is for them.

The accounts room knows how to turn a credential into a :class:`Principal`; this module only knows where in a
request a credential stands, and which principals an operation admits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from uuid import UUID

from werkzeug.wrappers import Request

from app.errors import InvalidTokenError, MissingScopeError, PermissionDeniedError


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        user_id: Whose photos these are.
        scopes: What this token or key may do.
        session_id: The login, for an access token.
        api_key_id: The key, for an API key.
    """

    user_id: UUID
    scopes: frozenset[str]
    session_id: UUID | None = None
    api_key_id: UUID | None = None


_READING = frozenset({"GET", "HEAD"})


class Access(Enum):
    """Whom an operation admits, where no single scope says it."""

    PUBLIC = "anyone"
    AUTHENTICATED = "any valid token or API key"
    SESSION = "an access token from a login, not an API key"


PUBLIC = Access.PUBLIC
AUTHENTICATED = Access.AUTHENTICATED
SESSION = Access.SESSION


class Authenticator(Protocol):
    """Turns a credential into a principal. Thread-safe."""

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        """Return whose access token or API key this is.

        Args:
            credential: The token or key.
            fresh: Whether what was believed a moment ago does not suffice.

        Raises:
            InvalidTokenError: It is malformed, expired, revoked or unknown.
        """
        ...


def admit(request: Request, access: Access | str, authenticator: Authenticator) -> Principal | None:
    """Return the caller of a request, or None for a public operation.

    Args:
        request: The request; the credential stands in ``Authorization: Bearer`` or ``X-Api-Key``.
        access: An :class:`Access`, or the scope that is needed.
        authenticator: Who knows tokens and keys.

    Raises:
        InvalidTokenError: No credential, two of them, or one that does not hold.
        PermissionDeniedError: The caller is known, and this is not for them.
    """
    if access is PUBLIC:
        return None
    # An ended session may read for a few seconds more on another worker; it must not change anything.
    is_change = request.method not in _READING or access is SESSION
    principal = authenticator.authenticate(_credential(request), fresh=is_change)
    if access is SESSION and principal.session_id is None:
        raise PermissionDeniedError("An API key cannot do this. Log in and use the access token.")
    if isinstance(access, str) and access not in principal.scopes:
        raise MissingScopeError(f"This needs the scope {access!r}, which the token or key does not have.")
    return principal


def _credential(request: Request) -> str:
    authorization: str = request.environ.get("HTTP_AUTHORIZATION", "")
    api_key: str = request.environ.get("HTTP_X_API_KEY", "")
    if authorization and api_key:
        raise InvalidTokenError("Send either Authorization or X-Api-Key, not both.")
    if api_key:
        return api_key
    kind, _, credential = authorization.partition(" ")
    if kind.lower() != "bearer" or not credential:
        raise InvalidTokenError("Send 'Authorization: Bearer <access token or API key>' or 'X-Api-Key: <key>'.")
    return credential.strip()
