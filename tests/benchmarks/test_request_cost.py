"""What a request costs is measured on the product itself, and a wrong answer is no measure."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.test import create_environ

from benchmarks.request_cost import Request, measure


def test_only_the_right_answer_counts() -> None:
    app = Flask("hello")
    app.add_url_rule("/hello", view_func=b"hello".decode)

    Request(app.wsgi_app, create_environ("/hello"))()

    with pytest.raises(AssertionError, match="404"):
        Request(app.wsgi_app, create_environ("/elsewhere"))()


def test_every_layer_is_a_line_beside_a_plain_hello() -> None:
    found = measure(is_quick=True)

    assert [line.name for line in found] == [
        "cost: our routes and answers",
        "cost: and all that is tracked",
        "cost: and who asks",
        "cost: admission",
        "cost: all that but the routes adds",
    ]
    assert {line.beside for line in found} == {"Flask hello"}
    assert all(line.ours > 0 < line.theirs for line in found)
