"""Key rings: the file, its making and rotation, and which key signs and verifies."""

from __future__ import annotations

import base64
import json
import logging
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.accounts.keyring import CURSOR, JWT, LINK, REFRESH, RINGS, DerivedRings, KeyRings
from app.accounts.ring_file import RingFile, create_ring_file, open_rings, read_ring_file, rotate_ring_file
from app.errors import ConfigurationError, UnavailableError
from app.settings import AuthSettings
from tests.accounts.world import at_once
from tests.fakes.clocks import HandClock

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")


def entry(**changes: Any) -> dict[str, Any]:
    return {"kid": "k1", "key": KEY, "not_before": "2026-01-01T00:00:00Z", "retire_at": None, **changes}


def write(path: Path, content: Any, mode: int = 0o600) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


@pytest.fixture
def ring_file(tmp_path: Path, clock: HandClock) -> Path:
    path = tmp_path / "keys" / "ring.json"
    create_ring_file(path, now=clock)
    return path


def test_a_made_file_is_its_owners_alone_and_has_every_ring(ring_file: Path) -> None:
    rings = read_ring_file(ring_file)

    assert stat.S_IMODE(ring_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(ring_file.parent.stat().st_mode) == 0o700
    assert sorted(rings) == sorted(RINGS)
    assert len({key.secret for keys in rings.values() for key in keys}) == len(RINGS)
    assert all(len(key.secret) == 32 for keys in rings.values() for key in keys)


def test_workers_that_start_at_once_agree_on_one_file(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.accounts.ring_file import *;"
        "p = Path(sys.argv[1]); create_ring_file(p); print(read_ring_file(p)['jwt'][0].kid)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "keys" / "ring.json")]
    root = Path(__file__).resolve().parents[2]

    workers = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {worker.communicate(timeout=60)[0].strip() for worker in workers}

    assert len(answers) == 1
    assert answers != {""}


def test_threads_that_make_the_file_at_once_agree_on_one(tmp_path: Path) -> None:
    path = tmp_path / "ring.json"

    def make(_: int) -> str:
        create_ring_file(path)
        return read_ring_file(path)[JWT][0].kid

    assert len(set(at_once(16, make))) == 1


def test_what_a_dead_writer_left_behind_is_no_obstacle(ring_file: Path, clock: HandClock) -> None:
    before = read_ring_file(ring_file)
    (ring_file.parent / ".ring.json.new").write_text('{"jwt": [')

    rotate_ring_file(ring_file, [JWT], overlap_seconds=10, now=clock)

    assert len(read_ring_file(ring_file)[JWT]) == 2
    assert read_ring_file(ring_file)[CURSOR] == before[CURSOR]
    assert list(ring_file.parent.iterdir()) == [ring_file]


def old_file(path: Path) -> Path:
    """Make a file as it was before there were links."""
    create_ring_file(path)
    content = json.loads(path.read_text())
    del content[LINK]
    return write(path, content)


def test_an_old_file_without_links_derives_their_keys_alike_everywhere_and_writes_nothing(tmp_path: Path) -> None:
    path = old_file(tmp_path / "ring.json")
    before = path.read_bytes()
    path.chmod(0o400)  # as on a host where another one writes it
    settings = AuthSettings(key_ring_file=path)

    first, second = open_rings(settings, create=True), open_rings(settings, create=False)

    assert first.signing(LINK) == second.signing(LINK)
    assert first.signing(LINK).secret not in {first.signing(ring).secret for ring in (JWT, CURSOR, REFRESH)}
    assert path.read_bytes() == before


@pytest.mark.parametrize("ring", RINGS)
def test_the_next_rotation_of_any_ring_writes_the_derived_keys_down(
    tmp_path: Path, clock: HandClock, ring: str
) -> None:
    path = old_file(tmp_path / "ring.json")
    derived = read_ring_file(path)[LINK][0]

    rotate_ring_file(path, [ring], overlap_seconds=100, delay_seconds=0, now=clock)

    written = json.loads(path.read_text())[LINK]
    assert [item["kid"] for item in written][-1] == derived.kid
    assert read_ring_file(path)[LINK][-1].secret == derived.secret
    assert len(written) == (2 if ring == LINK else 1)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "ring.json", {ring: [entry()] for ring in RINGS}, mode)

    with pytest.raises(ConfigurationError, match="0600"):
        RingFile(path)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        '{"jwt": []}',
        {"jwt": [entry()], "cursor": [entry()]},
        {ring: [] for ring in RINGS},
        {JWT: [entry()], CURSOR: [entry()], REFRESH: [entry()], LINK: []},
        {ring: [entry(key="c2hvcnQ")] for ring in RINGS},
        {ring: [entry(key="not base64 !")] for ring in RINGS},
        {ring: [entry(key=7)] for ring in RINGS},
        {ring: [entry(kid="")] for ring in RINGS},
        {ring: [entry(kid="../../x")] for ring in RINGS},
        {ring: [entry(not_before="2026-01-01T00:00:00")] for ring in RINGS},
        {ring: [entry(retire_at="tomorrow")] for ring in RINGS},
        {ring: [entry(surprise=1)] for ring in RINGS},
        {ring: [entry(), entry()] for ring in RINGS},
    ],
)
def test_a_file_with_a_mistake_is_refused_without_repeating_a_key(tmp_path: Path, bad: Any) -> None:
    path = write(tmp_path / "ring.json", bad)

    with pytest.raises(ConfigurationError) as refused:
        RingFile(path)

    assert all(line.startswith("PHOTO_API_AUTH__KEY_RING_FILE: ") for line in refused.value.mistakes)
    assert KEY not in refused.value.detail
    assert "c2hvcnQ" not in refused.value.detail


