"""Probes are answered beside the product; everything else is the product's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from app.server.probe_split import ProbeSplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def answering(word: bytes) -> Any:
    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        return [word]

    return application


@pytest.mark.parametrize(
    ("path", "answer"),
    [("/health", b"probes"), ("/health/", b"product"), ("/metrics", b"product"), ("/", b"product")],
)
def test_only_the_very_paths_of_probes_pass_by_the_product(path: str, answer: bytes) -> None:
    split = ProbeSplit(answering(b"product"), answering(b"probes"), probe_paths={"/health"})

    assert b"".join(split({"PATH_INFO": path}, lambda *_: lambda _bytes: None)) == answer


def test_a_request_without_a_path_is_the_products() -> None:
    split = ProbeSplit(answering(b"product"), answering(b"probes"), probe_paths={"/health"})

    assert b"".join(split({}, lambda *_: lambda _bytes: None)) == b"product"
