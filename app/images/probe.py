"""What an uploaded file is, told from its bytes and nothing else.

The type is decided by content and by an allow-list; the name and the declared type of an upload have no
say. Everything is read from headers and structure: no pixel is decoded, at most a few windows of 64 KiB are
held, and the time is linear in the size of the file. Damage that shows in the structure is found here;
damage of pixels is found by the image engine, and bytes behind the end of the image are allowed.

One module per format family does the reading: ``jpeg``, ``png``, ``gif``, ``webp``, ``isobmff``; ``formats``
chooses among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.images.formats import read_structure
from app.images.limits import ImageLimits
from app.images.structure import Source
from app.storage.base import Body

__all__ = ["DEFAULT_LIMITS", "ImageLimits", "ProbedImage", "probe"]

DEFAULT_LIMITS = ImageLimits()
"""The limits that hold when nothing else is configured."""

_SIDEWAYS = 5
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedImage:
    """What is known of an image without decoding it.

    Attributes:
        content_type: ``image/jpeg``, ``png``, ``webp``, ``gif``, ``avif``, ``heic`` or ``heif``.
        extension: The usual file name extension, without the dot.
        width: Pixels, upright (after the orientation).
        height: Pixels, upright.
        orientation: 1 to 8 as Exif numbers it; 1 is upright already.
        frames: Pictures of an animation or sequence, else 1.
        scans: Passes of a JPEG, else 1.
        camera: Make and model, printable, at most 128 characters.
        taken_at: UTC; a time without an offset is read as UTC.
        latitude: Degrees north, known only together with the longitude.
        longitude: Degrees east.
    """

    content_type: str
    extension: str
    width: int
    height: int
    orientation: int
    frames: int
    scans: int
    camera: str | None
    taken_at: datetime | None
    latitude: float | None
    longitude: float | None


def probe(body: Body, limits: ImageLimits = DEFAULT_LIMITS) -> ProbedImage:
    """Tell what an uploaded file is. Thread-safe; the body is opened once and closed again.

    Args:
        body: The file.
        limits: What an image may demand.

    Raises:
        UnsupportedMediaTypeError: It is no image of an accepted format.
        UndecodableImageError: It is cut off, or its structure is damaged.
        ImageLimitError: It demands more than the limits allow.
    """
    with body.open() as stream:
        structure = read_structure(Source(stream, body.size_bytes), limits)
    orientation = structure.orientation or structure.exif.orientation
    width, height = structure.width, structure.height
    if orientation >= _SIDEWAYS:
        width, height = height, width
    return ProbedImage(
        content_type=structure.content_type,
        extension=_EXTENSIONS[structure.content_type],
        width=width,
        height=height,
        orientation=orientation,
        frames=structure.frames,
        scans=structure.scans,
        camera=structure.exif.camera,
        taken_at=structure.exif.taken_at,
        latitude=structure.exif.latitude,
        longitude=structure.exif.longitude,
    )
