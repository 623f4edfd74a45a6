"""Faults of this host alone: the spool is full or not writable, the log's end is gone, the settings are wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.chaos.invariants import require_consistency, require_whole
from tests.integration.judging import assert_problem, stored
from tests.servers.base import find_free_port, skip_without
from tests.servers.client import new_photo
from tests.servers.product import START_SECONDS, Product, until
from tests.servers.stacks import EMBEDDED, embedded_stack

NewProduct = Callable[..., Product]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Yield a folder on a file system of its own; only root can make one."""
    if os.getuid() != 0:
        skip_without("only root can mount a small disk")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        skip_without("this machine lets nobody mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_row_35_a_full_spool_refuses_uploads_and_then_the_host_is_not_ready(
    new_product: NewProduct, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "80m") as disk:
        product = new_product(settings={"PHOTO_API_UPLOADS__SPOOL_DIR": str(disk / "spool")})
        user = product.new_user()
        kept = new_photo(2_000_000)
        photo = user.upload(kept)
        workers = product.worker_pids()
        filler = disk / "filler"
        filler.write_bytes(bytes(79 * 1024 * 1024))

        # A refusal in the middle of a body ends its connection: the next request needs another.
        refused = [user.twin().send(new_photo(3_000_000)), user.twin().send_form(new_photo(3_000_000))]
        small = user.send(new_photo())
        read = user.original(photo)
        until(lambda: requests.get(f"{product.url}/health/readiness", timeout=10).status_code == 503, "not ready", 40)
        alive = requests.get(f"{product.url}/health/liveness", timeout=10)

        for answer in refused:
            assert_problem(answer, 503, "spool-full")
        assert small.status_code == 201  # it fits into memory
        assert (read.status_code, read.content) == (200, kept)
        assert alive.status_code == 200
        assert product.metric("photo_api_spool_free_bytes") < 2 * 1024 * 1024
        filler.unlink()
        until(lambda: requests.get(f"{product.url}/health/readiness", timeout=10).status_code == 200, "ready again")
        assert user.twin().send(new_photo(3_000_000)).status_code == 201
        assert product.worker_pids() == workers
        until(lambda: list((disk / "spool").iterdir()) == [], "the spool to be empty")
        require_consistency(product, user)
        require_whole(user, {photo["id"]: kept})
        product.stop()


def test_workers_killed_on_a_full_disk_come_back_and_serve_what_is_there(
    new_product: NewProduct, stack_name: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "var", "60m") as disk:
        stack = embedded_stack(disk) if stack_name == EMBEDDED else None
        product = new_product(stack=stack)
        user = product.new_user()
        content = new_photo(1_500_000)
        photo = user.upload(content)
        fill(disk / "filler")

        for _ in range(2):
            kill_workers(product)
            workers = product.worker_pids()
            reads = [user.twin().original(photo) for _ in range(10)]

            assert {(read.status_code, read.content) for read in reads} == {(200, content)}
            assert product.worker_pids() == workers
            assert requests.get(f"{product.management_url}/metrics", timeout=10).status_code == 200

        (disk / "filler").unlink()
        product.kill_workers()
        assert user.twin().send(new_photo(2_000_000)).status_code == 201
        require_whole(user.twin(), {photo["id"]: content})
        product.stop()


def fill(filler: Path) -> None:
    """Write until the disk is full to the last page."""
    with filler.open("wb", buffering=0) as file:
        for size_bytes in (1024 * 1024, 4096):
            with suppress(OSError):
                while file.write(bytes(size_bytes)) == size_bytes:
                    pass


def kill_workers(product: Product) -> None:
    """Kill every worker and wait until others answer; without room they have no metrics that could tell."""
    before = product.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(product.worker_pids() - before) == len(before), "new workers", START_SECONDS)
    until(lambda: answers(product), "an answer", START_SECONDS)


def answers(product: Product) -> bool:
    try:
        return requests.get(f"{product.url}/health/liveness", timeout=10).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.parametrize("trouble", ["foreign files", "no folder"])
