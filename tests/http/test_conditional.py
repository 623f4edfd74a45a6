"""Conditional requests: which conditions are met (RFC 9110 §13)."""

from __future__ import annotations

import datetime as dt
from contextlib import nullcontext

import pytest
from flask import Flask
from werkzeug.http import http_date

from app.errors import PreconditionFailedError
from app.http import conditional

APP = Flask("conditional")
CHANGED = dt.datetime(2026, 5, 17, 9, 30, 0, 700_000, tzinfo=dt.UTC)
SAME_SECOND = http_date(CHANGED)
BEFORE = http_date(CHANGED - dt.timedelta(seconds=1))
AFTER = http_date(CHANGED + dt.timedelta(days=1))


@pytest.mark.parametrize(
    ("headers", "unchanged"),
    [
        ({}, False),
        ({"If-None-Match": '"abc"'}, True),
        ({"If-None-Match": 'W/"abc"'}, True),
        ({"If-None-Match": '"x", "abc" , "y"'}, True),
        ({"If-None-Match": "*"}, True),
        ({"If-None-Match": '"x"'}, False),
        ({"If-None-Match": '"ABC"'}, False),
        ({"If-None-Match": ""}, False),
        ({"If-None-Match": "abc"}, False),
        ({"If-None-Match": "W/abc"}, False),
        ({"If-None-Match": 'w/"abc"'}, False),
        ({"If-None-Match": "'abc'"}, False),
        ({"If-None-Match": '"x", *'}, False),
        ({"If-None-Match": '"x,y", , "abc",'}, True),
        ({"If-None-Match": '"'}, False),
        ({"If-Modified-Since": SAME_SECOND}, True),
        ({"If-Modified-Since": AFTER}, True),
        ({"If-Modified-Since": BEFORE}, False),
        ({"If-Modified-Since": "yesterday"}, False),
        ({"If-Modified-Since": "Sun, 99 Foo 2026 99:99:99 GMT"}, False),
        ({"If-None-Match": '"x"', "If-Modified-Since": AFTER}, False),
        ({"If-None-Match": '"abc"', "If-Modified-Since": BEFORE}, True),
    ],
)
def test_a_copy_is_judged_by_its_tag_and_else_by_its_date(headers: dict[str, str], unchanged: bool) -> None:
    with APP.test_request_context(headers=headers):
        assert conditional.is_unchanged("abc", CHANGED) == unchanged
        assert conditional.has_condition() == bool(headers)


def test_a_date_says_nothing_about_what_has_none() -> None:
    with APP.test_request_context(headers={"If-Modified-Since": AFTER}):
        assert not conditional.is_unchanged("abc")


@pytest.mark.parametrize(
    "headers",
    [{}, {"If-Match": '"v1-abc"'}, {"If-Match": "*"}, {"If-Match": '"x", "v1-def"'}, {"If-Match": '"v1-abc-place"'}],
    ids=["none", "one", "any", "two", "another view"],
)
def test_a_change_passes_without_condition_or_with_a_current_version(headers: dict[str, str]) -> None:
    with APP.test_request_context(headers=headers):
        conditional.require_match("v1-")


@pytest.mark.parametrize(
    "tag", ['"x"', 'W/"v1-abc"', "", '"', '"V1-abc"', "v1-abc", '"x", *', '"v11-abc"', '"v2-abc"']
)
def test_a_change_of_another_version_is_refused_also_by_a_weak_tag(tag: str) -> None:
    with APP.test_request_context(headers={"If-Match": tag}), pytest.raises(PreconditionFailedError):
        conditional.require_match("v1-")


@pytest.mark.parametrize(
    ("headers", "current"),
    [
        ({}, True),
        ({"If-Match": '"abc"'}, True),
        ({"If-Match": '"x", "abc"'}, True),
        ({"If-Match": "*"}, True),
        ({"If-Match": '"x"'}, False),
        ({"If-Match": 'W/"abc"'}, False),
        ({"If-Match": ""}, False),
        ({"If-Unmodified-Since": SAME_SECOND}, True),
        ({"If-Unmodified-Since": AFTER}, True),
        ({"If-Unmodified-Since": BEFORE}, False),
        ({"If-Unmodified-Since": "yesterday"}, True),
        ({"If-Match": '"abc"', "If-Unmodified-Since": BEFORE}, True),
        ({"If-Match": '"x"', "If-Unmodified-Since": AFTER}, False),
    ],
)
def test_a_read_goes_on_with_the_current_copy_alone(headers: dict[str, str], current: bool) -> None:
    with (
        APP.test_request_context(headers=headers),
        nullcontext() if current else pytest.raises(PreconditionFailedError),
    ):
        conditional.require_current("abc", CHANGED)


@pytest.mark.parametrize(
    ("condition", "current"),
    [
        (None, True),
        ('"abc"', True),
        ('W/"abc"', False),
        ('"x"', False),
        (SAME_SECOND, True),
        (BEFORE, False),
        (AFTER, False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_a_range_is_given_only_of_the_representation_it_was_asked_for(condition: str | None, current: bool) -> None:
    headers = {} if condition is None else {"If-Range": condition}

    with APP.test_request_context(headers=headers):
        assert conditional.is_range_current("abc", CHANGED) == current


def test_a_tag_follows_from_the_content_alone() -> None:
    assert conditional.tag_of(b"a") == conditional.tag_of(b"a") != conditional.tag_of(b"b")
    assert conditional.quoted("abc") == '"abc"'
