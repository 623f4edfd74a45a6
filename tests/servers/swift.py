"""A real OpenStack Swift with s3api, tempauth, tempurl and segments, all servers in one process, ready in a second.

It lives in a virtual environment of its own, which ``make test`` makes:

    python3 -m venv .venv-swift && .venv-swift/bin/pip install --require-hashes -r requirements-swift.txt
"""

from __future__ import annotations

import select
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import boto3
import requests
from botocore.config import Config

from app.storage.s3 import S3Config
from app.storage.swift import SwiftConfig
from app.storage.swift_identity import SwiftIdentity
from tests.servers.base import READY_SECONDS, ServerStartError, skip_without

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = REPOSITORY / ".venv-swift" / "bin" / "python"
REGION = "KR1"
ACCESS_KEY_ID = "test:tester"
SECRET_ACCESS_KEY = "testing"
STRANGER_ACCESS_KEY_ID = "test:stranger"
ACCOUNT_PATH = "/v1/AUTH_test"
AUTH_PATH = "/auth/v1.0"


class SwiftServer:
    """A running Swift.

    Args:
        folder: Where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        if not PYTHON.exists():
            skip_without("OpenStack Swift is not installed: `make test` makes .venv-swift")
        script = Path(__file__).with_name("swift_process.py")
        self._log = folder / "swift.log"
        # -P: beside the script lies a module that has the name of Swift's own package.
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(PYTHON), "-P", "-W", "ignore", str(script), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.port = self._read_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def create_bucket(self) -> str:
        """Make a new, empty bucket and return its name."""
        name = f"photos-{uuid.uuid4().hex[:12]}"
        self._client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})  # type: ignore[typeddict-item]  # Swift's region, not AWS's
        return name

    def config(self, bucket: str, *, endpoint_url: str | None = None) -> S3Config:
        """Return how to reach a bucket, through another endpoint (a proxy) if one is given."""
        config = S3Config(
            endpoint_url=self.url,
            bucket=bucket,
            region=REGION,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
        )
        return config if endpoint_url is None else replace(config, endpoint_url=endpoint_url)

    def swift_config(self, container: str, *, url: str | None = None) -> SwiftConfig:
        """Return how to reach a container in Swift's own protocol, through another endpoint if one is given.

        TempAuth names the account at the host that it was asked at, so the bytes go through that endpoint, too.
        """
        return SwiftConfig(
            identity=SwiftIdentity(
                auth_url=f"{url or self.url}{AUTH_PATH}",
                version="1",
                username=ACCESS_KEY_ID,
                password=SECRET_ACCESS_KEY,
            ),
            container=container,
        )

    def new_token(self) -> str:
        """Return a token of the account."""
        headers = {"X-Auth-User": ACCESS_KEY_ID, "X-Auth-Key": SECRET_ACCESS_KEY}
        answer = requests.get(self.url + AUTH_PATH, headers=headers, timeout=20)
        answer.raise_for_status()
        return answer.headers["X-Auth-Token"]

    def revoke_tokens(self) -> None:
        """Make every token void."""
        requests.delete(f"{self.url}/test/tokens", timeout=20).raise_for_status()

    def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> requests.Response:
        """Ask for something below the account, with a token of its owner, beside any adapter."""
        answer = requests.request(
            method,
            f"{self.url}{ACCOUNT_PATH}/{path}",
            headers={"X-Auth-Token": self.new_token(), **(headers or {})},
            data=content,
            timeout=20,
        )
        answer.raise_for_status()
        return answer

    def stop(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.communicate()

    def _read_port(self) -> int:
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], READY_SECONDS)[0] or not (line := output.readline()):
            self._process.kill()
            self._process.communicate()
            raise ServerStartError(self._log.read_text(errors="replace")[-4000:])
        return int(line)
