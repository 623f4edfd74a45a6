"""The route that signed links lead to."""

from __future__ import annotations

from typing import Final

from flask import Flask, Response, request

from app.http import conditional
from app.http.application import Answer
from app.photos.originals import ServingObserver
from app.photos.serving_routes import PhotoServing, ServedPhoto
from app.photos.signed_links import EXTENSIONS, LinkedObject, SignedLinks
from app.storage.base import ObjectCorruptError, ObjectStore


class OriginLinks:
    """``/o/…``: the bytes behind a signed link, for whoever has it.

    It is no operation of the API's document: what a link looks like is nobody's business but its maker's.

    Args:
        links: Who judges them.
        store: Where the bytes are.
        serving: Who answers with them.
        observer: Who hears of damage.
    """

    path: Final = "/o/<path:link>"

    def __init__(
        self,
        links: SignedLinks,
        store: ObjectStore,
        serving: PhotoServing,
        observer: ServingObserver,
    ) -> None:
        self._links = links
        self._store = store
        self._serving = serving
        self._observer = observer

    def mount(self, app: Flask) -> None:
        """Add the route to an app."""
        app.add_url_rule(
            self.path, endpoint=self.path, view_func=self.follow, methods=["GET"], provide_automatic_options=False
        )

    def follow(self, link: str) -> Response:
        """Answer with the bytes. The database is asked only when the store has none.

        Raises:
            LinkNotValidError: The link does not hold.
            PreconditionFailedError: The client goes on with other bytes.
            NotFoundError: The photo was removed.
            StorageError: The store failed, or has lost the photo's bytes.
        """
        del link  # what is judged is what came, not what a router has made of it
        linked = self._links.judge(request.environ.get("RAW_URI", ""))
        caching = {
            "Cache-Control": f"private, max-age={linked.seconds_left}, no-transform",
            "Cross-Origin-Resource-Policy": "cross-origin",  # links are made for pages of any place
        }
        conditional.require_current(linked.sha256)
        if conditional.has_tags() and conditional.is_unchanged(linked.sha256):
            return Answer(304, None, {"ETag": conditional.quoted(linked.sha256), **caching})
        with self._serving.while_there(linked.object_key):
            reply = self._serving.answer(self._look_up(linked), caching)
        return reply if isinstance(reply, Response) else Answer(reply.status, None, reply.headers)

    def _look_up(self, linked: LinkedObject) -> ServedPhoto:
        info = self._store.head(linked.object_key)
        if info.sha256 != linked.sha256:
            self._observer.checksum_mismatch()
            raise ObjectCorruptError("The stored photo is not the one that was uploaded.")
        return ServedPhoto(
            object_key=linked.object_key,
            sha256=linked.sha256,
            size_bytes=info.size_bytes,
            content_type=linked.content_type,
            modified_at=info.modified_at,
            filename=f"{linked.sha256}.{EXTENSIONS[linked.content_type]}",
        )
