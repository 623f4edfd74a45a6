"""The routes that give owners links to their photos' bytes."""

from __future__ import annotations

from uuid import UUID

from app.errors import NotFoundError
from app.http.identity import Principal
from app.http.operations import Changes, Reply, get, post
from app.photos.link_schemas import LinksAnswer, LinkSet, LinksItem, LinksRequest, LinkView, PhotoLinks
from app.photos.links import Link, LinkService
from app.photos.service import PhotoService

_NOT_KEPT = {"Cache-Control": "private, no-store"}


class LinkRoutes:
    """``/api/v1/photos/{id}/links`` and the same for many photos.

    Args:
        photos: Whose photos they are.
        links: Who makes links.
    """

    def __init__(self, photos: PhotoService, links: LinkService) -> None:
        self._photos = photos
        self._links = links

    @get(
        "/api/v1/photos/<uuid:photo_id>/links",
        summary="Get links to a photo's bytes",
        access="photos:read",
        answers={200: PhotoLinks},
        problems=(NotFoundError,),
    )
    def links(self, principal: Principal, photo_id: UUID) -> Reply:
        """Get links that need no login: by the CDN, else by the object store, else by this server.

        Which way works now is found out by the server; `via` says it. The same photo has the same link for half of
        a link's life, so that caches on the way help.
        """
        row = self._photos.get(principal.user_id, photo_id).original
        (link,) = self._links.links([row])
        return Reply(200, PhotoLinks(id=photo_id, links=_link_set(link)), _NOT_KEPT)

    @post(
        "/api/v1/photos/links",
        summary="Get links to the bytes of many photos",
        access="photos:read",
        changes=Changes.NOTHING,
        answers={200: LinksAnswer},
    )
    def links_of_many(self, principal: Principal, body: LinksRequest) -> Reply:
        """Get links to up to 100 photos at once, all by the same way; what is not there is said in its item."""
        rows = self._photos.get_originals(principal.user_id, body.ids)
        links = dict(zip(rows, self._links.links([*rows.values()]), strict=True))
        items = [
            LinksItem(id=photo_id, status=200, links=_link_set(links[photo_id]))
            if photo_id in links
            else LinksItem(id=photo_id, status=404, detail="There is no such photo.")
            for photo_id in body.ids
        ]
        return Reply(200, LinksAnswer(items=items), _NOT_KEPT)


def _link_set(link: Link) -> LinkSet:
    return LinkSet(original=LinkView(url=link.url, expires_at=link.expires_at, via=link.via))
