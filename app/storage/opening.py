"""Opening an object of a store behind HTTP: what is asked for, and whether the answer is that."""

from __future__ import annotations

from http import HTTPStatus

from app.storage.base import ObjectCorruptError, ObjectInfo, ObjectReader
from app.storage.connections import BROKEN, Exchange
from app.storage.reading import CheckedReader


def range_headers(start: int, length: int | None) -> dict[str, str]:
    """Return the headers that ask for so many bytes of an object; none for all of it.

    Args:
        start: The first byte, 0 or more.
        length: How many, at least 1; None for all that follow.
    """
    if start == 0 and length is None:
        return {}
    last = "" if length is None else str(start + length - 1)
    return {"Range": f"bytes={start}-{last}"}


def open_answer(exchange: Exchange, info: ObjectInfo, *, start: int, length: int | None) -> ObjectReader:
    """Return the reader of an answer's body, which closes the exchange.

    Args:
        exchange: The answered request; its body is still to be read.
        info: Facts of the whole object, as the answer says them.
        start: As asked for.
        length: As asked for.

    Raises:
        ObjectCorruptError: The answer has another length, or is a part where all was asked for, or the reverse.
    """
    response = exchange.response
    is_whole_answer = not range_headers(start, length)
    expected = info.size_bytes - start if length is None else length
    if (response.status == HTTPStatus.OK) is not is_whole_answer or response.length != expected:
        exchange.close(reusable=False)
        raise ObjectCorruptError("The stored object has not the size that it should have.")
    return CheckedReader(
        response,
        info=info,
        length=expected,
        whole=expected == info.size_bytes,  # asked for as a range, too
        close=lambda complete: exchange.close(reusable=complete),
        failures=BROKEN,
    )
