"""Renditions for who asks: found, or made once, whatever the number of threads, processes and instances that ask.

::

    get ─► remembered ─────────────────────────────────────────────────────────────► given
             └ no ─► one flight per rendition in this process
                       └─► written down ──────────────────────────────────────────► given
                             ├ no, and memory is short ─────────────────────────────► the next format, or 503
                             └ no ─► claim ─► another one's: wait, look again ─────► given, or 503
                                       └ mine ─► fetch, render, store, write down ─► given, bytes in hand
                                                              └ cannot be stored ──► given, stored later
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from app.errors import DatabaseReadOnlyError, DatabaseUnavailableError, OverloadedError, UndecodableImageError
from app.images.jobs import Output, RenderedImage
from app.images.presets import Format, Preset, Presets
from app.photos.photo_cache import Original
from app.photos.rendition_rows import Claim, Ready, RenditionName
from app.renditions.claims import RenditionClaims
from app.renditions.making import INTERNAL, TOO_COSTLY, UNDECODABLE, RenditionMaker, error_code
from app.stability import Entry, MemoryTier, SingleFlight, remaining_seconds

_log = logging.getLogger(__name__)

_REMEMBERED: Final = 10_000
_REMEMBERED_SECONDS: Final = 300.0
_IN_HAND: Final = 16
_IN_HAND_BYTES: Final = 1024 * 1024
_IN_HAND_SECONDS: Final = 30.0
_REFUSED_SECONDS: Final = 60.0
_FIRST_LOOK_SECONDS: Final = 0.05
_LONGEST_LOOK_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 2.0
_FLIGHT_SECONDS: Final = 60.0


class NotMadeNowError(OverloadedError):
    """This rendition is not there, and too little memory is left to make it."""


class _Level(Protocol):
    def makes(self, image_format: Format, /) -> bool: ...


class Pressure(Protocol):
    """How much is made now; :class:`app.images.pressure.MemoryPressure` is one. Thread-safe."""

    @property
    def level(self) -> _Level:
        """What tells which formats are made now."""
        ...


@dataclass(frozen=True, slots=True)
class MadeRendition:
    """A rendition that can be given.

    Attributes:
        object_key: Where the store has it, or will.
        sha256: Lower-case hex digest of its bytes.
        size_bytes: How many they are.
        created_at: Since when it is there, UTC.
        content: Its bytes, where they are in hand.
        row: What is written down of it; None when it is not stored yet.
    """

    object_key: str
    sha256: str
    size_bytes: int
    created_at: dt.datetime
    content: bytes | None = None
    row: Ready | None = None


class RenditionService:
    """Finds renditions and makes those that are not there. Thread-safe.

    Args:
        claims: Who makes which.
        maker: Makes what is claimed.
        presets: The sizes, and the versions that count now.
        pressure: How much is made now.
        wait_seconds: How long to wait for a rendition that another process makes.
        may_keep: Whether anything is written now; else renditions are made and not kept.
    """

    def __init__(
        self,
        claims: RenditionClaims,
        maker: RenditionMaker,
        presets: Presets,
        pressure: Pressure,
        *,
        wait_seconds: float,
        may_keep: Callable[[], bool] = lambda: True,
    ) -> None:
        self._claims = claims
        self._maker = maker
        self._presets = presets
        self._pressure = pressure
        self._wait_seconds = wait_seconds
        self._may_keep = may_keep
        self._flights = SingleFlight(_FLIGHT_SECONDS)
        self._known = MemoryTier(_REMEMBERED, ttl_seconds=_REMEMBERED_SECONDS)
        self._in_hand = MemoryTier(
            _IN_HAND,
            max_entry_bytes=_IN_HAND_BYTES,
            ttl_seconds=_IN_HAND_SECONDS,
            size_of=lambda made: made.size_bytes,
        )

    def get_best(self, photo: Original, preset: Preset, formats: Sequence[Format]) -> tuple[Format, MadeRendition]:
        """Return a rendition in the first of some formats in which it is there or may be made now, and that format.

        While there is memory this is the first one, and nobody asks about the others.

        Args:
            photo: The original; that the caller may see it was settled before.
            preset: The size.
            formats: What the client takes, best first; one at least.

        Raises what :meth:`get` raises, and :class:`NotMadeNowError` where none of them is there or may be made.
        """
        for image_format in formats:
            try:
                return image_format, self.get(photo, preset, image_format)
            except NotMadeNowError:
                continue
            except DatabaseUnavailableError:
                # It may be stored, and cannot be made: what is known without the database is better than nothing.
                known = None if self._pressure.level.makes(image_format) else self._known_of(photo, preset, formats)
                if known is None:
                    raise
                return known
        raise _not_made_now()

    def get(self, photo: Original, preset: Preset, image_format: Format) -> MadeRendition:
        """Return a rendition, which is made if it is not there.

        Args:
            photo: The original; that the caller may see it was settled before.
            preset: The size.
            image_format: The format.

        Raises:
            NotFoundError: The photo was removed meanwhile.
            UndecodableImageError: The photo's pixels cannot be decoded.
            HeifNotInstalledError: This server has no decoder for it (:mod:`app.images.jobs`).
            NotMadeNowError: It is not there, and too little memory is left.
            OverloadedError: It cannot be made in time.
            UnavailableError: It cannot be made now.
            StorageError: The original cannot be read.
        """
        name = self._name(photo, preset, image_format)
        known = self._remembered(name.object_key)
        if known is not None:
            return known
        return self._flights.run(name.object_key, lambda: self._find_or_make(photo, preset, name))

    def make_anew(
        self, photo: Original, preset: Preset, image_format: Format, lost: MadeRendition, *, is_damaged: bool
    ) -> MadeRendition:
        """Return a rendition in place of one that the store has lost or damaged; raises what :meth:`get` raises.

        Args:
            photo: The original.
            preset: The size.
            image_format: The format.
            lost: What the store does not have as it was.
            is_damaged: Whether it has something else instead.
        """
        self._known.remove(lost.object_key)
        row = lost.row
        if row is None:
            return self.get(photo, preset, image_format)
        key = f"{lost.object_key} anew"
        return self._flights.run(key, lambda: self._replaced(photo, preset, row, is_damaged=is_damaged))

    def _replaced(self, photo: Original, preset: Preset, lost: Ready, *, is_damaged: bool) -> MadeRendition:
        try:
            if self._claims.find(lost.name) == lost:  # else another process was faster
                _log.error("the store has lost a rendition; it is made anew", extra={"object_key": lost.object_key})
                if not self._may_keep():
                    return self._unkept(photo, preset, lost.name)
                self._maker.discard(lost, is_stored=is_damaged)
                self._known.remove(lost.object_key)  # who looked it up meanwhile has remembered it again
        except DatabaseReadOnlyError:
            return self._unkept(photo, preset, lost.name)
        return self.get(photo, preset, lost.name.format)

    def _name(self, photo: Original, preset: Preset, image_format: Format) -> RenditionName:
        return RenditionName(photo.id, preset.name, image_format, self._presets.version(preset.name))

    def _known_of(
        self, photo: Original, preset: Preset, formats: Sequence[Format]
    ) -> tuple[Format, MadeRendition] | None:
        """Return a rendition in the first of some formats in which this process remembers it, and that format."""
        for image_format in formats:
            known = self._remembered(self._name(photo, preset, image_format).object_key)
            if known is not None:
                return image_format, known
        return None

    def _remembered(self, key: str) -> MadeRendition | None:
        entry = self._known.get(key) or self._in_hand.get(key)
        if entry is None:
            return None
        if entry.is_negative:
            raise type(entry.value)(entry.value.detail)
        found: MadeRendition = entry.value
        return found

    def _find_or_make(self, photo: Original, preset: Preset, name: RenditionName) -> MadeRendition:
        remembered = self._remembered(name.object_key)
        if remembered is not None:
            return remembered
        ready = self._claims.find(name)
        if ready is not None:
            return self._stored(ready)
        if not self._pressure.level.makes(name.format):
            raise _not_made_now()
        try:
            if not self._may_keep():
                return self._unkept(photo, preset, name)
            return self._make_once(photo, name)
        except DatabaseReadOnlyError:
            return self._unkept(photo, preset, name)
        except UndecodableImageError as error:
            self._note_refused(photo, name, error)
            raise

    def _make_once(self, photo: Original, name: RenditionName) -> MadeRendition:
        ends = time.monotonic() + self._wait_seconds
        pause = _FIRST_LOOK_SECONDS
        while True:
            self._refuse_failed(photo)
            taken = self._claims.take([name])[0]
            if isinstance(taken, Ready):
                return self._stored(taken)
            if isinstance(taken, Claim):
                return self._make(photo, taken)
            self._wait(pause, ends)
            pause = min(2 * pause, _LONGEST_LOOK_SECONDS)

    def _wait(self, pause: float, ends: float) -> None:
        """Wait a little for another maker, who may end at any moment, in whatever way."""
        left = min(remaining_seconds(pause), ends - time.monotonic())
        if left <= 0:
            raise OverloadedError(
                "This rendition is being made. Try again in a moment.", retry_after_seconds=_RETRY_SECONDS
            )
        time.sleep(left)

    def _make(self, photo: Original, mine: Claim) -> MadeRendition:
        _, (kept,) = self._maker.make(photo, [mine])
        if kept.ready is None:
            made = _in_hand(mine.name, kept.image)
            self._in_hand.put(made.object_key, Entry(made.object_key, made, _IN_HAND_SECONDS), _IN_HAND_SECONDS)
            return made
        stored = self._stored(kept.ready)
        if stored.sha256 != hashlib.sha256(kept.image.content).hexdigest():
            return stored  # an earlier maker's, adopted: its bytes are others
        return MadeRendition(
            stored.object_key, stored.sha256, stored.size_bytes, stored.created_at, kept.image.content, stored.row
        )

    def _unkept(self, photo: Original, preset: Preset, name: RenditionName) -> MadeRendition:
        """Make a rendition where nothing can be written down: nobody else knows of it."""
        if not self._pressure.level.makes(name.format):
            raise _not_made_now()
        self._refuse_failed(photo)
        rendered = self._maker.render(photo, [Output(preset, name.format)])
        made = _in_hand(name, rendered.images[0])
        self._in_hand.put(made.object_key, Entry(made.object_key, made, _IN_HAND_SECONDS), _IN_HAND_SECONDS)
        return made

    def _stored(self, ready: Ready) -> MadeRendition:
        facts = ready.made
        made = MadeRendition(ready.object_key, facts.sha256, facts.size_bytes, ready.created_at, None, ready)
        self._known.put(ready.object_key, Entry(ready.object_key, made, _REMEMBERED_SECONDS), _REMEMBERED_SECONDS)
        self._in_hand.remove(ready.object_key)
        return made

    def _refuse_failed(self, photo: Original) -> None:
        processing = self._claims.processing(photo.id)
        if processing is not None and processing.error == UNDECODABLE:
            raise UndecodableImageError(
                "The pixels of this photo cannot be decoded. Export it again, or try another file."
            )

    def _note_refused(self, photo: Original, name: RenditionName, error: UndecodableImageError) -> None:
        """Remember that a photo cannot be decoded: here for a while, and for all if nobody ever could.

        That it took too much, or that something else failed, is not written down: the queue's tries settle that.
        """
        code = error_code(error)
        entry = Entry(name.object_key, error, _REFUSED_SECONDS, is_negative=True)
        self._known.put(name.object_key, entry, _REFUSED_SECONDS)
        try:
            processing = None if code in {TOO_COSTLY, INTERNAL} else self._claims.processing(photo.id)
            if processing is not None and processing.is_open and self._may_keep():
                self._claims.mark_failed(processing, code)
        except DatabaseUnavailableError:
            _log.warning("that a photo cannot be decoded could not be written down", exc_info=True)


def _not_made_now() -> NotMadeNowError:
    return NotMadeNowError(
        "This server has little memory left and does not make this rendition now. Try again in a moment.",
        retry_after_seconds=_RETRY_SECONDS,
    )


def _in_hand(name: RenditionName, image: RenderedImage) -> MadeRendition:
    digest = hashlib.sha256(image.content).hexdigest()
    return MadeRendition(name.object_key, digest, len(image.content), dt.datetime.now(dt.UTC), image.content)
