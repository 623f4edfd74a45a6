"""The object store at start: can the settings work, and would links to it keep photos from strangers?

A store that is down is no mistake, one that answers and refuses is: what it said is told, with the settings to see.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from app.stability import Deadline, deadline_scope
from app.storage import probe
from app.storage.base import (
    DenialReason,
    ObjectCorruptError,
    ObjectStore,
    StorageDeniedError,
    StorageError,
    StorageFullError,
)
from app.storage.build import build_store
from app.storage.s3_answers import S3AnswerError
from app.storage.swift_answers import SwiftAnswerError

if TYPE_CHECKING:
    from app.settings import Settings

_log = logging.getLogger(__name__)

_SECONDS = 10.0
_S3 = (
    "Check PHOTO_API_STORAGE__S3_ENDPOINT_URL, PHOTO_API_STORAGE__S3_BUCKET and PHOTO_API_STORAGE__S3_REGION, the "
    "two keys, and that they may put, get, delete and list"
)
_SWIFT_ADDRESS = (
    "Check PHOTO_API_STORAGE__SWIFT_STORAGE_URL (where it is set it ends with the account, as in /v1/AUTH_…)"
)
_SWIFT_RIGHTS = (
    f"{_SWIFT_ADDRESS}, PHOTO_API_STORAGE__SWIFT_TENANT_ID and that the user of PHOTO_API_STORAGE__SWIFT_USERNAME "
    "may read and write the container of PHOTO_API_STORAGE__SWIFT_CONTAINER there"
)
_SWIFT_PLACE = f"{_SWIFT_ADDRESS} and PHOTO_API_STORAGE__SWIFT_CONTAINER"
_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
# A client's mistakes by their class, and yet no mistakes: the server is slow or busy, or asks to be left alone.
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, 498, 499})
_PUBLIC = (
    "PHOTO_API_LINKS__PRESIGNED: anybody may read the container (X-Container-Read has .r:), so whoever gets a link "
    "to it and leaves out its signature has the photo for ever. Set it to false, or take .r:* away from the "
    "container and let the CDN sign in (docs/operations/cdn.md)"
)


def find_storage_mistakes(settings: Settings) -> Iterator[str]:
    """Yield what an operator has to mend of the object store, one line each, without any value of a setting.

    In production, and of a folder, all is tried out; else only what hands out links, where nobody else would notice.

    Args:
        settings: Valid by themselves.
    """
    storage = settings.storage
    questions: list[Callable[[ObjectStore], object]] = [probe.verify_links]
    if settings.profile == "production" or storage.backend == "local":
        questions.insert(0, probe.verify)
    elif storage.backend != "swift":
        return
    prefix = (
        "PHOTO_API_STORAGE__LOCAL_ROOT"
        if storage.backend == "local"
        else f"PHOTO_API_STORAGE__{storage.backend.upper()}_…"
    )
    try:
        with closing(build_store(storage)) as store, deadline_scope(Deadline(_SECONDS)):
            for ask in questions:
                ask(store)
            if settings.links.presigned and probe.is_public(store):
                yield _PUBLIC
    except StorageError as error:
        reason = _reason(error)
        if reason is None:
            _log.warning("the object store does not answer at start; starting without it")
        else:
            yield f"{prefix}: {reason}"


def _reason(error: StorageError) -> str | None:
    """Return what the store refuses and what to look at; None when it is merely down."""
    answer = error.__cause__
    if isinstance(answer, SwiftAnswerError | S3AnswerError) and _is_mistake(answer.status):
        if isinstance(answer, S3AnswerError):
            return f"{answer}. {_S3}"
        return f"{answer}. {_SWIFT_RIGHTS if answer.status in _REFUSED else _SWIFT_PLACE}"
    if isinstance(error, StorageDeniedError | StorageFullError | ObjectCorruptError):
        return str(answer) if isinstance(answer, DenialReason) else error.detail
    return None


def _is_mistake(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING
