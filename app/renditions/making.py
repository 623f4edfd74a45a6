"""Making renditions that are claimed: the original comes, one decode, each result is stored and written down.

::

    fetch     the original, into scratch
    render    all of them from one decode, in a process of the engine
    store     create-only; what an earlier maker has left is adopted
    finish    fenced by the claim, and by the photo being there

What dies between two steps leaves claims that end by themselves; who takes them over finds the object, or makes it.
A rendition that cannot be stored is given to who has asked for it all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from app.errors import DatabaseUnavailableError, UndecodableImageError
from app.images.jobs import (
    HeifNotInstalledError,
    Output,
    Rendered,
    RenderedImage,
    RenderingFaultError,
    RenderJob,
    TooCostlyError,
)
from app.photos.photo_cache import Original
from app.photos.rendition_rows import Claim, Ready
from app.renditions.claims import RenditionClaims
from app.renditions.objects import RenditionObjects
from app.stability import DeadlineExceededError
from app.storage.base import Body, StorageDeniedError, StorageError, StorageFullError

if TYPE_CHECKING:
    from app.images.presets import Presets

_log = logging.getLogger(__name__)

_REFUSED_PUTS: Final = (StorageDeniedError, StorageFullError)
"""What the store says of a PUT that it has not taken and will not take."""

UNDECODABLE: Final = "undecodable"
"""The code of a photo that the decoder refuses."""

HEIF_NOT_INSTALLED: Final = "heif-not-installed"
"""The code of a photo for whose format this server has no decoder."""

INTERNAL: Final = "internal"
"""The code of a photo that could not be worked on for a reason that is not its own."""

TOO_COSTLY: Final = "too-costly"
"""The code of a photo that takes more time or memory than one may."""


def error_code(error: UndecodableImageError) -> str:
    """Return why a photo cannot be decoded, as a code that stays the same."""
    if isinstance(error, TooCostlyError):
        return TOO_COSTLY
    if isinstance(error, RenderingFaultError):
        return INTERNAL
    return HEIF_NOT_INSTALLED if isinstance(error, HeifNotInstalledError) else UNDECODABLE


class Engine(Protocol):
    """Renders photos; :class:`app.images.engine.ImageEngine` is one. Thread-safe."""

    def render(self, body: Body, job: RenderJob, *, background: bool = False) -> Rendered:
        """Render a photo; blocks until it is done, within the current deadline.

        Raises:
            UndecodableImageError: The decoder refused it.
            UnavailableError: It cannot be rendered now.
            DeadlineExceededError: The current deadline has passed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A rendition that has just been made.

    Attributes:
        mine: The claim under which it was.
        image: Its bytes.
        ready: Its row; None when it could not be stored.
    """

    mine: Claim
    image: RenderedImage
    ready: Ready | None


class RenditionMaker:
    """Makes renditions. Thread-safe.

    Args:
        claims: The database's side.
        objects: The store's side.
        engine: Decodes and encodes.
        presets: The sizes.
        shrinks_early: Tells whether memory is to be saved now at some cost of sharpness.
    """

    def __init__(
        self,
        claims: RenditionClaims,
        objects: RenditionObjects,
        engine: Engine,
        presets: Presets,
        *,
        shrinks_early: Callable[[], bool],
    ) -> None:
        self._claims = claims
        self._objects = objects
        self._engine = engine
        self._presets = presets
        self._shrinks_early = shrinks_early

    def make(
        self,
        photo: Original,
        mine: Sequence[Claim],
        *,
        describes: bool = False,
        background: bool = False,
    ) -> tuple[Rendered, list[Kept]]:
        """Make and store renditions of one photo.

        Args:
            photo: The original.
            mine: What was claimed of it; after an error it is given back.
            describes: Whether thumbhash and dominant colour are wanted.
            background: Whether nobody waits for it. Then a row of the outbox stands for it already.

        Raises:
            UndecodableImageError: The decoder refused the photo.
            StorageError: The original cannot be read.
            UnavailableError: It cannot be rendered now.
            DeadlineExceededError: The current deadline has passed.
        """
        with self._claims.held(mine):
            try:
                outputs = [self.output_of(each) for each in mine]
                rendered = self.render(photo, outputs, describes=describes, background=background)
            except BaseException:
                self._claims.give_back(mine)
                raise
            kept = [
                Kept(each, image, self._keep(each, image, queued=background))
                for each, image in zip(mine, rendered.images, strict=True)
            ]
        return rendered, kept

    def render(
        self, photo: Original, outputs: Sequence[Output], *, describes: bool = False, background: bool = False
    ) -> Rendered:
        """Make renditions, and keep none. Raises what :meth:`make` raises."""
        with self._objects.fetch(photo) as body:
            job = RenderJob(
                content_type=photo.content_type,
                width=photo.width,
                height=photo.height,
                size_bytes=photo.size_bytes,
                outputs=tuple(outputs),
                quality=self._presets.quality,
                describes=describes,
                shrinks_early=self._shrinks_early(),
            )
            return self._engine.render(body, job, background=background)

    def discard(self, lost: Ready, *, is_stored: bool) -> None:
        """Remove the row of a rendition, so that it is made anew.

        Args:
            lost: It.
            is_stored: Whether the store has something under its key, which is removed before.

        Raises:
            StorageError: It could not be removed.
            DatabaseUnavailableError: The row may still be there.
        """
        if is_stored:  # without a row it would be taken for what an earlier maker has left
            self._objects.remove(lost.object_key)
        self._claims.forget(lost)

    def output_of(self, mine: Claim) -> Output:
        """Return what is to be made under a claim."""
        preset = self._presets.find(mine.name.preset)
        if preset is None:
            raise ValueError(f"no preset has the name {mine.name.preset!r}")
        return Output(preset, mine.name.format)

    def _keep(self, mine: Claim, image: RenderedImage, *, queued: bool) -> Ready | None:
        try:
            made = self._objects.store(mine.name.object_key, image)
            return self._claims.finish(mine, made)
        except (StorageError, DeadlineExceededError) as error:
            _log.warning("a rendition could not be stored; it will be later", exc_info=True)
            self._claims.postpone(mine, queued=queued, may_arrive=not isinstance(error, _REFUSED_PUTS))
        except DatabaseUnavailableError:
            _log.warning("a rendition is stored, and not written down; who makes it next will find it", exc_info=True)
        except BaseException:
            self._claims.postpone(mine, queued=queued)
            raise
        return None
