"""The public application: probes beside the product.

The workers of the product's own server answer probes in their event loop and never ask for them here; any other WSGI
server does. Metrics and details are a plain 404 on the public listener: nothing in here has such a route.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class ProbeSplit:
    """WSGI application that hands a request to one of two others.

    Args:
        product: What clients come for.
        probes: What balancers ask; stands past the product's host check, limits, log lines and counters.
        probe_paths: What ``probes`` answers.
    """

    def __init__(self, product: WSGIApplication, probes: WSGIApplication, *, probe_paths: Collection[str]) -> None:
        self._product = product
        self._probes = probes
        self._probe_paths = frozenset(probe_paths)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ.get("PATH_INFO") in self._probe_paths:
            return self._probes(environ, start_response)
        return self._product(environ, start_response)
