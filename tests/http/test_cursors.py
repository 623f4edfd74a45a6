"""Page cursors: signed, bound to their question, readable while keys rotate."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MalformedRequestError
from app.http.cursors import CursorSigner

KEYS = [b"k" * 32]
SIGNER = CursorSigner(lambda: KEYS)
POSITION = ["2026-05-17T09:30:00.000001+00:00", "019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21"]


@given(st.text(), st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=3))
def test_a_cursor_brings_its_position_back(question: str, position: list[str]) -> None:
    assert SIGNER.read(question, SIGNER.sign(question, position)) == position


def test_a_cursor_fits_an_address_as_it_is() -> None:
    cursor = SIGNER.sign("photos", POSITION)

    assert len(cursor) < 200
    assert set(cursor) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_a_cursor_of_another_question_is_refused() -> None:
    with pytest.raises(MalformedRequestError):
        SIGNER.read("photos of somebody else", SIGNER.sign("photos", POSITION))


def test_no_bit_of_a_cursor_can_be_changed() -> None:
    cursor = SIGNER.sign("photos", POSITION)
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))

    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedRequestError):
            SIGNER.read("photos", base64.urlsafe_b64encode(changed).decode().rstrip("="))


@pytest.mark.parametrize("cursor", ["", "=", "a", "null", "é", "\x00", "a" * 513, "++//", "../..", " ", "AAAA" * 8])
def test_what_nobody_signed_is_refused(cursor: str) -> None:
    with pytest.raises(MalformedRequestError, match="without it"):
        SIGNER.read("photos", cursor)


@pytest.mark.parametrize("tail", ["=", "==", "A", "\n"])
def test_a_cursor_with_something_after_it_is_refused(tail: str) -> None:
    with pytest.raises(MalformedRequestError):
        SIGNER.read("photos", SIGNER.sign("photos", POSITION) + tail)


def test_a_cursor_outlives_the_rotation_of_keys_until_its_own_retires() -> None:
    keys = [b"old" * 11]
    signer = CursorSigner(lambda: keys)
    cursor = signer.sign("photos", POSITION)

    keys.insert(0, b"new" * 11)
    assert signer.read("photos", cursor) == POSITION

    keys.pop()
    with pytest.raises(MalformedRequestError):
        signer.read("photos", cursor)
