"""A process counts in a file of its own whose room is reserved; what cannot be there is counted in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

from app.ops.metric_collector import FolderCollector
from app.ops.metric_files import FileReader, SeriesBook, list_files
from app.ops.metric_values import ROOM_BYTES, ValueFile
from tests.ops.metric_writers import counter, gauge, labelled, samples

ROOT = Path(__file__).resolve().parents[2]


def counts(file: ValueFile) -> dict[str, float]:
    reader = FileReader(file.path, SeriesBook())
    reader.read()
    assert reader.is_whole
    return {series.sample: value for series, value in reader.counts()}


def test_what_the_client_counts_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "ValueClass", ValueFile(tmp_path).value_class())
    registry = CollectorRegistry()

    Counter("a", "A.", ["kind"], registry=registry).labels("x").inc(2.5)
    Gauge("b", "B.", registry=registry, multiprocess_mode="livesum").set(-3)
    Histogram("c", "C.", registry=registry, buckets=[1, 2]).observe(1.5)

    collector = FolderCollector(tmp_path)
    assert labelled(collector, "a_total") == {(("kind", "x"),): 2.5}
    assert samples(collector) == {"b": -3, "c_count": 1, "c_sum": 1.5}
    assert labelled(collector, "c_bucket") == {(("le", "1.0"),): 0, (("le", "2.0"),): 1, (("le", "+Inf"),): 1}


def test_no_two_files_have_one_name_even_in_one_process(tmp_path: Path) -> None:
    first, second = ValueFile(tmp_path), ValueFile(tmp_path, "management")

    counter(first).inc(1)
    counter(second).inc(2)

    assert {(name.role, name.owner.pid) for name in list_files(tmp_path)} == {
        ("worker", os.getpid()),
        ("management", os.getpid()),
    }
    assert samples(FolderCollector(tmp_path)) == {"things_total": 3}


def test_numbers_of_the_same_series_are_one(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    first, second = counter(file), counter(file)

    first.inc(1)
    second.inc(2)

    assert first.get() == second.get() == 3
    assert counts(file) == {"things_total": 3}


def test_the_latest_is_known_by_when_it_was_set(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    value = gauge(file, "livemostrecent")

    value.set(7, timestamp=1234.5)

    reader = FileReader(file.path, SeriesBook())
    reader.read()
    assert [(level, set_at) for _, level, set_at in reader.gauges()] == [(7, 1234.5)]


def test_threads_lose_no_count_because_one_at_a_time_adds(tmp_path: Path) -> None:
    class Watched(float):
        """Says, in the middle of an addition, whether another thread could begin one."""

        def __radd__(self, other: float) -> float:
            alone.append(not file._lock.acquire(blocking=False))
            return float(self) + other

    file, alone = ValueFile(tmp_path), list[bool]()

    counter(file).inc(Watched(2))

    assert alone == [True]
    assert counts(file) == {"things_total": 2}


def test_room_is_reserved_and_grows_in_whole_pieces(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    early = counter(file, "early")
    pieces = [file.path.stat()]

    many = [counter(file, f"metric_{number}" + "x" * 400) for number in range(3 * ROOM_BYTES // 2000)]
    for value in (early, *many):
        value.inc(1)

    pieces.append(file.path.stat())
    assert [piece.st_size for piece in pieces] == [ROOM_BYTES, 2 * ROOM_BYTES]
    assert all(piece.st_blocks * 512 >= piece.st_size for piece in pieces)
    found = counts(file)
    assert len(found) == len(many) + 1
    assert set(found.values()) == {1.0}


_WITHOUT_ROOM_TO_GROW = """
import resource, sys
from pathlib import Path
from app.ops.metric_values import ROOM_BYTES, ValueFile
from tests.ops.metric_writers import counter
file = ValueFile(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, ROOM_BYTES))
many = [counter(file, f"metric_{number}" + "x" * 400) for number in range(3 * ROOM_BYTES // 2000)]
for value in many:
    value.inc(2)
print({value.get() for value in many})
"""


def test_what_finds_no_room_is_counted_in_memory_and_the_rest_in_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_ROOM_TO_GROW, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "{2.0}\n"
    assert done.stderr.count("no more room for metrics (File too large)") == 1
    found = samples(FolderCollector(tmp_path))
    assert len(found) > 500
    assert set(found.values()) == {2.0}


def test_a_file_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(OSError, match="No space left"):
        ValueFile(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_removed_is_put_back_with_its_name_and_values_and_counts_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = ValueFile(tmp_path)
    value, level = counter(file), gauge(file, "livesum")
    value.inc(3)
    level.set(9)
    many = [counter(file, f"metric_{number}" + "x" * 400) for number in range(3 * ROOM_BYTES // 2000)]
    collector = FolderCollector(tmp_path)
    assert samples(collector)["things_total"] == 3
    file.path.unlink()
    value.inc(1)

    for _ in range(3):
        file.restore()

    for each in (value, counter(file), *many):
        each.inc(1)
    level.set(8)
    counter(file, "late").inc(1)
    for reader in (collector, FolderCollector(tmp_path)):
        found = samples(reader)
        assert (found["things_total"], found["level"], found["late_total"]) == (6, 8, 1)
        assert len(found) == len(many) + 3
    assert [path.name for path in tmp_path.iterdir()] == [file.path.name]
    assert caplog.text.count("was removed: it is put back") == 1
    assert file.path.stat().st_blocks * 512 >= 2 * ROOM_BYTES, "its room is reserved"


def test_a_file_that_another_has_taken_the_place_of_is_put_back(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    counter(file).inc(3)
    file.path.unlink()
    file.path.write_bytes(b"garbage")

    file.restore()

    assert counts(file) == {"things_total": 3}


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    before = file.path.stat().st_ino

    file.restore()

    assert file.path.stat().st_ino == before


@pytest.mark.parametrize("way", ["posix_fallocate", "rename"])
def test_what_cannot_be_put_back_now_is_put_back_later_and_said_once(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = ValueFile(tmp_path)
    value = counter(file)
    value.inc(1)
    file.path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os if way == "posix_fallocate" else Path, way, full)
        for _ in range(3):
            file.restore()
            value.inc(1)
    left = list(tmp_path.iterdir())

    file.restore()

    assert left == []
    assert counts(file) == {"things_total": 4}
    assert caplog.text.count("cannot be put back (No space left on device)") == 1


def test_nothing_is_put_back_by_a_forked_child(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    file.path.unlink()

    in_a_child(file.restore)

    assert list(tmp_path.iterdir()) == []


def in_a_child(work: Callable[[], object]) -> bytes:
    """Return what some work gives in a forked child, as text."""
    told, tells = os.pipe()
    child = os.fork()
    if not child:
        os.write(tells, str(work()).encode())
        os._exit(0)
    os.close(tells)
    os.waitpid(child, 0)
    text = os.read(told, 100)
    os.close(told)
    return text


def test_a_forked_child_counts_for_itself_even_when_a_lock_was_held(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    value = counter(file)
    value.inc(1)

    def count() -> tuple[float, float]:
        other = counter(file, "others")
        value.inc(10)
        other.inc(1)
        return value.get(), other.get()

    with file._lock:
        in_child = in_a_child(count)

    assert in_child == b"(10.0, 1.0)"
    assert counts(file) == {"things_total": 1}


def test_a_child_lives_though_its_parents_file_was_cut_short(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    value = counter(file)

    os.truncate(file.path, 0)

    assert in_a_child(value.get) == b"0.0"


def test_an_exemplar_finds_no_place_and_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "ValueClass", ValueFile(tmp_path).value_class())
    counted = Counter("a", "A.", registry=None)

    counted.inc(1, exemplar={"trace_id": "1"})

    assert [sample.exemplar for family in counted.collect() for sample in family.samples] == [None, None]
