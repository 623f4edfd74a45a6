"""Does the edge answer? What health asks every few seconds, and what the breaker ``cdn`` judges.

Links lead to the edge while that breaker is closed, and nobody here sees what clients meet there. So the breaker is
fed by this look alone: it opens when the edge fails, lets single looks pass after a while, and closes when they
succeed; links return to the CDN by themselves.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from app.errors import UnavailableError
from app.stability import Pipeline
from app.upstream.json_service import JsonService
from app.upstream.observing import CallObserver, observed

_NAME: Final = "The CDN"


class CdnProbe:
    """Looks at the edge. Thread-safe.

    Args:
        base_url: Of the CDN.
        path: What is asked for, below the base URL; no signature goes with it, a refusal is a sign of life.
        timeout_seconds: Cap on one look.
        pipeline: What stands before it.
        observer: Who hears of the looks.
    """

    def __init__(
        self, base_url: str, *, path: str, timeout_seconds: float, pipeline: Pipeline, observer: CallObserver
    ) -> None:
        self._edge = JsonService(base_url, name=_NAME, timeout_seconds=timeout_seconds)
        self._path = path
        self._pipeline = pipeline
        self._observer = observer

    def look(self) -> None:
        """Ask once; every status below 500 will do.

        Raises:
            UnavailableError: The edge is not reached, or fails.
            CallRefusedError: The breaker is open, and the edge was not asked.
        """
        self._pipeline.call(self._ask)

    def close(self) -> None:
        """Close the connections."""
        self._edge.close()

    def _ask(self) -> None:
        with observed(self._observer, "cdn", "probe"):
            status = self._edge.look(self._path)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise UnavailableError(f"{_NAME} cannot answer now ({status}).")
