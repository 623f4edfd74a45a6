"""The picture that every engine process has to make before it gets photos."""

from __future__ import annotations

import os

import pytest

from app.images.jobs import Rendered, RenderedImage, RenderJob
from app.images.presets import Format
from app.images.probe import probe
from app.images.rendering import render
from app.images.trial import small_png, try_out
from tests.fakes.memory_body import MemoryBody


def test_every_encoder_and_every_decoder_is_tried() -> None:
    tried: list[tuple[str, tuple[Format, ...]]] = []

    def note(descriptor: int, job: RenderJob) -> Rendered:
        assert os.fstat(descriptor).st_size == job.size_bytes
        tried.append((job.content_type, tuple(output.format for output in job.outputs)))
        return Rendered(tuple(RenderedImage(output, b"made", 1, 1) for output in job.outputs))

    try_out(note)

    assert [content_type for content_type, _ in tried] == ["image/png", "image/jpeg", "image/webp", "image/avif"]
    assert {formats for _, formats in tried} == {tuple(Format)}


def test_an_installation_that_renders_passes() -> None:
    try_out(render)


def test_an_installation_that_cannot_render_says_why() -> None:
    def fail(descriptor: int, job: RenderJob) -> Rendered:
        raise RuntimeError("no encoder")

    with pytest.raises(RuntimeError, match="no encoder"):
        try_out(fail)


def test_the_picture_is_a_png() -> None:
    probed = probe(MemoryBody(small_png(16)))

    assert (probed.content_type, probed.width, probed.height) == ("image/png", 16, 16)
