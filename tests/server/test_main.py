"""``python -m app.server``: two names or none. What it does with them is in the tests of the master."""

from __future__ import annotations

import pytest

from app.server.__main__ import main


@pytest.mark.parametrize("arguments", [["one:app"], ["one:app", "two:app", "three:app"]], ids=len)
def test_one_name_or_three_are_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^usage: python -m app\.server"):
        main(arguments)
