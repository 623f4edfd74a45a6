"""What the lines of renditions measure: every way makes the same picture, and what it costs is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.images.presets import Format
from benchmarks.renditions import contender, engine_cost
from benchmarks.renditions.originals import Original


@pytest.mark.parametrize("way", contender.WAYS)
def test_every_way_makes_renditions_and_tells_what_they_cost(way: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    Image.linear_gradient("L").convert("RGB").resize((320, 240)).save(file)
    original = Original("0 MP JPEG", file, "image/jpeg", 320, 240)

    cost = engine_cost.cost_of(way, original, (64, 32), (Format.JPEG, Format.WEBP), 0.1)

    assert 500 < cost["made_bytes"] < 20_000
    assert cost["wall_seconds"] > 0
    assert cost["peak_bytes"] > 10_000_000
    assert set(cost) == {"made_bytes", "wall_seconds", "processor_seconds", "peak_bytes"}
