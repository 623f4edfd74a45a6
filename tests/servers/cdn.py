"""The edge of a CDN: a real nginx that verifies signatures, keeps copies, answers ranges and asks an origin.

Two kinds: ``edge_auth`` verifies the tokens of NHN and Akamai (``cdn_tokens.js``), ``secure_link`` is nginx's own
module as ``docs/operations/cdn.md`` says to configure it. An edge can be stopped, come back on its port, answer every
request with a status of its own, and lose single copies, as after a purge.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from tests.servers.base import find_free_port, skip_without
from tests.servers.nginx import Nginx

_MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
_SCRIPT = Path(__file__).with_name("cdn_tokens.js")

_COPIES = """
    proxy_cache_path $FOLDER/copies levels=1:2 keys_zone=copies:1m max_size=64m inactive=10m use_temp_path=off;
"""
_FROM_ORIGIN = """
            proxy_pass {origin}$photo_path;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Cookie "";
            proxy_set_header token "";
            proxy_connect_timeout 2s;
            proxy_read_timeout 10s;
            proxy_cache copies;
            proxy_cache_key $photo_path;
            proxy_cache_valid 200 10m;
            proxy_cache_lock on;
            proxy_force_ranges on;
            add_header X-Cache $upstream_cache_status always;
"""
_EDGE_AUTH = """
    js_path {scripts};
    js_import tokens from cdn_tokens.js;
    js_set $refusal tokens.refusal;
    js_set $photo_path tokens.path;
    server {{
        listen 127.0.0.1:$PORT;
        set $edge_key {key};
        location / {{
            if ($refusal) {{ return 403 $refusal; }}
{from_origin}
        }}
    }}
"""
_SECURE_LINK = """
    map $request_uri $photo_path {{ ~^(?<plain>[^?]*) $plain; }}
    server {{
        listen 127.0.0.1:$PORT;
        location / {{
            secure_link $arg_md5,$arg_expires;
            secure_link_md5 "{key} $secure_link_expires $uri {key}";
            if ($secure_link = "") {{ return 403; }}
            if ($secure_link = "0") {{ return 410; }}
{from_origin}
        }}
    }}
"""
_BROKEN = "server {{ listen 127.0.0.1:$PORT; return {status}; }}"


class CdnEdge:
    """A running edge.

    Args:
        folder: Its own.
        origin: ``http://host:port[/path]``, what the path of a photo is appended to; the host is an address.
        key: Hexadecimal digits for ``edge_auth``, the secret for ``secure_link``.
        kind: What it verifies.
    """

    def __init__(
        self, folder: Path, origin: str, key: str, kind: Literal["edge_auth", "secure_link"] = "edge_auth"
    ) -> None:
        if kind == "edge_auth" and not _MODULE.exists():
            skip_without("nginx has no njs: apt-get install libnginx-mod-http-js")
        self._folder = folder
        self._main = f"load_module {_MODULE};" if kind == "edge_auth" else ""
        from_origin = _FROM_ORIGIN.format(origin=origin.rstrip("/"))
        template = _EDGE_AUTH if kind == "edge_auth" else _SECURE_LINK
        self._http = _COPIES + template.format(scripts=_SCRIPT.parent, key=key, from_origin=from_origin)
        self._port = find_free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._nginx: Nginx | None = None
        self.start()

    @property
    def log(self) -> str:
        """What nginx has said."""
        return (self._folder / "nginx.log").read_text(errors="replace")

    def start(self) -> None:
        """Serve, with the copies of before."""
        self._run(self._http)

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self._nginx is not None:
            self._nginx.stop()
            self._nginx = None

    def answer_everything(self, status: int) -> None:
        """Answer every request with a status, until :meth:`start`."""
        self._run(_BROKEN.format(status=status))

    def forget(self, path: str) -> None:
        """Lose the copy of one photo.

        Args:
            path: As it was sent, without a query.
        """
        name = hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()
        (self._folder / "copies" / name[-1] / name[-3:-1] / name).unlink(missing_ok=True)

    def _run(self, http: str) -> None:
        self.stop()
        self._nginx = Nginx(self._folder, http, main=self._main, port=self._port)
