"""The engine as the settings want it."""

from __future__ import annotations

from pathlib import Path

from app.images.build import QueueName, build_engine
from app.images.engine import JobOutcome
from app.images.jobs import Output, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.trial import small_png
from app.settings_renditions import RenditionSettings
from tests.fakes.memory_body import MemoryBody


class Listener:
    """Remembers what the queues told."""

    def __init__(self) -> None:
        self.told: list[tuple[QueueName, int, int]] = []

    def engine_queue(self, name: QueueName, in_use: int, waiting: int) -> None:
        self.told.append((name, in_use, waiting))

    def engine_job(self, outcome: JobOutcome, seconds: float) -> None: ...

    def decode_killed(self, reason: str) -> None: ...

    def engine_processes(self, alive: int, at_work: int) -> None: ...


def test_an_engine_renders_and_its_scratch_folder_is_made(tmp_path: Path) -> None:
    folder, heard = tmp_path / "var" / "scratch", Listener()
    engine = build_engine(RenditionSettings(scratch_dir=folder), heard)
    picture = small_png(64)
    job = RenderJob(
        content_type="image/png",
        width=64,
        height=64,
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
    assert [name for name, _, _ in heard.told] == ["turn", "budget", "budget", "turn"]
    assert heard.told[1][1] > len(picture)
