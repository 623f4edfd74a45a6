"""Calls to other services are counted once each, by what came of them."""

from __future__ import annotations

import pytest

from app.upstream.observing import observed
from tests.fakes.call_observer import RememberingObserver


def test_a_block_that_ends_is_a_success() -> None:
    observer = RememberingObserver()

    with observed(observer, "cdn", "purge"):
        pass

    assert observer.calls == [("cdn", "purge", "success", "")]
    assert observer.seconds[0] >= 0


def test_an_error_is_a_failure_by_its_class_and_goes_on() -> None:
    observer = RememberingObserver()

    with pytest.raises(TimeoutError), observed(observer, "cdn", "purge"):
        raise TimeoutError

    assert observer.calls == [("cdn", "purge", "failure", "TimeoutError")]


def test_an_error_that_is_an_answer_is_a_success_and_goes_on() -> None:
    observer = RememberingObserver()

    with pytest.raises(KeyError), observed(observer, "cdn", "purge", answers=(KeyError,)):
        raise KeyError

    assert observer.calls == [("cdn", "purge", "success", "")]
