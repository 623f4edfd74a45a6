"""Byte ranges (RFC 9110 §14): one range is served, several are answered with the whole."""

from __future__ import annotations

import re
from typing import NamedTuple

from app.errors import RangeNotSatisfiableError

_SINGLE_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE | re.ASCII)
_DIGITS_MAX = 19


class ByteRange(NamedTuple):
    """A satisfiable range: ``length`` bytes from ``start``, both inside the representation."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        """Return the ``Content-Range`` header."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """Read a ``Range`` header.

    Args:
        header: The header, or None.
        size_bytes: The size of the representation.

    Returns:
        The range; None when the whole is to be sent: no header, several ranges, another unit, bad syntax.

    Raises:
        RangeNotSatisfiableError: The range has no byte of the representation.
    """
    matched = _SINGLE_RANGE.fullmatch(header) if header else None
    if matched is None:
        return None
    first, last = matched.groups()
    if not first and not last:
        return None
    if not first:
        length = min(_number(last), size_bytes)
        start = size_bytes - length
    else:
        start = _number(first)
        end = min(_number(last), size_bytes - 1) if last else size_bytes - 1
        if last and _number(last) < start:
            return None
        length = end - start + 1
    if length <= 0 or start >= size_bytes:
        raise _unsatisfiable(size_bytes)
    return ByteRange(start, length)


def _number(digits: str) -> int:
    """Return a number; of very long ones only that they are beyond every size."""
    return int(digits.lstrip("0")[:_DIGITS_MAX] or "0")


def _unsatisfiable(size_bytes: int) -> RangeNotSatisfiableError:
    return RangeNotSatisfiableError(f"The photo has {size_bytes} bytes; ask for a range inside them.", size_bytes)