def test_workers_killed_while_the_local_store_is_in_trouble_come_back(tmp_path: Path, trouble: str) -> None:
    with closing(Product(embedded_stack(tmp_path), tmp_path)) as product:
        user = product.new_user()
        content = new_photo()
        photo = user.upload(content)
        folder = product.stack.objects_folder
        assert folder is not None
        away = folder.with_name("unmounted")
        if trouble == "foreign files":
            for name in ("", "incoming", "objects"):
                (folder / name / ".DS_Store").touch()
        else:
            folder.rename(away)
            folder.touch()  # also root can make no folder there

        product.kill_workers()

        if trouble == "no folder":
            until(lambda: requests.get(f"{product.url}/health", timeout=10).json()["status"] == "warn", "a warning")
            assert requests.get(f"{product.url}/health/readiness", timeout=10).status_code == 200
            assert user.twin().original(photo).status_code in {502, 503}
            folder.unlink()
            away.rename(folder)
        assert user.twin().original(photo).content == content
        assert user.twin().send(new_photo()).status_code == 201


def test_row_36_a_spool_that_cannot_be_written_refuses_large_uploads_and_warns(new_product: NewProduct) -> None:
    product = new_product()
    user = product.new_user()
    photo = user.upload()

    with product.blocked(product.spool_folder):
        refused = user.twin().send(new_photo(3_000_000))
        small = user.send(new_photo())

        assert_problem(refused, 503, "spool-full")
        assert small.status_code == 201
        assert user.original(photo).status_code == 200
        until(lambda: requests.get(f"{product.url}/health", timeout=10).json()["status"] == "warn", "a warning")
        assert requests.get(f"{product.url}/health/readiness", timeout=10).status_code == 200
        assert stored(product, user) == (2, 2)
    assert user.twin().send(new_photo(3_000_000)).status_code == 201


@pytest.mark.parametrize("sink", ["full", "gone", "stuck"])
def test_row_37_a_log_that_takes_nothing_costs_nothing(new_product: NewProduct, sink: str) -> None:
    if sink == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
        product = new_product(stdout=descriptor)
    else:
        reader, descriptor = os.pipe()
        if sink == "gone":
            os.close(reader)
        else:
            os.set_blocking(descriptor, False)
            while True:  # nobody reads, and there is no room
                try:
                    os.write(descriptor, bytes(4096))
                except BlockingIOError:
                    break
            os.set_blocking(descriptor, True)
        product = new_product(stdout=descriptor, settings={"PHOTO_API_LOG__QUEUE_SIZE": "100"})
    user = product.new_user()
    workers = product.worker_pids()

    contents = [new_photo() for _ in range(4)]
    acknowledged = {user.upload(content)["id"]: content for content in contents}
    answers = [user.get("/api/v1/photos") for _ in range(250)]

    assert {answer.status_code for answer in answers} == {200}
    until(lambda: product.metric("photo_api_log_dropped_total") > 0, "lost lines to be counted")
    assert requests.get(f"{product.url}/health/readiness", timeout=10).status_code == 200
    assert product.worker_pids() == workers
    require_whole(user, acknowledged)
    product.stop()
    os.close(descriptor)
    if sink == "stuck":
        os.close(reader)


BAD_SETTINGS = {
    "mistyped": {"PHOTO_API_STORAGE__BUCKETT": "x"},
    "out-of-range": {"PHOTO_API_UPLOADS__LEASE_SECONDS": "0"},
    "weak-secret": {"PHOTO_API_AUTH__JWT_SECRET": "swordfish-swordfish"},
    "both-key-families": {
        "PHOTO_API_AUTH__JWT_SECRET": "a7Xq0pLm3ZsVd8RtYw2KcNf6HbJg1EuT9oQi",
        "PHOTO_API_AUTH__KEY_RING_FILE": "ring.json",
    },
}


@pytest.mark.parametrize("mistake", BAD_SETTINGS)
def test_row_54_wrong_settings_end_with_78_before_anything_listens(product: Product, mistake: str) -> None:
    port = find_free_port()
    environ = {**product.environ, **BAD_SETTINGS[mistake], "PHOTO_API_SERVER__BIND": f"127.0.0.1:{port}"}

    done = subprocess.run(
        product.serve_command,
        cwd=product.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    said = done.stdout + done.stderr
    assert done.returncode == 78
    assert next(iter(BAD_SETTINGS[mistake])) in said
    assert "swordfish" not in said
    assert "a7Xq0pLm3" not in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
