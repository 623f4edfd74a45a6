"""The engine as the settings want it."""

from __future__ import annotations

from pathlib import Path

from app.images.build import build_engine
from app.images.jobs import Output, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.trial import small_png
from app.settings_renditions import RenditionSettings
from tests.fakes.memory_body import MemoryBody


def test_an_engine_renders_and_its_scratch_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "scratch"
    engine = build_engine(RenditionSettings(scratch_dir=folder))
    picture = small_png(64)
    job = RenderJob(
        content_type="image/png",
        width=64,
        height=64,
        frames=1,
        size_bytes=len(picture),
        outputs=(Output(Preset("thumbnail", 32), Format.WEBP),),
        quality=Quality(),
        describes=True,
    )

    rendered = engine.render(MemoryBody(picture), job)
    engine.close()

    assert folder.is_dir()
    assert (rendered.images[0].width, rendered.images[0].height) == (32, 32)
    assert rendered.thumbhash is not None
