"""``python -m app render``: files of other programs, made from the settings."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import exit_codes
from app.errors import UnavailableError

if TYPE_CHECKING:
    from app.cli.main import Subparsers
    from app.server.edge_delivery import LinkKey
    from app.settings import AuthSettings

_READABLE = 0o644
_SECRET = 0o600


def register(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands of this module."""
    render = subparsers.add_parser(
        "render",
        help="make nginx's configuration and systemd's units from the settings",
        description="Make files of other programs from the settings, so that limits and times fit to the server's.",
    )
    kinds = render.add_subparsers(title="what to make", metavar="WHAT", required=True)
    nginx = kinds.add_parser(
        "nginx",
        help="nginx.conf for the nginx in front of the server",
        description="Make nginx.conf and, secret, the keys of signed links beside it. Without --output nginx.conf is "
        "printed. Test it with nginx -t before you reload nginx. Make it anew after each `keys rotate`.",
        epilog="exit codes: 0 made; 1 a file cannot be written; 78 the configuration is wrong, nothing is written",
    )
    nginx.add_argument("--output", type=Path, metavar="FOLDER", help="write it into this folder, which must exist")
    nginx.add_argument("--profile", choices=("gallery", "strict"), help="limits instead of those of the settings")
    nginx.set_defaults(run=_render_nginx)
    systemd = kinds.add_parser(
        "systemd",
        help="the units of the server, its drain and nginx",
        description="Make the units that start the server, drain it before anything else stops and let nginx finish. "
        "Without --output they are printed. Check them with systemd-analyze verify.",
        epilog="exit codes: 0 made; 1 a file cannot be written; 78 the configuration is wrong, nothing is written",
    )
    systemd.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write them into this folder, such as /etc/systemd/system"
    )
    systemd.add_argument("--user", default="photo-api", help="whom the server runs as (default: photo-api)")
    systemd.set_defaults(run=_render_systemd)


def _render_nginx(arguments: argparse.Namespace) -> int:
    """Run ``render nginx``."""
    from app.server.edge import render_nginx
    from app.server.edge_delivery import KEYS_FILE, plan_delivery
    from app.settings import load_settings

    settings = load_settings()
    if arguments.profile is not None:
        edge = settings.edge.model_copy(update={"profile": arguments.profile})
        settings = settings.model_copy(update={"edge": edge})
    keys = _link_keys(settings.auth)
    files = render_nginx(settings, folder=Path.cwd(), link_keys=keys)
    if arguments.output is None and files.pop(KEYS_FILE, None) is not None:
        print(f"{KEYS_FILE} is not shown, as it has keys; --output writes it.", file=sys.stderr)
    code = _deliver(files, arguments.output, secret={KEYS_FILE})
    if not keys and plan_delivery(settings, ()).is_possible:
        print("There are no keys yet, so nginx judges no links; render again after the first start.", file=sys.stderr)
    return code


def _link_keys(auth: AuthSettings) -> list[LinkKey]:
    """Return the keys of signed links; none before the server has made its key ring.

    Raises:
        ConfigurationError: There is a key ring, and it cannot be read.
    """
    from app.accounts.keyring import LINK
    from app.accounts.ring_file import open_rings
    from app.photos.signed_links import secret_of
    from app.server.edge_delivery import LinkKey

    if auth.jwt_secret is None and (auth.key_ring_file is None or not os.path.lexists(auth.key_ring_file)):
        return []
    keys = open_rings(auth, create=False).holding(LINK)
    return [LinkKey(key.kid, secret_of(key)) for key in keys]


def _render_systemd(arguments: argparse.Namespace) -> int:
    """Run ``render systemd``."""
    from app.server.units import render_systemd
    from app.settings import load_settings

    home = Path(__file__).resolve().parents[2]
    units = render_systemd(load_settings(), home=str(home), python=sys.executable, user=arguments.user)
    return _deliver(units, arguments.output)


def _deliver(files: Mapping[str, str], folder: Path | None, *, secret: Collection[str] = ()) -> int:
    if folder is None:
        for name, text in files.items():
            print(f"# --- {name}" if len(files) > 1 else "", text, sep="\n" if len(files) > 1 else "", end="")
        return exit_codes.OK
    for name, text in files.items():
        mode = _SECRET if name in secret else _READABLE
        state = "written" if _write(folder / name, text, mode) else "unchanged"
        print(f"{folder / name}: {state}")
    return exit_codes.OK


def _write(path: Path, text: str, mode: int) -> bool:
    """Write a file whole or not at all; tell whether it is another one now.

    Raises:
        UnavailableError: It cannot be written; the file is as it was.
    """
    try:
        if path.parent.name.endswith(".d"):  # the folder of a unit's drop-ins
            path.parent.mkdir(exist_ok=True)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            Path(draft).chmod(mode)
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UnavailableError(
            f"Cannot write {path} ({error.strerror}). Name a folder of yours: --output."
        ) from error
    return True
