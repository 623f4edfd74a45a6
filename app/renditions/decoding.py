"""Uploads whose pixels are tried before anything is stored: the setting ``uploads.decode_first``."""

from __future__ import annotations

from contextlib import suppress

from app.images.jobs import HeifNotInstalledError, RenderJob
from app.images.presets import Quality
from app.images.probe import ProbedImage
from app.renditions.making import Engine
from app.storage.base import Body


class UploadDecoder:
    """Decodes uploads, and keeps nothing of them: a :class:`app.photos.upload.Decoder`. Thread-safe.

    Args:
        engine: Decodes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def decode(self, body: Body, image: ProbedImage) -> None:
        """Decode a photo as far as its description needs it: to its last line.

        A photo for whose format this server has no decoder is let in: its original can be had.

        Raises:
            UndecodableImageError: It cannot be decoded.
            UnavailableError: It cannot be tried now.
            DeadlineExceededError: The request's time is over.
        """
        job = RenderJob(
            content_type=image.content_type,
            width=image.width,
            height=image.height,
            size_bytes=body.size_bytes,
            outputs=(),
            quality=Quality(),
            describes=True,
        )
        with suppress(HeifNotInstalledError):
            self._engine.render(body, job)
