"""The quota of an account: one number that every upload and removal changes, atomically, in its own transaction."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, func, literal, select, update

from app.accounts.models import User
from app.errors import InvalidTokenError, QuotaExceededError


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
    quota = func.coalesce(User.quota_bytes, default_quota_bytes)
    taken = connection.execute(
        update(User)
        .where(User.id == user_id, User.deleted_at.is_(None), User.used_bytes + literal(size_bytes) <= quota)
        .values(used_bytes=User.used_bytes + size_bytes)
    )
    if taken.rowcount:
        return
    owner = connection.execute(select(quota.label("quota"), User.deleted_at).where(User.id == user_id)).first()
    if owner is None or owner.deleted_at is not None:
        raise InvalidTokenError("This account has been closed.")
    raise QuotaExceededError(
        f"The photo has {size_bytes} bytes, and the account's quota of {owner.quota} bytes does not hold it. "
        "Remove photos for good (the trash counts too), or ask for more room."
    )


def give_back(connection: Connection, user_id: UUID, size_bytes: int) -> None:
    """Return room that was taken, in the transaction that takes the photo out of the count."""
    connection.execute(update(User).where(User.id == user_id).values(used_bytes=User.used_bytes - size_bytes))
