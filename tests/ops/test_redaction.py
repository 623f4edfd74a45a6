"""What must never stand in a log line is cut out of it; what an operator needs stays."""

from __future__ import annotations

import time
import timeit

import pytest

from app.ops.redaction import is_secret_name, redact

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
        ("header was 'bearer  " + JWT + "'", "eyJ"),
        ("token " + JWT + " is expired", "eyJ"),
        ("Basic dXNlcjpwYXNzd29yZA== was refused", "dXNlcjpwYXNzd29yZA"),
        ("password=hunter2 for user", "hunter2"),
        ('{"password": "hunter 2", "email": "a"}', "hunter"),
        ("{'refresh_token': 'abc-def'}", "abc-def"),
        ("X-Api-Key: pk_live_123", "pk_live_123"),
        ("Cookie: session=abc", "session=abc"),
        ("aws_secret_access_key = wJalrXUtnFEMI", "wJalrXUtnFEMI"),
        ("Error handling request GET /api/v1/photos?q=holiday&tag=x", "holiday"),
        ("GET https://photos.example/s/list?token=abc HTTP/1.1", "abc"),
        ("Invalid HTTP Version: 'GET /x?signature=zzz HTTP/9'", "zzz"),
        ("postgresql+psycopg://photo:pa55@db.internal/photos", "pa55"),
        ("UNIQUE failed [SQL: INSERT] [parameters: ('kim@example.org', 7)]", "kim"),
        ("violates unique constraint\nDETAIL:  Key (email)=(kim@example.org) already exists.", "kim"),
        ("Duplicate entry 'kim@example.org' for key 'users.email'", "kim"),
        ("Input should be a valid string [type=x, input_value='my diary', input_type=int]", "diary"),
        ('form-data; name="file"; filename="me on the beach.jpg"', "beach"),
        ("cannot open holiday-2024.JPEG", "holiday"),
        ("mail to kim.lee+photos@mail.example.org failed", "kim.lee"),
    ],
)
def test_secrets_and_names_are_cut_out(text: str, secret: str) -> None:
    cut = redact(text)

    assert secret not in cut
    assert "[redacted]" in cut


@pytest.mark.parametrize(
    "text",
    [
        "request",
        "Listening at: http://127.0.0.1:8000 (42)",
        "Worker (pid:17) was sent SIGKILL! Perhaps out of memory?",
        'File "app/photos/service.py", line 10, in upload',
        "unforeseen error on GET /api/v1/photos/<uuid:photo_id>",
        "content type image/jpeg; 2024-05-01T10:00:00.000Z",
        "What now? Nothing.",
        "SELECT photos.id FROM photos WHERE photos.owner_id = %(owner)s",
        "the token has expired",
    ],
)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_redacting_twice_changes_nothing() -> None:
    text = "password=hunter2 at https://a:b@c/x?y=z with Bearer abcdef0123456789 by kim@example.org"

    once = redact(text)

    assert redact(once) == once


@pytest.mark.parametrize(
    "name", ["password", "access_token", "authorization", "cookie", "user_password", "filename", "original_filename"]
)
def test_fields_with_a_secret_name_are_never_shown(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["task", "route", "statement", "token_id_count", "logger", "check"])
def test_other_fields_are_shown(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "unit", ["a", "a.", "a_", "/a", "a:", "eyJ", "://", "[parameters: ", "input_value=", "token="]
)
def test_long_texts_take_linear_time(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = "?" + unit * (characters // len(unit))
        return min(timeit.repeat(lambda: redact(text), timer=time.thread_time, number=1, repeat=3))

    short, long = seconds(4_000), seconds(32_000)

    assert long < 40 * short + 0.05  # quadratic would be 64 times
