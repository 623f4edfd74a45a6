"""Which formats a client takes, by its ``Accept`` (RFC 9110, 12.5.1): AVIF, WebP and JPEG, and which it prefers.

AVIF and WebP are for clients that name them. ``image/*`` and ``*/*`` stand for JPEG alone: programs send them that
read neither, and so do browsers besides the formats that they do read. Of what a client names, what it prefers by
its q-values comes first; among equals the smaller format. An element that cannot be read says nothing, and the others
count. JPEG is the answer to everything else: no header, one that is too long, one that accepts none of the three. An
image that a client may be unable to show helps it more than a 406, which is what the RFC suggests, too.

The three buckets keep caches small: however many headers there are, each photo has three answers. A client gets the
format that it likes best; only while memory is short may it be one of the others
(:meth:`app.renditions.service.RenditionService.get_best`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from app.images.presets import Format

_HEADERS_REMEMBERED = 256
_HEADER_CHARACTERS_MAX = 2048  # longer ones are no browser's, and are not worth a place in memory
_SMALLEST_FIRST: Final = (Format.AVIF, Format.WEBP, Format.JPEG)
_IN_DOUBT: Final = (Format.JPEG,)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER = rf"{_TOKEN}=(?:{_TOKEN}|\"(?:[^\"\\]|\\.)*+\")"
# Possessive throughout: nothing is read twice but an element that cannot be read.
_RANGE = rf"(?P<kind>{_TOKEN}/{_TOKEN})(?P<parameters>(?:[ \t]*+;[ \t]*+(?:{_PARAMETER})?+)*+)"
_ELEMENT = re.compile(rf"[ \t]*+(?:{_RANGE})?+[ \t]*+(?P<end>,|$)|[^,]*+,?+")
_EACH_PARAMETER = re.compile(rf";[ \t]*+(?P<name>{_TOKEN})=(?P<value>{_TOKEN}|\"(?:[^\"\\]|\\.)*+\")")
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)


def rank_formats(accept: str | None) -> tuple[Format, ...]:
    """Return the formats for a client, the one that it likes best first; JPEG is among them, the last if need be.

    Args:
        accept: Its ``Accept``; None when it sent none.
    """
    if not accept or len(accept) > _HEADER_CHARACTERS_MAX:
        return _IN_DOUBT
    return _ranked(accept)


@lru_cache(_HEADERS_REMEMBERED)
def _ranked(accept: str) -> tuple[Format, ...]:
    weights = dict(_weights(accept))
    jpeg = next((weights[kind] for kind in ("image/jpeg", "image/*", "*/*") if kind in weights), 0.0)
    accepted = {each: weights.get(each.content_type, 0.0) for each in (Format.AVIF, Format.WEBP)} | {
        Format.JPEG: jpeg
    }
    wanted = [each for each in _SMALLEST_FIRST if accepted[each] > 0]
    best_first = sorted(wanted, key=lambda each: -accepted[each])  # stable: the smaller one first among equals
    return tuple(best_first) if jpeg > 0 else (*best_first, *_IN_DOUBT)


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    """Yield the media ranges of a header that can be read, in lower case, with their q-values."""
    for element in _ELEMENT.finditer(accept):
        if element["end"] is None or element["kind"] is None:  # unreadable, or empty, as one of a list may be
            continue
        weight = _weight_of(element["parameters"])
        if weight is not None:
            yield element["kind"].lower(), weight


def _weight_of(parameters: str) -> float | None:
    """Return a range's q-value; None where it is none, or a special kind is asked for, which no rendition is."""
    for parameter in _EACH_PARAMETER.finditer(parameters):
        if parameter["name"].lower() != "q" or not _WEIGHT.fullmatch(parameter["value"]):
            return None
        return float(parameter["value"])  # what comes behind it is an extension that nobody has defined
    return 1.0
