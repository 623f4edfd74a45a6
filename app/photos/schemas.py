"""What clients send and get for photos; validation and the OpenAPI document both come from here.

Photos are not written through their model but by :mod:`app.photos.documents`: a list of fifty is the hottest
answer of the product. A test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, RootModel, StringConstraints

from app.http.fields import Instant, Line, Tag, Text
from app.http.operations import QueryModel, RequestModel

TAGS_MAX = 50
BATCH_MAX = 100
DIGESTS_MAX = 1000

ContentType = Literal["image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/heic", "image/heif"]
Title = Annotated[Line, StringConstraints(max_length=200), Field(examples=["First light"])]
Description = Annotated[Text, StringConstraints(max_length=4000), Field(examples=["From the pier, before the wind."])]
Digest = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{64}$"),
    Field(examples=["44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]),
]

_PATH = "/api/v1/photos/019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21"  # in examples


def _without_repeats(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _refuse_repeats(ids: list[UUID]) -> list[UUID]:
    if len(set(ids)) < len(ids):
        raise ValueError("the same id stands here twice")
    return ids


Tags = Annotated[
    list[Tag], Field(max_length=TAGS_MAX, examples=[["sea", "morning"]]), AfterValidator(_without_repeats)
]
Ids = Annotated[
    list[UUID],
    Field(min_length=1, max_length=BATCH_MAX, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_refuse_repeats),
]


class Place(BaseModel):
    """Where a photo was taken, WGS 84; only with the scope ``photos:geo``."""

    latitude: float = Field(ge=-90, le=90, examples=[54.3233])
    longitude: float = Field(ge=-180, le=180, examples=[10.1228])


class Links(BaseModel):
    """Paths of this API; those of renditions name what is made now, and lead to the same bytes for ever."""

    self: str = Field(examples=[_PATH])
    original: str = Field(examples=[f"{_PATH}/original"])
    thumbnail: str = Field(examples=[f"{_PATH}/renditions/thumbnail?v=7c1f02ab94"])
    preview: str = Field(examples=[f"{_PATH}/renditions/preview?v=0d5be6612f"])
    full: str = Field(examples=[f"{_PATH}/renditions/full?v=a41c93e85d"])


class PhotoWithoutPlace(BaseModel):
    """A photo, without where it was taken."""

    id: UUID
    state: Literal["ready"]
    content_type: ContentType
    size_bytes: int = Field(examples=[3_871_204])
    width: int = Field(description="Pixels, upright: after the orientation was applied.", examples=[4032])
    height: int = Field(description="Pixels, upright.", examples=[3024])
    animated: bool = Field(description="Whether it has several pictures; renditions show the first.")
    sha256: Digest
    thumbhash: str | None = Field(
        description="Base64 of a ThumbHash, to show before the photo; null until it is made.",
        max_length=36,
        examples=["1QcSHQRnh493V4dIh4eXh1h4kJUI"],
    )
    dominant_color: str | None = Field(
        description="Null until it is known.", pattern="^#[0-9a-f]{6}$", examples=["#3a5f7d"]
    )
    processing_state: Literal["waiting", "done", "failed"] = Field(
        description="Whether the photo was decoded: then its thumbhash and dominant color are known."
    )
    processing_error: str | None = Field(
        description="Why it cannot be decoded; null else. A short code that stays the same.", examples=[None]
    )
    title: str | None = Field(examples=["First light"])
    description: str | None = Field(examples=["From the pier, before the wind."])
    tags: list[str] = Field(examples=[["sea", "morning"]])
    favorite: bool
    taken_at: Instant | None
    created_at: Instant
    updated_at: Instant
    trashed_at: Instant | None = Field(
        description="When it was moved to the trash; null outside it.", examples=[None]
    )
    camera: str | None = Field(examples=["FUJIFILM X100V"])
    original_filename: str | None = Field(examples=["DSCF0412.JPG"])
    links: Links


class PhotoView(PhotoWithoutPlace):
    """A photo."""

    place: Place | None = Field(default=None, description="Only with the scope photos:geo, and only when known.")


class UploadAnswer(PhotoWithoutPlace):
    """A photo that was uploaded, or was there already; where it was taken is told when it is fetched."""

    status: Literal["created", "duplicate"]


class PhotoPage(BaseModel):
    """One page of photos."""

    items: list[PhotoView]
    next_cursor: str | None = Field(
        description="Send it as `cursor` for the next page; null on the last.", examples=[None]
    )


class UploadForm(QueryModel):
    """The fields beside `file` in a multipart upload."""

    title: Title | None = None
    description: Description | None = None
    tags: Tags = Field(default_factory=list)
    taken_at: Instant | None = None


class PhotoChanges(RequestModel):
    """What may change: a field left out stays, null clears."""

    title: Title | None = None
    description: Description | None = None
    tags: Tags = Field(default_factory=list)
    favorite: bool = False
    taken_at: Instant | None = None


class PhotoQuery(QueryModel):
    """Filters, order and page of a list."""

    limit: int = Field(default=50, ge=1, le=100)
    cursor: str | None = Field(default=None, max_length=512)
    sort: Literal["-created_at", "created_at", "-taken_at", "taken_at"] = "-created_at"
    tag: Tag | None = None
    q: Annotated[Line, StringConstraints(max_length=100)] | None = Field(
        default=None, description="Part of the title, description, file name or camera, in any case."
    )
    taken_after: Instant | None = Field(default=None, description="Taken at or after this instant.")
    taken_before: Instant | None = Field(default=None, description="Taken before this instant.")
    content_type: ContentType | None = None
    favorite: bool | None = None
    trashed: bool = False


class DeleteQuery(QueryModel):
    """How to delete."""

    permanent: bool = Field(default=False, description="Remove for good instead of moving to the trash.")


class BatchDelete(RequestModel):
    """Move photos to the trash, or remove them."""

    action: Literal["delete"]
    ids: Ids
    permanent: bool = False


class BatchRestore(RequestModel):
    """Take photos out of the trash."""

    action: Literal["restore"]
    ids: Ids


class BatchTag(RequestModel):
    """Add and remove tags."""

    action: Literal["tag"]
    ids: Ids
    add: Tags = Field(default_factory=list)
    remove: Tags = Field(default_factory=list)


class BatchRequest(RootModel[Annotated[BatchDelete | BatchRestore | BatchTag, Field(discriminator="action")]]):
    """One action on up to 100 photos."""


class BatchItem(BaseModel):
    """What became of one photo."""

    id: UUID
    status: Literal[200, 204, 404, 422] = Field(description="As the single request would have answered.")
    detail: str | None = Field(default=None, description="Why not, when it was not done.", examples=[None])


class BatchAnswer(BaseModel):
    """A result per item, in the order of the request."""

    items: list[BatchItem]


class CheckRequest(RequestModel):
    """Digests of photos a client has."""

    digests: Annotated[list[Digest], Field(min_length=1, max_length=DIGESTS_MAX)]


class CheckItem(BaseModel):
    """Whether a digest is there already."""

    digest: Digest
    photo_id: UUID | None = Field(description="The photo with these bytes; null when there is none.")
    trashed_at: Instant | None = Field(description="Since when that photo is in the trash.", examples=[None])


class CheckAnswer(BaseModel):
    """An item per digest, in the order of the request."""

    items: list[CheckItem]
