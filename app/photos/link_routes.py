"""The routes that give owners links to their photos' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from app.errors import NotFoundError
from app.http.identity import Principal
from app.http.operations import Changes, Reply, get, post
from app.images.presets import Format
from app.photos.link_schemas import (
    LinksAnswer,
    LinkSet,
    LinksItem,
    LinksQuery,
    LinksRequest,
    LinkView,
    PhotoLinks,
    RenditionLinks,
    RenditionLinkView,
)
from app.photos.links import Link, LinkedPhoto, LinkService
from app.photos.made_renditions import MadeRendition, MadeRenditions
from app.photos.service import PhotoService

_NOT_KEPT = {"Cache-Control": "private, no-store"}


class LinkRoutes:
    """``/api/v1/photos/{id}/links`` and the same for many photos.

    Args:
        photos: Whose photos they are.
        renditions: Finds those that are made.
        links: Who makes links.
    """

    def __init__(self, photos: PhotoService, renditions: MadeRenditions, links: LinkService) -> None:
        self._photos = photos
        self._renditions = renditions
        self._links = links

    @get(
        "/api/v1/photos/<uuid:photo_id>/links",
        summary="Get links to a photo's bytes",
        access="photos:read",
        answers={200: PhotoLinks},
        problems=(NotFoundError,),
    )
    def links(self, principal: Principal, photo_id: UUID, query: LinksQuery) -> Reply:
        """Get links that need no login: by the CDN, else by the object store, else by this server.

        Which way works now is found out by the server; `via` says it. The same photo has the same link for half of
        a link's life, so that caches on the way help. Of the renditions those have links that are made.
        """
        original = self._photos.get(principal.user_id, photo_id).original
        (links,) = self._link_sets({photo_id: original}, Format(query.format)).values()
        return Reply(200, PhotoLinks(id=photo_id, links=links), _NOT_KEPT)

    @post(
        "/api/v1/photos/links",
        summary="Get links to the bytes of many photos",
        access="photos:read",
        changes=Changes.NOTHING,
        answers={200: LinksAnswer},
    )
    def links_of_many(self, principal: Principal, body: LinksRequest) -> Reply:
        """Get links to up to 100 photos at once, all by the same way; what is not there is said in its item."""
        links = self._link_sets(self._photos.get_originals(principal.user_id, body.ids), Format(body.format))
        items = [
            LinksItem(id=photo_id, status=200, links=links[photo_id])
            if photo_id in links
            else LinksItem(id=photo_id, status=404, detail="There is no such photo.")
            for photo_id in body.ids
        ]
        return Reply(200, LinksAnswer(items=items), _NOT_KEPT)

    def _link_sets(self, originals: Mapping[UUID, LinkedPhoto], image_format: Format) -> dict[UUID, LinkSet]:
        made = self._renditions.find([*originals], image_format)
        wanted = [*originals.values(), *(rendition for each in made.values() for rendition in each)]
        links = iter(self._links.links(wanted))
        views = {photo_id: LinkView(**next(links)._asdict()) for photo_id in originals}
        renditions = {
            photo_id: {rendition.preset: _rendition_view(rendition, next(links)) for rendition in each}
            for photo_id, each in made.items()
        }
        return {
            photo_id: LinkSet(original=view, renditions=RenditionLinks(**renditions.get(photo_id, {})))
            for photo_id, view in views.items()
        }


def _rendition_view(rendition: MadeRendition, link: Link) -> RenditionLinkView:
    facts = {"content_type": rendition.content_type, "width": rendition.width, "height": rendition.height}
    return RenditionLinkView.model_validate({**link._asdict(), **facts})
