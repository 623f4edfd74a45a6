"""The drill of `make delivery-drill`, with short stages; and that its checks fail where nothing guards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.drills.breaker_drill import conduct
from tests.drills.delivery import REDIS, SHORT, DeliveryDrill, Scene
from tests.drills.delivery_drill import running_scene
from tests.drills.journal import DrillFailedError, Journal

IMPATIENT = replace(SHORT, news_seconds=20.0)
"""Longer than the product needs to notice anything."""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """What all tests of this file share; the last one leaves it with other settings."""
    with running_scene(SHORT) as running:
        yield running


def test_whatever_is_cut_and_comes_back_people_get_what_there_is(scene: Scene) -> None:
    lines: list[str] = []
    journal = Journal(lines.append)

    code = conduct(DeliveryDrill(scene, SHORT, journal).run, journal)

    assert code == 0, "\n".join(lines)
    assert [number for number in range(1, 8) if any(f"s] {number}. " in line for line in lines)] == [*range(1, 8)]
    assert journal.checks == sum("   ok   " in line for line in lines) > 60


def test_where_the_breaker_of_redis_is_off_everybody_waits_for_it_and_the_drill_fails(scene: Scene) -> None:
    scene.product.command("breakers", "set", REDIS, "disabled", "--reason", "control")
    drill = DeliveryDrill(scene, IMPATIENT, Journal(list[str]().append))

    with drill.reading():
        drill.all_is_well()
        with pytest.raises(DrillFailedError, match=r"^metadata in .* when all was well$"):
            drill.silence_redis()

    scene.product.command("breakers", "reset", REDIS)


def test_where_nobody_asks_storage_for_links_the_drill_fails(scene: Scene) -> None:
    scene.product.environ["PHOTO_API_LINKS__PRESIGNED"] = "false"
    scene.product.restart()
    drill = DeliveryDrill(scene, IMPATIENT, Journal(list[str]().append))

    with drill.reading():
        drill.all_is_well()
        with pytest.raises(DrillFailedError, match=r"^the last 20 links to lead by storage$"):
            drill.cut_cdn()
