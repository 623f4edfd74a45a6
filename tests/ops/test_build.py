"""What is said of the build is what its builder has said, and nothing that is not known."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from app.ops.build import VERSION, find_build, find_instance

FACTS = {"source": "https://example.org/photo-api", "commit": "0a1b2c", "build": "https://ci.example.org/7"}


def test_a_build_says_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "version.json"
    file.write_bytes(orjson.dumps({"version": VERSION, **FACTS}))

    assert find_build(file) == {"version": VERSION, **FACTS}


def test_without_a_builder_only_the_version_is_known(tmp_path: Path) -> None:
    assert find_build(tmp_path / "version.json") == {"version": VERSION}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        orjson.dumps(FACTS),
        orjson.dumps({"version": "999.0.0", **FACTS}),
        orjson.dumps({"version": VERSION, "source": 7, "commit": "", "build": "x" * 501}),
    ],
    ids=["broken", "no object", "no version", "another version", "no texts"],
)
def test_what_cannot_be_right_is_not_said(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "version.json"
    file.write_bytes(content)

    assert find_build(file) == {"version": VERSION}


def test_an_instance_without_configuration_finds_itself() -> None:
    instance = find_instance()

    assert instance.ip.count(".") == 3
    assert instance.node_name
