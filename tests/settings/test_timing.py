"""The ten timing inequalities: each says which setting to change and to what, and is right when it is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.settings import CONFIG_FOLDER, Settings, load_settings
from app.settings_sources import variable_of
from app.settings_timing import COMPARISONS, Comparison, find_violations, judge_times

if TYPE_CHECKING:
    from tests.settings.conftest import Sandbox

PRODUCTION = {
    "PHOTO_API_PROFILE": "production",
    "PHOTO_API_SERVER__ALLOWED_HOSTS": "photos.example.org",
    "PHOTO_API_AUTH__KEY_RING_FILE": "/etc/photo-api/keys.json",
}
# The nearest whole second at which a comparison is broken, from the settings of production.
BROKEN = {
    "1": ("server", "drain_lame_duck_seconds", 16),
    "2": ("balancer", "deregistration_delay_seconds", 27),
    "3a": ("edge", "quit_wait_seconds", 27),
    "3b": ("edge", "stop_timeout_seconds", 34),
    "4": ("server", "graceful_timeout_seconds", 29),
    "5": ("server", "stop_timeout_seconds", 89),
    "6": ("server", "drain_stop_timeout_seconds", 24),
    "7": ("balancer", "platform_budget_seconds", 84),
    "8": ("edge", "keep_alive_seconds", 60),
    "9": ("edge", "upstream_keep_alive_seconds", 75),
    "10a": ("edge", "read_timeout_seconds", 28),
    "10b": ("edge", "read_timeout_seconds", 60),
}


def by_number(comparison: Comparison) -> str:
    return comparison.number


def test_there_are_ten_inequalities() -> None:
    numbers = sorted({int(comparison.number.rstrip("ab")) for comparison in COMPARISONS})

    assert numbers == list(range(1, 11))
    assert set(BROKEN) == {comparison.number for comparison in COMPARISONS}


def test_the_shipped_settings_of_production_keep_all_of_them(tmp_path: Path) -> None:
    settings = load_settings(PRODUCTION, working_folder=tmp_path, config_folder=CONFIG_FOLDER)

    assert [judged.comparison.number for judged in judge_times(settings) if not judged.holds] == []


@pytest.mark.parametrize("comparison", COMPARISONS, ids=by_number)
def test_a_broken_one_is_a_mistake_in_production_that_names_the_setting_to_change_and_its_bound(
    sandbox: Sandbox, comparison: Comparison
) -> None:
    section, name, seconds = BROKEN[comparison.number]
    variable = variable_of(section, name)

    mistakes = sandbox.mistakes({**PRODUCTION, variable: str(seconds)})

    assert len(mistakes) == 1
    assert mistakes[0].startswith(f"{variable} and ")
    assert comparison.words in mistakes[0]
    bound = re.search(r"the first must be at (?:least|most) ([0-9.]+) seconds", mistakes[0])
    assert bound is not None
    assert sandbox.mistakes({**PRODUCTION, variable: bound[1]}) == ()


@pytest.mark.parametrize("comparison", COMPARISONS, ids=by_number)
def test_a_broken_one_does_not_matter_in_development_but_for_the_graceful_timeout(
    sandbox: Sandbox, comparison: Comparison
) -> None:
    section, name, seconds = BROKEN[comparison.number]

    mistakes = sandbox.mistakes({variable_of(section, name): str(seconds)})

    assert len(mistakes) == (1 if comparison.number == "4" else 0)


def test_the_lame_duck_counts_every_time_that_a_balancer_takes(sandbox: Sandbox) -> None:
    times = {
        "PHOTO_API_BALANCER__PROBE_INTERVAL_SECONDS": "3.5",
        "PHOTO_API_BALANCER__UNHEALTHY_THRESHOLD": "4",
        "PHOTO_API_BALANCER__PROBE_TIMEOUT_SECONDS": "2",
        "PHOTO_API_BALANCER__PROPAGATION_SECONDS": "6.5",
    }

    mistakes = sandbox.mistakes({**PRODUCTION, **times})

    assert [re.findall(r"at least ([0-9.]+) seconds", mistake) for mistake in mistakes] == [["22.5"]]


def test_without_a_balancer_no_lame_duck_is_needed(sandbox: Sandbox) -> None:
    nobody = {
        f"PHOTO_API_BALANCER__{name}_SECONDS": "0" for name in ("PROBE_INTERVAL", "PROBE_TIMEOUT", "PROPAGATION")
    }

    mistakes = sandbox.mistakes({**PRODUCTION, **nobody, "PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS": "0"})

    assert mistakes == ()


def test_every_comparison_is_judged_whatever_the_profile() -> None:
    judged = judge_times(Settings())

    assert [each.comparison for each in judged] == list(COMPARISONS)
    assert [each.comparison.number for each in judged if not each.holds] == ["1"]
    assert list(find_violations(Settings())) == []


def test_every_setting_of_a_comparison_is_used_by_it(tmp_path: Path) -> None:
    settings = load_settings(PRODUCTION, working_folder=tmp_path, config_folder=CONFIG_FOLDER)
    unused = []
    for comparison in COMPARISONS:
        before = (comparison.left(settings), comparison.right(settings))
        for section, name in (comparison.change, *comparison.others):
            model = getattr(settings, section)
            more = model.model_copy(update={name: getattr(model, name) + 1})
            changed = settings.model_copy(update={section: more})
            if (comparison.left(changed), comparison.right(changed)) == before:
                unused.append((comparison.number, name))

    assert unused == []
