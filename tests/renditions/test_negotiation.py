"""The formats that a client takes: what it names, as it prefers it, and JPEG in every case of doubt."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images.presets import Format
from app.renditions.negotiation import rank_formats

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
FIREFOX = "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
SAFARI = (
    "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,"
    "image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
)
OLD_SAFARI = "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"

ACCEPTED = {
    "chrome": (CHROME, "avif"),
    "firefox": (FIREFOX, "avif"),
    "safari": (SAFARI, "avif"),
    "old safari": (OLD_SAFARI, "webp"),
    "java": (JAVA, "jpeg"),
    "curl": ("*/*", "jpeg"),
    "any image": ("image/*", "jpeg"),
    "one format": ("image/avif", "avif"),
    "another": ("image/webp", "webp"),
    "the third": ("image/jpeg", "jpeg"),
    "a preference": ("image/avif;q=0.5, image/webp;q=0.9", "webp"),
    "a preference for jpeg": ("image/avif;q=0.5, image/webp;q=0.6, image/*", "jpeg"),
    "equals": ("image/jpeg, image/webp, image/avif", "avif"),
    "equals by weight": ("image/jpeg;q=0.3, image/webp;q=0.300", "webp"),
    "refused": ("image/avif;q=0, image/webp", "webp"),
    "refused in full": ("image/avif;q=0.000, image/webp;q=0", "jpeg"),
    "jpeg refused": ("image/jpeg;q=0, image/*;q=0.9, image/webp;q=0.1", "webp"),
    "the nearest range counts": ("image/jpeg;q=0.1, image/*;q=1, image/webp;q=0.5", "webp"),
    "the nearer range counts": ("image/*;q=0.1, */*, image/webp;q=0.5", "webp"),
    "case": ("IMAGE/WebP;Q=1", "webp"),
    "spaces": (" image/webp\t;  q=0.7 ,\timage/avif ; q=0.1", "webp"),
    "empty members": (",, image/webp ,,", "webp"),
    "an empty parameter": ("image/webp;;q=0.5", "webp"),
    "a comma in quotes": ('text/html;x="a,image/avif,b", image/webp', "webp"),
    "a quote in quotes": ('text/html;x="\\",image/avif", image/webp', "webp"),
    "a special kind": ("image/avif;codecs=av01, image/webp", "webp"),
    "an extension": ("image/webp;q=0.5;level=1", "webp"),
    "nothing we have": ("text/html, image/png", "jpeg"),
    "empty": ("", "jpeg"),
    "blank": ("  ", "jpeg"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_client_gets_what_it_names_and_prefers(case: str) -> None:
    accept, expected = ACCEPTED[case]

    assert rank_formats(accept)[0] == expected


def test_without_a_header_it_is_jpeg() -> None:
    assert rank_formats(None) == (Format.JPEG,)


UNREADABLE = {
    "no subtype": "image",
    "no type": "/avif",
    "weight above one": "image/avif;q=1.1",
    "weight below zero": "image/avif;q=-1",
    "weight without a digit": "image/avif;q=.5",
    "weight of four digits": "image/avif;q=0.1234",
    "weight of words": "image/avif;q=high",
    "weight in quotes": 'image/avif;q="1"',
    "no weight": "image/avif;q=",
    "no equals sign": "image/avif;q",
    "two types": "image/avif image/avif",
    "open quote": 'image/avif;x="',
    "control character": "image/avif\x00",
    "other digits": "image/avif;q=\u0661",
    "three parts": "image/avif/avif",
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_element_that_cannot_be_read_says_nothing_and_the_others_count(case: str) -> None:
    element = UNREADABLE[case]

    assert rank_formats(element) == (Format.JPEG,)
    assert rank_formats(f"image/webp, {element}") == (Format.WEBP, Format.JPEG)
    assert rank_formats(f"{element}, image/webp;q=0.1") == (Format.WEBP, Format.JPEG)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (CHROME, ["avif", "webp", "jpeg"]),
        (OLD_SAFARI, ["webp", "jpeg"]),
        ("image/avif;q=0.2, image/webp;q=0.3, image/jpeg;q=0.4", ["jpeg", "webp", "avif"]),
        ("image/avif", ["avif", "jpeg"]),
        ("image/webp, image/jpeg;q=0", ["webp", "jpeg"]),
        ("image/jpeg, image/avif;q=0", ["jpeg"]),
    ],
    ids=["chrome", "old safari", "a preference", "one format", "jpeg refused", "avif refused"],
)
def test_the_other_formats_follow_as_it_prefers_them_and_jpeg_is_always_one(accept: str, expected: list[str]) -> None:
    assert [*rank_formats(accept)] == expected


@given(st.text(max_size=200))
def test_whatever_comes_has_an_answer(accept: str) -> None:
    ranked = rank_formats(accept)

    assert Format.JPEG in ranked
    assert len(set(ranked)) == len(ranked)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        *(
            (unit, "jpeg")
            for unit in ("; ", ";  \t", 'a/b;x="\\"', "a/b;x=y ", ";q=1 ", "image/webp;", 'a/b;x=",', '\\",')
        ),
        *((unit, "webp") for unit in (" ,", ',a/b;x="\\"')),  # the first element can be read
    ],
    ids=range(10),
)
def test_a_hostile_header_costs_no_more_than_its_length(unit: str, expected: str) -> None:
    accept = ("image/webp" + unit * 2000)[:2047] + "\x00"

    started = time.thread_time()
    ranked = rank_formats(accept)

    assert ranked == tuple(dict.fromkeys((Format(expected), Format.JPEG)))
    assert time.thread_time() - started < 0.5


def test_a_header_longer_than_any_browser_sends_gets_jpeg() -> None:
    assert rank_formats("image/webp," + "a/b," * 1000) == (Format.JPEG,)
