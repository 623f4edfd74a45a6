"""The quota of an account: one number that every upload and removal changes, atomically, in its own transaction."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, Connection, bindparam, func, select, update

from app.accounts.models import User
from app.errors import InvalidTokenError, QuotaExceededError

_SIZE = bindparam("size", type_=BigInteger)
_QUOTA = func.coalesce(User.quota_bytes, bindparam("default_quota", type_=BigInteger))
_TAKE = (
    update(User)
    .where(User.id == bindparam("owner"), User.deleted_at.is_(None), User.used_bytes + _SIZE <= _QUOTA)
    .values(used_bytes=User.used_bytes + _SIZE)
)
_LOOK = select(_QUOTA.label("quota"), User.deleted_at).where(User.id == bindparam("owner"))
_GIVE_BACK = update(User).where(User.id == bindparam("owner")).values(used_bytes=User.used_bytes - _SIZE)


def take(connection: Connection, user_id: UUID, size_bytes: int, *, default_quota_bytes: int) -> None:
    """Reserve room; two at once can never both take the last of it.

    Args:
        connection: The transaction that writes the photo's row.
        user_id: Whose quota.
        size_bytes: How much.
        default_quota_bytes: For an account without a quota of its own.

    Raises:
        QuotaExceededError: It does not fit.
        InvalidTokenError: The account has been closed.
    """
    bound = {"owner": user_id, "size": size_bytes, "default_quota": default_quota_bytes}
    if connection.execute(_TAKE, bound).rowcount:
        return
    owner = connection.execute(_LOOK, {"owner": user_id, "default_quota": default_quota_bytes}).first()
    if owner is None or owner.deleted_at is not None:
        raise InvalidTokenError("This account has been closed.")
    raise QuotaExceededError(
        f"The photo has {size_bytes} bytes, and the account's quota of {owner.quota} bytes does not hold it. "
        "Remove photos for good (the trash counts too), or ask for more room."
    )


def give_back(connection: Connection, user_id: UUID, size_bytes: int) -> None:
    """Return room that was taken, in the transaction that takes the photo out of the count."""
    connection.execute(_GIVE_BACK, {"owner": user_id, "size": size_bytes})
