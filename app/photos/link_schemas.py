"""What clients send and get for links to photos' bytes."""

from __future__ import annotations

from typing import Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field

from app.http.fields import Instant
from app.http.operations import QueryModel, RequestModel
from app.photos.schemas import Ids

_URL = (
    "https://photos.example.org/o/originals/2b0c/7f21/"
    "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.jpg"
    "?exp=1790000000&kid=8f3a52c1d0e9&sig=4Q0YcJgY2m6mE1t1f6P8Ww"
)

FormatName: TypeAlias = Literal["jpeg", "webp", "avif"]
"""A format of renditions by its name."""


class LinkView(BaseModel):
    """A link that anyone can follow until it ends."""

    url: str = Field(
        description="Use it octet by octet as it is. It begins with a path where this server's address is not set.",
        examples=[_URL],
    )
    expires_at: Instant
    via: Literal["cdn", "storage", "origin"] = Field(
        description="The way the bytes take: the CDN, the object store itself, or this server."
    )


class RenditionLinkView(LinkView):
    """A link to a rendition."""

    content_type: Literal["image/jpeg", "image/webp", "image/avif"]
    width: int = Field(description="Pixels.", examples=[1080])
    height: int = Field(description="Pixels.", examples=[810])


class RenditionLinks(BaseModel):
    """Links to the renditions that are made already; the others are made by a request for their path."""

    thumbnail: RenditionLinkView | None = Field(default=None, description="Null until it is made.")
    preview: RenditionLinkView | None = Field(default=None, description="Null until it is made.")
    full: RenditionLinkView | None = Field(default=None, description="Null until it is made.")


class LinkSet(BaseModel):
    """A link to each form of a photo."""

    original: LinkView
    renditions: RenditionLinks


class PhotoLinks(BaseModel):
    """Links to a photo's bytes."""

    id: UUID
    links: LinkSet


class LinksQuery(QueryModel):
    """Which renditions are wanted."""

    format: FormatName = Field(default="webp", description="Of the renditions.")


class LinksRequest(RequestModel):
    """Photos to get links to."""

    ids: Ids
    format: FormatName = Field(default="webp", description="Of the renditions.")


class LinksItem(BaseModel):
    """Links to one photo's bytes, or why there are none."""

    id: UUID
    status: Literal[200, 404] = Field(description="As the single request would have answered.")
    links: LinkSet | None = Field(default=None, description="Null when there is no such photo.")
    detail: str | None = Field(default=None, description="Why not, when there are none.", examples=[None])


class LinksAnswer(BaseModel):
    """An item per photo, in the order of the request."""

    items: list[LinksItem]
