"""Conditional requests (RFC 9110 §13): entity tags, and all headers that ask for an answer on a condition."""

from __future__ import annotations

import datetime as dt
import hashlib

from flask import request
from werkzeug.http import parse_date

from app.errors import PreconditionFailedError


def quoted(tag: str) -> str:
    """Return a strong entity tag as it stands in a header."""
    return f'"{tag}"'


def tag_of(content: bytes) -> str:
    """Return an entity tag made of the content itself, without quotes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _members(value: str) -> set[str]:
    """Return what a list of entity tags has, quotes and all: what is not quoted is no tag.

    Our own tags have no comma, so a foreign one that has some cannot pass for ours in pieces.
    """
    value = value.strip()
    return {value} if value == "*" else {member.strip() for member in value.split(",")} - {"*"}


def is_unchanged(tag: str, modified_at: dt.datetime | None = None) -> bool:
    """Tell whether the client's copy is still good, so that 304 is the answer.

    ``If-None-Match`` decides when it is there (weak comparison); else ``If-Modified-Since``, by the second.

    Args:
        tag: The current strong entity tag, without quotes.
        modified_at: When the representation last changed.
    """
    named = request.environ.get("HTTP_IF_NONE_MATCH")
    if named is not None:
        return not {"*", quoted(tag), f"W/{quoted(tag)}"}.isdisjoint(_members(named))
    since = request.if_modified_since
    return since is not None and modified_at is not None and modified_at.replace(microsecond=0) <= since


def has_tags() -> bool:
    """Tell whether the client names the copies it has."""
    return "HTTP_IF_NONE_MATCH" in request.environ


def has_condition() -> bool:
    """Tell whether the request asks for an answer only if something has changed."""
    return has_tags() or "HTTP_IF_MODIFIED_SINCE" in request.environ


def require_match(prefix: str) -> None:
    """Let a change pass only when ``If-Match`` is absent or names a current version (strong comparison).

    Args:
        prefix: What the entity tags of the current version begin with, in whatever view it was read.

    Raises:
        PreconditionFailedError: It names another one.
    """
    named = request.environ.get("HTTP_IF_MATCH")
    if named is None:
        return
    if not any(member == "*" or member.startswith(f'"{prefix}') for member in _members(named)):
        raise PreconditionFailedError("The resource has changed since you read it. Read it again, then change it.")


def require_current(tag: str, modified_at: dt.datetime | None = None) -> None:
    """Let a read pass only while the copy that it goes on with is the current one.

    ``If-Match`` decides when it is there (strong comparison); else ``If-Unmodified-Since``, by the second.

    Args:
        tag: The current strong entity tag, without quotes.
        modified_at: When the representation last changed.

    Raises:
        PreconditionFailedError: It is another one.
    """
    named, since = request.environ.get("HTTP_IF_MATCH"), request.if_unmodified_since
    if named is not None:
        is_current = not {"*", quoted(tag)}.isdisjoint(_members(named))
    else:
        is_current = since is None or modified_at is None or modified_at.replace(microsecond=0) <= since
    if not is_current:
        raise PreconditionFailedError(
            "The bytes are not those that you have. Ask for all of them without a condition."
        )


def is_range_current(tag: str, modified_at: dt.datetime) -> bool:
    """Tell whether ``If-Range`` lets a range be answered: absent, the current tag, or its exact date."""
    condition = request.headers.get("If-Range")
    if condition is None:
        return True
    date = parse_date(condition)
    if date is not None:
        return date == modified_at.replace(microsecond=0)
    return condition.strip() == quoted(tag)
