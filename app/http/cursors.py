"""Page cursors: where a list goes on, signed so that nobody makes one up, bound to the list's own question."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from app.errors import MalformedRequestError

_MAC_BYTES = 16
_CURSOR_CHARACTERS_MAX = 512


class CursorSigner:
    """Makes and reads cursors.

    Args:
        keys: Returns the ring's active keys, the signing one first; called each time, so that keys may rotate.
    """

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        self._keys = keys

    def sign(self, question: str, position: Sequence[str]) -> str:
        """Return a cursor.

        Args:
            question: What identifies the list: owner, sort and filters.
            position: The sort values of the last item shown.
        """
        payload = orjson.dumps(list(position))
        return base64.urlsafe_b64encode(_mac(self._keys()[0], question, payload) + payload).decode().rstrip("=")

    def read(self, question: str, cursor: str) -> list[str]:
        """Return the position in a cursor.

        Raises:
            MalformedRequestError: It is not one of ours, or belongs to another question.
        """
        raw = _decoded(cursor)
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(key, question, payload)) for key in self._keys()):
            raise _bad_cursor()
        position: Any = orjson.loads(payload)
        return [str(value) for value in position]


def _mac(key: bytes, question: str, payload: bytes) -> bytes:
    return hmac.digest(key, question.encode() + b"\n" + payload, "sha256")[:_MAC_BYTES]


def _decoded(cursor: str) -> bytes:
    if len(cursor) > _CURSOR_CHARACTERS_MAX or not cursor.isascii() or "=" in cursor:
        raise _bad_cursor()
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None


def _bad_cursor() -> MalformedRequestError:
    return MalformedRequestError(
        "The cursor is not valid for this list. Start again without it, with the same sort and filters."
    )
