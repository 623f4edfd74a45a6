"""The CDN at start-up: can a URL be signed with these settings?

One URL is signed that nobody gets. NHN's API is asked for it once; where it is down, that is no mistake. The edge
itself is not asked: health does that all the time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

from app.cdn.build import build_bare_signer
from app.errors import ConfigurationError, UnavailableError, UpstreamDeniedError
from app.settings_delivery import CdnSettings
from app.stability import Deadline, deadline_scope
from app.upstream.observing import SilentObserver

_log = logging.getLogger(__name__)

_SECONDS = 10.0
_PATH = "/probe/startup"
_LIFE = timedelta(minutes=1)


def find_mistakes(cdn: CdnSettings) -> Iterator[str]:
    """Yield what an operator has to mend, one line each, without any value of a setting.

    Args:
        cdn: Settings that are valid by themselves.
    """
    try:
        signer = build_bare_signer(cdn, SilentObserver())
    except ConfigurationError as error:
        yield from error.mistakes
        return
    if signer is None:
        return
    with closing(signer):
        try:
            with deadline_scope(Deadline(_SECONDS)):
                signer.sign(_PATH, expires_at=datetime.now(UTC) + _LIFE)
        except UpstreamDeniedError as error:
            yield f"PHOTO_API_CDN__…: {error.__cause__ or error.detail}"
        except UnavailableError as error:
            _log.warning("the CDN's API does not answer at start; starting without it: %s", error.detail)
