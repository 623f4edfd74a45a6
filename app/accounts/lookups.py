"""What the database says of a session or an API key when a request comes with one: one prepared read each."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import bindparam, select

from app.accounts.models import ApiKey, LoginSession, User
from app.accounts.principals import KnownApiKey, KnownSession
from app.accounts.scopes import granted_scopes
from app.db.engine import Database
from app.db.prepared import PreparedSelect

_FIND_SESSION = PreparedSelect(
    select(User.id, User.token_version, LoginSession.expires_at)
    .join(LoginSession, LoginSession.user_id == User.id)
    .where(LoginSession.id == bindparam("session_id"), LoginSession.revoked_at.is_(None), User.deleted_at.is_(None))
)
_FIND_API_KEY = PreparedSelect(
    select(User.is_admin, ApiKey.user_id, ApiKey.id, ApiKey.secret_hash, ApiKey.scopes, ApiKey.expires_at)
    .join(User, ApiKey.user_id == User.id)
    .where(ApiKey.key_id == bindparam("wanted_key_id"), User.deleted_at.is_(None))
)


def find_session(database: Database, session_id: UUID) -> KnownSession | None:
    """Return a session that was not ended, of an account that is open; None when there is none.

    Raises:
        DatabaseUnavailableError: That cannot be told now.
    """
    found = database.ask(_FIND_SESSION, {"session_id": session_id})
    return KnownSession(*found[0]) if found else None


def find_api_key(database: Database, key_id: str) -> KnownApiKey | None:
    """Return an API key, with the scopes that its owner may still have, by the id that stands in it.

    Raises:
        DatabaseUnavailableError: That cannot be told now.
    """
    found = database.ask(_FIND_API_KEY, {"wanted_key_id": key_id})
    if not found:
        return None
    row = found[0]
    scopes = granted_scopes(is_admin=row.is_admin).intersection(row.scopes)
    return KnownApiKey(row.user_id, row.id, row.secret_hash, scopes, row.expires_at)
