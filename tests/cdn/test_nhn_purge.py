"""Purges by NHN's API: whole URLs, in one order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.cdn.nhn_api import NhnApi
from app.cdn.nhn_purge import NhnPurger
from app.errors import UnavailableError
from tests.fakes.call_observer import RememberingObserver
from tests.servers.nhn_cdn import APP_KEY, SECRET_KEY, NhnCdn


@pytest.fixture
def server() -> Iterator[NhnCdn]:
    with NhnCdn() as running:
        yield running


@pytest.fixture
def observer() -> RememberingObserver:
    return RememberingObserver()


@pytest.fixture
def purger(server: NhnCdn, observer: RememberingObserver) -> Iterator[NhnPurger]:
    api = NhnApi(server.url, app_key=APP_KEY, secret_key=SECRET_KEY, timeout_seconds=20, observer=observer)
    purger = NhnPurger(api, "https://abc.toastcdn.net/p/")
    yield purger
    purger.close()


def test_copies_are_named_by_their_urls(server: NhnCdn, purger: NhnPurger, observer: RememberingObserver) -> None:
    purger.purge(["/o/a.jpg", "/o/b%20c.jpg"])

    assert server.purged == ["https://abc.toastcdn.net/p/o/a.jpg", "https://abc.toastcdn.net/p/o/b%20c.jpg"]
    assert observer.calls == [("cdn", "purge", "success", "")]


def test_an_order_that_is_not_taken_is_an_error(server: NhnCdn, purger: NhnPurger) -> None:
    server.fails_with = 30001

    with pytest.raises(UnavailableError):
        purger.purge(["/a"])


def test_a_path_in_another_form_is_not_sent(server: NhnCdn, purger: NhnPurger) -> None:
    with pytest.raises(ValueError, match="canonical"):
        purger.purge(["/a", "/../b"])

    assert server.purged == []
