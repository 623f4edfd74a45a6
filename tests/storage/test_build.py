"""From the settings to a store: the one that is named, and no other vendor's library."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings_delivery import StorageSettings
from app.storage.build import build_store
from app.storage.links import FileStore, PresignedStore, find_capability

ROOT = Path(__file__).resolve().parents[2]
SECRET = SecretStr("wJalrXUtnFEMI")
SETTINGS = {
    "local": StorageSettings(),
    "s3": StorageSettings(
        backend="s3",
        s3_endpoint_url="http://127.0.0.1:9",
        s3_bucket="photos",
        s3_access_key_id=SecretStr("AKIAZ7Q3"),
        s3_secret_access_key=SECRET,
    ),
    "swift": StorageSettings(
        backend="swift",
        swift_auth_url="http://127.0.0.1:9",
        swift_auth_version="1",
        swift_username="test:tester",
        swift_password=SECRET,
        swift_container="photos",
        swift_temp_url_key=SECRET,
    ),
}


@pytest.mark.parametrize(
    ("backend", "names_files", "makes_links"), [("local", True, False), ("s3", False, True), ("swift", False, True)]
)
def test_the_store_that_is_named_is_built_and_calls_nobody(
    tmp_path: Path, backend: str, names_files: bool, makes_links: bool
) -> None:
    settings = SETTINGS[backend].model_copy(update={"local_root": tmp_path})

    with closing(build_store(settings)) as store:
        assert (find_capability(store, FileStore) is not None) is names_files
        assert (find_capability(store, PresignedStore) is not None) is makes_links


def test_a_folder_needs_no_vendors_library(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom app.settings_delivery import StorageSettings\nfrom app.storage.build import build_store\n"
        "build_store(StorageSettings(local_root=sys.argv[1]))\n"
        "print({'botocore', 'boto3', 'requests'} & {*sys.modules})"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "set()\n"
