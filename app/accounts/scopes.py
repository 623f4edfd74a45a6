"""What a token or key may be allowed to do, and who may have it."""

from __future__ import annotations

from typing import Literal

Scope = Literal[
    "photos:read",
    "photos:write",
    "photos:delete",
    "photos:geo",
    "albums:read",
    "albums:write",
    "shares:manage",
    "keys:manage",
    "admin:read",
    "admin:ops",
]

USER_SCOPES: frozenset[Scope] = frozenset({
    "photos:read",
    "photos:write",
    "photos:delete",
    "photos:geo",
    "albums:read",
    "albums:write",
    "shares:manage",
    "keys:manage",
})  # fmt: skip
"""What everybody may do with what is theirs."""

ADMIN_SCOPES: frozenset[Scope] = frozenset({"admin:read", "admin:ops"})
"""What only administrators may do."""


def granted_scopes(*, is_admin: bool) -> frozenset[str]:
    """Return every scope that a user's login gets, and that the user's keys may have."""
    return USER_SCOPES | ADMIN_SCOPES if is_admin else USER_SCOPES
