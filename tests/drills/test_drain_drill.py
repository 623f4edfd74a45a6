"""The drill of `make drain-drill`, with fewer stops and shorter streams; and that it can fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.drills import drain_drill
from tests.drills.breaker_drill import conduct
from tests.drills.drain import FULL, SHORT, DrainDrill
from tests.drills.drain_drill import main
from tests.drills.group import Group, running_group
from tests.drills.journal import DrillFailedError, Journal
from tests.servers.base import skip_without


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with running_group(SHORT.probing, SHORT.settings(), SHORT.linger_seconds) as running:
        yield running


def test_no_request_is_lost_when_instances_stop_in_turn_and_reload(group: Group) -> None:
    lines: list[str] = []
    journal = Journal(lines.append)

    code = conduct(DrainDrill(group, SHORT, journal).run, journal)

    assert code == 0, "\n".join(lines)
    assert [number for number in range(1, 4) if any(f"s] {number}. " in line for line in lines)] == [1, 2, 3]
    assert sum("its exit code: 0" in line for line in lines) == 2 * SHORT.stops == 4
    assert sum("all workers are new" in line for line in lines) == SHORT.reloads == 2


def test_without_a_lame_duck_the_drill_finds_lost_requests(group: Group) -> None:
    group.restart(0, PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="0")
    drill = DrainDrill(group, replace(SHORT, stops=1), Journal(list[str]().append))

    with pytest.raises(DrillFailedError, match=r"^requests lost so far: \{"):
        drill.stop_by_signal()


def test_if_new_workers_come_after_the_old_ones_the_drill_finds_lost_requests(group: Group) -> None:
    drill = DrainDrill(group, SHORT, Journal(list[str]().append))

    with pytest.raises(DrillFailedError, match=r"^requests lost so far: \{"):
        drill.reload(lambda product: product.kill_workers())


@pytest.mark.extended
def test_no_request_is_lost_in_twenty_stops_by_each_way() -> None:
    lines: list[str] = []
    journal = Journal(lines.append)

    with running_group(FULL.probing, FULL.settings()) as group:
        code = conduct(DrainDrill(group, FULL, journal).run, journal)

    assert code == 0, "\n".join(lines)
    assert sum("its exit code: 0" in line for line in lines) == 40
    assert sum("all workers are new" in line for line in lines) == 10


def test_a_server_that_is_not_installed_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drain_drill, "running_group", lambda *_: skip_without("no haproxy here"))

    code = main([])

    assert code == 1
    assert "The drill cannot run: " in capsys.readouterr().out


def test_an_instance_serves_on_longer_than_the_balancer_needs_to_notice() -> None:
    assert all(plan.lame_duck_seconds > plan.probing.notice_seconds for plan in (SHORT, FULL))
