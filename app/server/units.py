"""systemd's units, rendered from the settings and the templates of ``deploy/vm-autoscaling/systemd/``.

They are stopped in the reverse order of their start: first the drain unit, for as long as the lame duck lasts, then
nginx, then the server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.errors import ConfigurationError
from app.settings import Settings

TEMPLATES: Final = Path(__file__).resolve().parents[2] / "deploy" / "vm-autoscaling" / "systemd"
"""The folder of the templates."""

UNITS: Final = {
    "photo-api.service": "photo-api.service.j2",
    "photo-api-drain.service": "photo-api-drain.service.j2",
    "nginx.service.d/photo-api.conf": "nginx-photo-api.conf.j2",
}
"""Each file below ``/etc/systemd/system``, and its template."""

_PLAIN = re.compile(r"/[A-Za-z0-9._+@/-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def render_systemd(settings: Settings, *, home: str, python: str, user: str) -> dict[str, str]:
    """Render the units.

    Args:
        settings: Valid ones.
        home: The folder of this program, absolute.
        python: The interpreter that has its packages, absolute.
        user: Whom the server runs as.

    Returns:
        Texts by the files' paths below ``/etc/systemd/system``.

    Raises:
        ConfigurationError: A path or the user cannot stand in a unit.
    """
    mistakes = [
        f"{what}: must be an absolute path of letters, digits and . _ + @ - /, or systemd reads it otherwise"
        for what, path in (("the folder of this program", home), ("the interpreter's path", python))
        if not _PLAIN.fullmatch(path)
    ]
    if not _USER.fullmatch(user):
        mistakes.append("--user: must be a user's name")
    if mistakes:
        raise ConfigurationError(mistakes, profile=settings.profile)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # no HTML; every value was judged
    )
    values = {
        "home": home,
        "python": python,
        "user": user,
        "profile": settings.profile,
        "stop_seconds": f"{settings.server.stop_timeout_seconds:g}",
        "drain_stop_seconds": f"{settings.server.drain_stop_timeout_seconds:g}",
        "lame_duck_seconds": f"{settings.server.drain_lame_duck_seconds:g}",
        "nginx_stop_seconds": settings.edge.stop_timeout_seconds,
    }
    return {name: environment.get_template(template).render(values) for name, template in UNITS.items()}
