"""nginx's configuration, rendered from the settings and the templates of the folder ``nginx/``.

Nothing here asks the world: the same settings give the same text. Every value that comes into it was judged before;
:func:`quoted` refuses what could end a word or a string of nginx's language all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.errors import ConfigurationError
from app.ops.probes import PROBE_PATHS
from app.server.edge_delivery import KEYS_FILE, LINK_PATTERN, LinkKey, plan_delivery
from app.server.edge_limits import CLASSES, PROFILES
from app.server.edge_problems import EDGE_PROBLEMS, document
from app.settings import Settings
from app.settings_forms import parse_address

TEMPLATES: Final = Path(__file__).resolve().parents[2] / "nginx"
"""The folder of the templates."""

JSON_BYTES_MAX: Final = 256 * 1024
"""Largest body of a route that takes no photo; as large as the server takes there."""

FORM_BYTES: Final = 128 * 1024
"""What the framing and the fields of a form may weigh besides the photo; as much as the server takes."""

PRIVATE_PATHS: Final = ("/metrics", "/health/detailed", "/api/v1/admin", "/admin", "/internal")
"""What does not exist outside, with everything below."""

_DECIDED_PATH = "^/api/v1/photos/[0-9A-Fa-f-]{36}/(?:original|renditions/[a-z]{1,20})$"
_NOTHING_TO_SEND = (
    "PHOTO_API_EDGE__DECISION_SECONDS: must be 0 as long as nginx can send no photos by itself. A local store needs "
    "PHOTO_API_STORAGE__LOCAL_GROUP_READABLE=true for that; for others see docs/operations/edge.md"
)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound
_FILES_PER_CONNECTION = 2  # a client's and the server's, and the body of one of them on disk now and then
_MEBIBYTE = 1 << 20
_HTTPS_PORT = 443


def render_nginx(settings: Settings, *, folder: Path, link_keys: Sequence[LinkKey] = ()) -> dict[str, str]:
    """Render nginx's files.

    Args:
        settings: Valid ones.
        folder: Where a relative path of the server's unix socket starts, absolute.
        link_keys: The keys of signed links, all that are not retired.

    Returns:
        Texts by file name: ``nginx.conf``, and before it the file of keys where nginx judges links, which is secret.

    Raises:
        ConfigurationError: nginx and the server would listen on the same address, or nginx cannot take the place
            of the photos.
    """
    _require_own_addresses(settings)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # no HTML; what is inserted passes `quoted`
    )
    environment.filters["quoted"] = quoted
    context = _context(settings, folder, link_keys)
    names = {"nginx.conf": "nginx.conf.j2"}
    if context["delivery"].has_links:
        names = {KEYS_FILE: "keys.conf.j2", **names}  # first, because the other one includes it
    return {name: environment.get_template(template).render(context) for name, template in names.items()}


def quoted(text: str) -> str:
    """Return a text as a string of nginx's language, in single quotes; variables in it stay variables.

    Raises:
        ValueError: It holds a line end or another control character.
    """
    if not text.isprintable():
        raise ValueError("a string of nginx's configuration has no control characters")
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _require_own_addresses(settings: Settings) -> None:
    server, edge = parse_address(settings.server.bind), settings.edge
    binds = {"PHOTO_API_EDGE__BIND": parse_address(edge.bind)}
    if edge.tls_certificate_file is not None:
        binds["PHOTO_API_EDGE__TLS_BIND"] = parse_address(edge.tls_bind)
    if edge.decision_seconds:
        binds["PHOTO_API_EDGE__DECISION_BIND"] = parse_address(edge.decision_bind)
    mistakes = [
        f"{name} and PHOTO_API_SERVER__BIND: must be two different addresses"
        for name, bind in binds.items()
        if bind.collides_with(server)
    ]
    mistakes += [
        f"{name} and {other}: must be two different addresses"
        for (other, bind), (name, second) in combinations(binds.items(), 2)
        if bind.collides_with(second)
    ]
    if edge.decision_seconds and not binds["PHOTO_API_EDGE__DECISION_BIND"].is_loopback():
        mistakes.append(
            "PHOTO_API_EDGE__DECISION_BIND: must be an address of this host alone, such as 127.0.0.1:8089"
        )
    if mistakes:
        raise ConfigurationError(mistakes, profile=settings.profile)


def _context(settings: Settings, folder: Path, link_keys: Sequence[LinkKey]) -> dict[str, Any]:
    """Return what the templates name."""
    edge, balancer = settings.edge, settings.balancer
    has_tls = edge.tls_certificate_file is not None
    tls_port = parse_address(edge.tls_bind).port
    delivery = plan_delivery(settings, link_keys)
    if edge.decision_seconds and not delivery.is_possible:
        raise ConfigurationError([_NOTHING_TO_SEND], profile=settings.profile)
    return {
        "edge": edge,
        "balancer": balancer,
        "delivery": delivery,
        "has_decisions": edge.decision_seconds > 0,
        "decided_path": _DECIDED_PATH,
        "decisions": _listen(edge.decision_bind)[0],
        "decisions_port": parse_address(edge.decision_bind).port,
        "link_keys": link_keys,
        "link_pattern": LINK_PATTERN,
        "server_names": list(dict.fromkeys(settings.server.allowed_hosts)),
        "upstream": _upstream(settings.server.bind, folder),
        "listen": _listen(edge.bind),
        "tls_listen": _listen(edge.tls_bind),
        "has_tls": has_tls,
        "tls_port": "" if tls_port == _HTTPS_PORT else f":{tls_port}",
        "listeners": [(_listen(edge.bind), ""), *([(_listen(edge.tls_bind), " ssl")] if has_tls else [])],
        "zones": PROFILES[edge.profile],
        "classes": CLASSES,
        "probe_paths": sorted(PROBE_PATHS),
        "private_paths": [path.removeprefix("/") for path in PRIVATE_PATHS],
        "open_files": edge.worker_connections * _FILES_PER_CONNECTION * 2,
        "upload_bytes_max": settings.uploads.max_bytes + FORM_BYTES,
        "json_bytes_max": JSON_BYTES_MAX,
        "answer_mebibytes_max": math.ceil(settings.uploads.max_bytes / _MEBIBYTE) + 1,
        "problems": [
            (each, document(each, request_id="$photo_api_request_id", retry_after="$photo_api_wait_seconds"))
            for each in EDGE_PROBLEMS
        ],
    }


def _upstream(bind: str, folder: Path) -> str:
    """Return where nginx finds the server: never an address that stands for all of them."""
    address = parse_address(bind)
    if address.path is not None:
        return f"unix:{folder / address.path}"
    host = _WILDCARDS.get(address.host, address.host)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _listen(bind: str) -> tuple[str, ...]:
    """Return the arguments of ``listen``; ``[::]`` takes IPv4 clients as well, under their own addresses."""
    address = parse_address(bind)
    if address.host == "::":
        return (f"0.0.0.0:{address.port}", f"[::]:{address.port}")
    return (f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}",)
