"""The routes of photos: what a request says, turned into a call of the services, and their answer into HTTP."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote
from uuid import UUID

from flask import request
from sqlalchemy import Row

from app.errors import (
    MalformedRequestError,
    MissingScopeError,
    NotFoundError,
    PreconditionFailedError,
)
from app.http import conditional
from app.http.identity import Principal
from app.http.operations import Changes, Reply, delete, get, patch, post
from app.photos import schemas
from app.photos.documents import GEO_SCOPE, PhotoDocuments, entity_tag, version_prefix, write_json
from app.photos.listing import PhotoLists
from app.photos.service import PhotoService

_ONE = "/api/v1/photos/<uuid:photo_id>"
_IF_MATCH = {"If-Match": "The ETag you read; 412 when the photo has changed since."}


class ConditionObserver(Protocol):
    """Who hears of conditional requests. Must not raise."""

    def conditional_request(self, *, current: bool) -> None:
        """A request came with a condition; the client's copy was current, or not."""
        ...


class PhotoRoutes:
    """Everything below ``/api/v1/photos`` but uploads and originals.

    Args:
        photos: What is there.
        lists: Pages of it.
        documents: Writes it.
        observer: Who hears of conditional requests.
    """

    def __init__(
        self, photos: PhotoService, lists: PhotoLists, documents: PhotoDocuments, observer: ConditionObserver
    ) -> None:
        self._photos = photos
        self._lists = lists
        self._documents = documents
        self._observer = observer

    @post(
        "/api/v1/photos/check",
        summary="Which photos are there already",
        access="photos:read",
        changes=Changes.NOTHING,
        answers={200: schemas.CheckAnswer},
    )
    def check(self, principal: Principal, body: schemas.CheckRequest) -> Reply:
        """Tell for each SHA-256 digest whether those bytes are there, so that a client uploads only the rest."""
        return Reply(200, schemas.CheckAnswer(items=self._photos.check(principal.user_id, body.digests)))

    @post(
        "/api/v1/photos/batch",
        summary="Delete, restore or tag many photos",
        access="photos:write",
        answers={200: schemas.BatchAnswer},
    )
    def batch(self, principal: Principal, body: schemas.BatchRequest) -> Reply:
        """Do one thing to up to 100 photos; deleting needs the scope `photos:delete` besides."""
        if isinstance(body.root, schemas.BatchDelete):
            _require_delete(principal)
        return Reply(200, schemas.BatchAnswer(items=self._photos.batch(principal.user_id, body.root)))

    @get(
        "/api/v1/photos",
        summary="List photos",
        access="photos:read",
        answers={200: schemas.PhotoPage, 304: None},
        sends={200: ("ETag", "Link"), 304: ("ETag",)},
        headers={"If-None-Match": "The ETag you have; 304 when nothing has changed."},
        problems=(MalformedRequestError,),
    )
    def list_photos(self, principal: Principal, query: schemas.PhotoQuery) -> Reply:
        """List photos, newest first by default; pages stay stable while photos come and go."""
        with_place = GEO_SCOPE in principal.scopes
        page = self._lists.page(principal.user_id, query, with_place=with_place)
        tag = self._documents.page_tag(page.rows, page.next_cursor, principal.scopes)
        if conditional.is_unchanged(tag):
            return self._unchanged(tag)
        items = [self._documents.document(row, with_place=with_place) for row in page.rows]
        content = write_json({"items": items, "next_cursor": page.next_cursor})
        headers = {}
        if page.next_cursor is not None:
            arguments = {**request.args, "cursor": page.next_cursor}
            encoded = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in arguments.items())
            headers["Link"] = f'</api/v1/photos?{encoded}>; rel="next"'
        return self._changed(tag, content, headers)

    @get(
        _ONE,
        summary="Show a photo",
        access="photos:read",
        answers={200: schemas.PhotoView, 304: None},
        sends={200: ("ETag",), 304: ("ETag",)},
        headers={"If-None-Match": "The ETag you have; 304 when nothing has changed."},
        problems=(NotFoundError,),
    )
    def show(self, principal: Principal, photo_id: UUID) -> Reply:
        """Show what is known of a photo, also while it is in the trash."""
        known = self._photos.get(principal.user_id, photo_id)
        content = known.with_place if GEO_SCOPE in principal.scopes else known.plain
        tag = entity_tag(known.mark, tells_place=content != known.plain)
        if conditional.is_unchanged(tag):
            return self._unchanged(tag)
        return self._changed(tag, content, {})

    @patch(
        _ONE,
        summary="Change a photo's title, description, tags, favorite, time taken",
        access="photos:write",
        answers={200: schemas.PhotoView},
        sends={200: ("ETag",)},
        headers=_IF_MATCH,
        problems=(NotFoundError, PreconditionFailedError),
    )
    def change(self, principal: Principal, photo_id: UUID, body: schemas.PhotoChanges) -> Reply:
        """Change what you say of a photo: a field left out stays, null clears."""
        with_place = GEO_SCOPE in principal.scopes
        row = self._photos.change(principal.user_id, photo_id, body, _require_match, with_place=with_place)
        return self._photo_reply(principal, row)

    @delete(
        _ONE,
        summary="Delete a photo",
        access="photos:delete",
        answers={204: None},
        headers=_IF_MATCH,
        problems=(NotFoundError, PreconditionFailedError),
    )
    def delete(self, principal: Principal, photo_id: UUID, query: schemas.DeleteQuery) -> Reply:
        """Move a photo to the trash, or remove it for good with `permanent=true`."""
        self._photos.delete(principal.user_id, photo_id, _require_match, is_permanent=query.permanent)
        return Reply(204)

    @post(
        f"{_ONE}/restore",
        summary="Take a photo out of the trash",
        access="photos:write",
        answers={200: schemas.PhotoView},
        sends={200: ("ETag",)},
        problems=(NotFoundError,),
    )
    def restore(self, principal: Principal, photo_id: UUID) -> Reply:
        """Take a photo out of the trash; one that is not in it stays as it is."""
        row = self._photos.restore(principal.user_id, photo_id, with_place=GEO_SCOPE in principal.scopes)
        return self._photo_reply(principal, row)

    def _changed(self, tag: str, content: bytes, headers: dict[str, str]) -> Reply:
        if conditional.has_condition():
            self._observer.conditional_request(current=False)
        return Reply(200, content, {**headers, **_validators(tag)})

    def _unchanged(self, tag: str) -> Reply:
        self._observer.conditional_request(current=True)
        return Reply(304, None, _validators(tag))

    def _photo_reply(self, principal: Principal, row: Row[Any]) -> Reply:
        document = self._documents.document(row, with_place=GEO_SCOPE in principal.scopes)
        tag = entity_tag(self._documents.mark(document, row.version), tells_place="place" in document)
        return Reply(200, write_json(document), {"ETag": conditional.quoted(tag)})


def _validators(tag: str) -> dict[str, str]:
    return {"ETag": conditional.quoted(tag), "Vary": "Authorization, X-Api-Key"}


def _require_match(row: Row[Any]) -> None:
    conditional.require_match(version_prefix(row.version))


def _require_delete(principal: Principal) -> None:
    if "photos:delete" not in principal.scopes:
        raise MissingScopeError("This needs the scope 'photos:delete', which the token or key does not have.")