def test_a_missing_file_is_refused_where_it_is_not_to_be_made(tmp_path: Path) -> None:
    settings = AuthSettings(key_ring_file=tmp_path / "ring.json")

    with pytest.raises(ConfigurationError):
        open_rings(settings, create=False)

    assert open_rings(settings, create=True).signing(JWT).kid


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError):
        create_ring_file(tmp_path / "file" / "ring.json")


def test_a_secret_gives_every_worker_the_same_rings_and_each_ring_its_own_key(tmp_path: Path) -> None:
    settings = AuthSettings(jwt_secret=SecretStr("x3V9" * 11))

    first, second = open_rings(settings, create=False), open_rings(settings, create=False)

    assert [first.signing(ring) for ring in RINGS] == [second.signing(ring) for ring in RINGS]
    assert len({first.signing(ring).secret for ring in RINGS}) == len(RINGS)
    assert DerivedRings(b"another").rings()[JWT][0].secret != first.signing(JWT).secret


def test_the_newest_active_key_signs_and_a_waiting_one_verifies_already(ring_file: Path, clock: HandClock) -> None:
    rings = KeyRings(RingFile(ring_file, clock), clock)
    old = rings.signing(JWT)
    rotate_ring_file(ring_file, [JWT], overlap_seconds=100, delay_seconds=5, now=clock)
    new = read_ring_file(ring_file)[JWT][0]

    before = (rings.signing(JWT).kid, rings.verifying(JWT, new.kid))
    clock.advance(5)
    after = (rings.signing(JWT).kid, rings.verifying(JWT, old.kid))
    clock.advance(99)
    at_last = rings.verifying(JWT, old.kid)
    clock.advance(1)

    assert before == (old.kid, new)
    assert after[0] == new.kid
    assert after[1] is not None
    assert at_last is not None
    assert rings.verifying(JWT, old.kid) is None


def test_a_rotation_changes_only_its_ring_and_drops_retired_keys(ring_file: Path, clock: HandClock) -> None:
    first = read_ring_file(ring_file)
    for _ in range(3):
        rotate_ring_file(ring_file, [JWT], overlap_seconds=10, delay_seconds=0, now=clock)
        clock.advance(11)
    rotate_ring_file(ring_file, [JWT], overlap_seconds=10, delay_seconds=0, now=clock)

    rings = read_ring_file(ring_file)

    assert len(rings[JWT]) == 2
    assert rings[CURSOR] == first[CURSOR]
    assert rings[REFRESH] == first[REFRESH]


def test_rotations_at_once_lose_no_key(ring_file: Path, clock: HandClock) -> None:
    at_once(8, lambda _: rotate_ring_file(ring_file, [JWT], overlap_seconds=100, now=clock))

    assert len(read_ring_file(ring_file)[JWT]) == 9


def test_the_file_is_looked_at_once_a_second_and_at_once_for_an_unknown_key(
    ring_file: Path, clock: HandClock
) -> None:
    rings = KeyRings(RingFile(ring_file, clock), clock)
    rotate_ring_file(ring_file, [JWT], overlap_seconds=100, delay_seconds=0, now=clock)
    new = read_ring_file(ring_file)[JWT][0]

    unseen = rings.signing(JWT).kid
    known = rings.verifying(JWT, new.kid)

    assert unseen != new.kid
    assert known == new
    assert rings.signing(JWT).kid == new.kid


def test_a_change_is_seen_after_a_second(ring_file: Path, clock: HandClock) -> None:
    rings = KeyRings(RingFile(ring_file, clock), clock)
    rotate_ring_file(ring_file, [JWT], overlap_seconds=100, delay_seconds=0, now=clock)

    clock.advance(1)

    assert rings.signing(JWT).kid == read_ring_file(ring_file)[JWT][0].kid


@pytest.mark.parametrize("damage", ["unlink", "empty", "mode"])
def test_a_bad_change_keeps_the_keys_and_is_logged_once(
    ring_file: Path, clock: HandClock, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    rings = KeyRings(RingFile(ring_file, clock), clock)
    before = rings.signing(JWT)
    if damage == "unlink":
        ring_file.unlink()
    elif damage == "empty":
        ring_file.write_text("")
    else:
        ring_file.write_text(ring_file.read_text() + " ")
        ring_file.chmod(0o644)

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            clock.advance(1)
            assert rings.signing(JWT) == before

    assert len(caplog.records) == 1


def test_without_an_active_key_nothing_is_signed(tmp_path: Path, clock: HandClock) -> None:
    waiting = {ring: [entry(not_before="2099-01-01T00:00:00Z")] for ring in RINGS}
    rings = KeyRings(RingFile(write(tmp_path / "ring.json", waiting), clock), clock)

    with pytest.raises(UnavailableError):
        rings.signing(JWT)


def test_cursor_keys_come_with_the_signing_one_first(ring_file: Path, clock: HandClock) -> None:
    rings = KeyRings(RingFile(ring_file, clock), clock)
    old = rings.signing(CURSOR).secret
    rotate_ring_file(ring_file, [CURSOR], overlap_seconds=100, delay_seconds=0, now=clock)
    clock.advance(1)

    both = rings.secrets(CURSOR)
    clock.advance(100)

    assert both[1:] == [old]
    assert rings.secrets(CURSOR) == both[:1]


def test_a_key_is_never_shown(ring_file: Path) -> None:
    key = read_ring_file(ring_file)[JWT][0]

    assert "secret" not in repr(key)
    assert repr(key.secret) not in repr(key)
