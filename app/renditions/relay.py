"""Renditions that nobody has asked for yet: right after an upload, after an outage of the store, in a rebuild.

One thread per worker takes photos from the queue, one after the other, each behind everybody who waits for one. It
stands still while modes forbid such work, and while memory is short.

What becomes of a photo::

    made                                    described, done
    the decoder refuses it                  failed, at once: the same bytes will not be better
    it takes too much memory or time        failed, after some tries: the host may have been slow
    its original is lost or damaged         failed, after some tries
    pressure, store, database, no turn      waits, and nothing is counted against it
    anything else                           failed, after some tries
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from app.errors import (
    DatabaseUnavailableError,
    DecoderKilledError,
    NotFoundError,
    UnavailableError,
    UndecodableImageError,
)
from app.images.presets import Format, Presets
from app.photos.rendition_rows import Busy, Claim, RenditionName
from app.renditions.claims import Processing, RenditionClaims
from app.renditions.making import INTERNAL, TOO_COSTLY, RenditionMaker, error_code
from app.renditions.queue import RenderQueue, RenderTask
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from app.storage.base import ObjectCorruptError, ObjectNotFoundError

_log = logging.getLogger(__name__)

ORIGINAL_LOST: Final = "original-lost"
"""The code of a photo whose bytes the store does not have, or has damaged."""

TRIES: Final = 5
"""How often a photo is tried before it has failed."""

_PAUSE_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 15.0
_BACKOFF_SECONDS_MAX: Final = 300.0
_LEASE_MARGIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Eager:
    """What is made of every photo.

    Attributes:
        presets: Names of sizes.
        formats: Each of them in each of these.
    """

    presets: tuple[str, ...]
    formats: tuple[Format, ...]


class RenditionRelay:
    """The thread. :meth:`start` once, :meth:`close` once.

    Args:
        queue: What is to be made.
        claims: Who makes which.
        maker: Makes it.
        presets: The sizes, and the versions that count now.
        eager: What is made of every photo.
        makes: Tells whether a format is made now.
        may_work: Whether such work is done now.
        work_seconds: How long one photo may take, its waits included.
        rests: Called whenever there is nothing to do.
    """

    def __init__(
        self,
        queue: RenderQueue,
        claims: RenditionClaims,
        maker: RenditionMaker,
        presets: Presets,
        eager: Eager,
        *,
        makes: Callable[[Format], bool],
        may_work: Callable[[], bool],
        work_seconds: float,
        rests: Callable[[], object] = lambda: None,
    ) -> None:
        self._queue = queue
        self._claims = claims
        self._maker = maker
        self._presets = presets
        self._eager = eager
        self._makes = makes
        self._may_work = may_work
        self._work_seconds = work_seconds
        self._rests = rests
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renditions", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further photo; the one that is worked on now goes on."""
        self._closed.set()

    def close(self, seconds: float = 5.0) -> bool:
        """Stop after the photo that is worked on now.

        Args:
            seconds: How long to wait for it.

        Returns:
            False when it still runs; its row is then due again by itself.
        """
        self.stop()
        if self._thread.ident is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def run_once(self) -> bool:
        """Work on the photo that has waited longest.

        Returns:
            Whether to go on at once; else nothing is due, or something failed that would fail again.

        Raises:
            DatabaseUnavailableError: It cannot be known what is due; or what came of it is not written down, and
                the photo's turn comes again.
        """
        task = self._queue.take(self._work_seconds + _LEASE_MARGIN_SECONDS)
        if task is None:
            return False
        try:
            with deadline_scope(Deadline(self._work_seconds)):
                return self._work(task)
        except NotFoundError:  # removed meanwhile
            self._queue.done(task)
        except UndecodableImageError as error:
            code = error_code(error)
            (self._count if code in {TOO_COSTLY, INTERNAL} else self._fail)(task, code)
        except (ObjectNotFoundError, ObjectCorruptError):
            _log.exception("the original of a photo is lost", extra={"photo_id": str(task.photo_id)})
            self._count(task, ORIGINAL_LOST)
        except DecoderKilledError:
            self._count(task, INTERNAL)
            return False
        except (UnavailableError, DeadlineExceededError) as error:
            _log.warning("renditions cannot be made now; trying again later: %s", error)
            self._queue.postpone(task, _RETRY_SECONDS, counted=False)
            return False
        except Exception:  # noqa: BLE001  # one photo must not stop the others
            _log.exception("renditions could not be made", extra={"photo_id": str(task.photo_id)})
            self._count(task, INTERNAL)
        return True

    def _work(self, task: RenderTask) -> bool:
        photo = self._claims.processing(task.photo_id)
        if photo is None:
            self._queue.done(task)
            return True
        if task.attempts > TRIES:  # every worker that took it has died
            self._fail(task, INTERNAL)
            return True
        wanted = self._names(task)
        names = [name for name in wanted if self._makes(name.format)]
        if wanted and not names:
            self._queue.postpone(task, _RETRY_SECONDS, counted=False)
            return False
        taken = self._claims.take(names) if names else []
        mine = [each for each in taken if isinstance(each, Claim)]
        is_stored = self._make(photo, mine, describes=task.outputs is None and not photo.is_done)
        if names != wanted or any(isinstance(each, Busy) for each in taken) or not is_stored:
            self._queue.postpone(task, _RETRY_SECONDS, counted=False)
            return is_stored
        self._queue.done(task)
        return True

    def _make(self, photo: Processing, mine: Sequence[Claim], *, describes: bool) -> bool:
        """Return whether all of it is stored."""
        if not mine and not describes:
            return True
        rendered, kept = self._maker.make(photo.original, mine, describes=describes, background=True)
        if rendered.thumbhash is not None and rendered.dominant_color is not None:
            self._claims.describe(photo, rendered.thumbhash, rendered.dominant_color)
        return all(each.ready is not None for each in kept)

    def _names(self, task: RenderTask) -> list[RenditionName]:
        wanted = task.outputs
        if wanted is None:
            wanted = tuple((preset, each.value) for preset in self._eager.presets for each in self._eager.formats)
        formats = {each.value: each for each in Format}
        return [
            RenditionName(task.photo_id, preset, formats[name], self._presets.version(preset))
            for preset, name in wanted
            if name in formats and self._presets.find(preset) is not None
        ]

    def _count(self, task: RenderTask, code: str) -> None:
        if task.attempts >= TRIES:
            self._fail(task, code)
        else:
            seconds = min(_BACKOFF_SECONDS_MAX, _RETRY_SECONDS * 2.0 ** (task.attempts - 1))
            self._queue.postpone(task, seconds, counted=True)

    def _fail(self, task: RenderTask, code: str) -> None:
        photo = self._claims.processing(task.photo_id)
        # A size that cannot be made says nothing of a photo that was decoded.
        if photo is not None and not photo.is_done:
            _log.warning("a photo cannot be decoded", extra={"photo_id": str(task.photo_id), "code": code})
            self._claims.mark_failed(photo, code)
        self._queue.done(task)

    def _run(self) -> None:
        while not self._closed.is_set():
            goes_on = False
            try:
                goes_on = self._may_work() and self.run_once()
                if not goes_on:
                    self._rests()
            except DatabaseUnavailableError:
                _log.warning("the queue of renditions cannot be read; trying again")
            except Exception:  # noqa: BLE001  # nothing may end the thread
                _log.exception("the relay of renditions failed; it goes on")
            if not goes_on:
                # Not all workers at once.
                self._closed.wait(_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  # keeps workers apart; no secret
