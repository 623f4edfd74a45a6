"""Stamps: what one process renews, all others see; what cannot be told is told to be unknown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ops.stamps import PLACES, STAMP_BYTES, STAMPS_NAME, Stamps, open_stamps
from app.ops.state import VARIABLE
from tests.fakes.clocks import HandClock

ROOT = Path(__file__).resolve().parents[2]
A_SECOND = 1.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / STAMPS_NAME


@pytest.fixture
def stamps(path: Path, clock: HandClock) -> Iterator[Stamps]:
    opened = Stamps(path, clock=clock)
    yield opened
    opened.close()


def test_a_stamp_stays_until_it_is_renewed(stamps: Stamps) -> None:
    before = stamps.read("photo:1")

    again = stamps.read("photo:1")
    renewed = stamps.renew("photo:1")

    assert before == again == 0
    assert renewed
    assert stamps.read("photo:1") != before


def test_what_is_renewed_twice_has_three_stamps(stamps: Stamps) -> None:
    seen = {stamps.read("photo:1")}
    for _ in range(2):
        stamps.renew("photo:1")
        seen.add(stamps.read("photo:1"))

    assert len(seen) == 3


def test_another_process_sees_it_and_its_end_changes_nothing(path: Path, stamps: Stamps) -> None:
    before = stamps.read("photo:1")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom app.ops.stamps import Stamps\n"
        "assert Stamps(Path(sys.argv[1])).renew('photo:1')\nos.kill(os.getpid(), signal.SIGKILL)"
    )

    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False)

    assert done.returncode == -9
    assert stamps.read("photo:1") not in {before, None}


def test_a_forked_child_renews_for_its_parent(stamps: Stamps) -> None:
    before = stamps.read("photo:1")

    child = os.fork()
    if not child:
        stamps.renew("photo:1")
        os._exit(0)
    os.waitpid(child, 0)

    assert stamps.read("photo:1") != before


def test_stamps_stay_over_a_restart(path: Path, stamps: Stamps) -> None:
    stamps.renew("photo:1")

    later = Stamps(path)

    assert later.read("photo:1") == stamps.read("photo:1") != 0
    later.close()


def test_keys_that_share_a_place_are_renewed_together_and_others_are_not(stamps: Stamps) -> None:
    before = {f"photo:{number}": stamps.read(f"photo:{number}") for number in range(200)}

    stamps.renew("photo:7")

    changed = [key for key, stamp in before.items() if stamps.read(key) != stamp]
    assert "photo:7" in changed
    assert len(changed) < 5


@pytest.mark.parametrize("harm", ["missing", "short", "replaced"])
def test_a_harmed_file_is_made_whole_within_a_second_and_forgets_nothing_silently(
    path: Path, stamps: Stamps, clock: HandClock, harm: str
) -> None:
    stamps.renew("photo:1")
    before = stamps.read("photo:1")

    if harm == "short":
        os.truncate(path, 5)
    else:
        path.unlink()
    if harm == "replaced":
        other = Stamps(path)
        other.renew("photo:1")
        other.close()
    clock.advance(A_SECOND)

    assert stamps.read("photo:1") != before
    assert path.stat().st_size == PLACES * STAMP_BYTES
    assert stamps.renew("photo:1")


def test_a_short_file_is_no_answer_before_it_is_made_whole(path: Path, stamps: Stamps) -> None:
    stamps.renew("photo:1")

    os.truncate(path, 0)

    assert stamps.read("photo:1") is None


@pytest.mark.parametrize("harm", ["a folder", "a link", "no folder"])
def test_a_file_that_cannot_be_opened_answers_nothing(tmp_path: Path, harm: str) -> None:
    place = tmp_path / STAMPS_NAME
    if harm == "a folder":
        place.mkdir()
    elif harm == "a link":
        (tmp_path / "other").write_bytes(b"precious")
        place.symlink_to(tmp_path / "other")
    else:
        place = tmp_path / "missing" / STAMPS_NAME

    lost = Stamps(place)

    assert lost.read("photo:1") is None
    assert not lost.renew("photo:1")
    assert harm != "a link" or (tmp_path / "other").read_bytes() == b"precious"


def test_a_process_without_a_server_has_stamps_of_its_own() -> None:
    alone = open_stamps({})

    before = alone.read("photo:1")

    assert alone.renew("photo:1")
    assert alone.read("photo:1") != before


def test_a_server_names_the_folder(tmp_path: Path) -> None:
    shared = open_stamps({VARIABLE: str(tmp_path)})

    shared.renew("photo:1")

    assert (tmp_path / STAMPS_NAME).exists()
    shared.close()


def test_what_is_closed_answers_nothing(path: Path, stamps: Stamps) -> None:
    stamps.renew("photo:1")

    stamps.close()

    assert stamps.read("photo:1") is None
