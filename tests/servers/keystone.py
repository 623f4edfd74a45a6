"""A real Keystone, and a real Swift that believes its tokens: some twenty seconds to start, for ``make extended``.

Both live in a virtual environment of their own, which ``make extended`` makes:

    python3 -m venv .venv-keystone && .venv-keystone/bin/pip install --require-hashes -r requirements-keystone.txt
"""

from __future__ import annotations

import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from app.storage.swift import SwiftConfig
from app.storage.swift_identity import SwiftIdentity
from tests.servers.base import READY_SECONDS, ServerStartError, skip_without

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = REPOSITORY / ".venv-keystone" / "bin" / "python"
ADMIN_PASSWORD = "an-administrators-password"
USERNAME = "app@example.org"
PASSWORD = "a-password-of-the-app"
CONTAINER = "photos"


class _Child:
    """A process that says its port, and ends when its input does."""

    def __init__(self, folder: Path, script: str, *arguments: str) -> None:
        self._log = folder / f"{script}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(PYTHON), "-P", "-W", "ignore", str(Path(__file__).with_name(script)), str(folder), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], 2 * READY_SECONDS)[0] or not (line := output.readline()):
            self.stop()
            raise ServerStartError(self._log.read_text(errors="replace")[-4000:])
        self.url = f"http://127.0.0.1:{int(line)}"

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class KeystoneCloud:
    """Keystone and Swift, with a project, a user and an empty container. A context manager.

    Args:
        folder: Where they keep everything.
        token_seconds: How long tokens live.
    """

    def __init__(self, folder: Path, *, token_seconds: int = 3600) -> None:
        if not PYTHON.exists():
            skip_without("Keystone is not installed: `make extended` makes .venv-keystone")
        for name in ("keystone", "swift"):
            (folder / name).mkdir()
        self._children = [_Child(folder / "keystone", "keystone_process.py", str(token_seconds))]
        try:
            self.auth_url = f"{self._children[0].url}/v3"
            self._children.append(_Child(folder / "swift", "swift_process.py", self.auth_url))
            self._session = requests.Session()
            self._project_id = self._seed(f"{self._children[1].url}/v1/AUTH_$(project_id)s")
        except BaseException:
            self.close()
            raise

    def config(self) -> SwiftConfig:
        """Return how to reach the container."""
        identity = SwiftIdentity(
            auth_url=self.auth_url,
            version="3",
            username=USERNAME,
            password=PASSWORD,
            tenant_id=self._project_id,
            region="KR1",
        )
        return SwiftConfig(identity=identity, container=CONTAINER)

    def revoke(self, token: str) -> None:
        """Make one token void."""
        headers = {"X-Subject-Token": token}
        self._session.delete(f"{self.auth_url}/auth/tokens", headers=headers, timeout=20).raise_for_status()

    def close(self) -> None:
        for child in reversed(self._children):
            child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seed(self, storage_url: str) -> str:
        """Make what a cloud's operator makes; return the project's id."""
        self._session.headers["X-Auth-Token"] = self._sign_in("admin", ADMIN_PASSWORD, {"name": "admin", **_DOMAIN})
        service = self._make("project", name="service", domain_id="default")["id"]
        project: str = self._make("project", name="photos", domain_id="default")["id"]
        swift = self._make("user", name="swift", password="swift-asks", domain_id="default")["id"]
        user = self._make("user", name=USERNAME, password=PASSWORD, domain_id="default")["id"]
        roles = {role["name"]: role["id"] for role in self._get("roles")}
        for project_id, user_id, role in ((service, swift, "admin"), (project, user, "member")):
            self._session.put(
                f"{self.auth_url}/projects/{project_id}/users/{user_id}/roles/{roles[role]}", timeout=20
            ).raise_for_status()
        store = self._make("service", name="swift", type="object-store")["id"]
        for interface in ("public", "internal"):
            self._make("endpoint", interface=interface, region_id="KR1", service_id=store, url=storage_url)
        token = self._sign_in(USERNAME, PASSWORD, {"id": project})
        address = storage_url.replace("$(project_id)s", project)
        requests.put(f"{address}/{CONTAINER}", headers={"X-Auth-Token": token}, timeout=20).raise_for_status()
        return project

    def _sign_in(self, name: str, password: str, project: dict[str, Any]) -> str:
        user = {"name": name, "password": password, **_DOMAIN}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": project},
            }
        }
        answer = requests.post(f"{self.auth_url}/auth/tokens", json=body, timeout=20)
        answer.raise_for_status()
        return answer.headers["X-Subject-Token"]

    def _make(self, kind: str, **fields: Any) -> dict[str, Any]:
        answer = self._session.post(f"{self.auth_url}/{kind}s", json={kind: fields}, timeout=20)
        answer.raise_for_status()
        made: dict[str, Any] = answer.json()[kind]
        return made

    def _get(self, kinds: str) -> list[dict[str, Any]]:
        answer = self._session.get(f"{self.auth_url}/{kinds}", timeout=20)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()[kinds]
        return found


_DOMAIN = {"domain": {"id": "default"}}
