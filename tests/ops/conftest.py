"""A page of its own for each test, and a clock that is turned by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.ops.state import PAGE_NAME, StatePage
from app.ops.state_file import make_page
from tests.fakes.clocks import HandClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / PAGE_NAME
    make_page(made, {})
    return made


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def page(path: Path, clock: HandClock) -> StatePage:
    return StatePage(path, clock=clock)
