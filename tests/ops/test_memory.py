"""Memory is what the kernel gives before it kills: the machine's, or that of the tightest group around a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.ops.memory import Memory
from tests.house.source import write_tree

MACHINE = {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 800 kB\n", "proc/self/statm": "50 10 5 1 0 9 0\n"}


def memory_of(folder: Path, files: dict[str, str]) -> Memory:
    write_tree(folder, {**MACHINE, **files})
    return Memory(folder / "proc", folder / "groups")


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    assert memory_of(tmp_path, {}).used_ratio() == pytest.approx(0.2)


def test_the_limit_of_a_service_counts_and_read_files_do_not(tmp_path: Path) -> None:
    memory = memory_of(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/photo-api.service\n",
            "groups/system.slice/photo-api.service/memory.max": "1000\n",
            "groups/system.slice/photo-api.service/memory.current": "900\n",
            "groups/system.slice/photo-api.service/memory.stat": "anon 500\ninactive_file 400\n",
        },
    )

    assert memory.used_ratio() == pytest.approx(0.5)


def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    memory = memory_of(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/service\n",
            "groups/slice/service/memory.max": "max\n",
            "groups/slice/service/memory.current": "900\n",
            "groups/slice/memory.max": "1000\n",
            "groups/slice/memory.current": "950\n",
        },
    )

    assert memory.used_ratio() == pytest.approx(0.95)


def test_a_container_that_sees_its_own_root_only_finds_its_limit(tmp_path: Path) -> None:
    memory = memory_of(
        tmp_path,
        {
            "proc/self/cgroup": "0::/docker/of-the-host\n",
            "groups/memory.max": "1000\n",
            "groups/memory.current": "700\n",
        },
    )

    assert memory.used_ratio() == pytest.approx(0.7)


def test_the_first_version_of_groups_is_read_too(tmp_path: Path) -> None:
    group = "groups/memory/docker/ours"
    memory = memory_of(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n3:memory:/docker/ours\n1:name=systemd:/\n",
            f"{group}/memory.limit_in_bytes": "1000\n",
            f"{group}/memory.usage_in_bytes": "800\n",
            f"{group}/memory.stat": "inactive_file 700\ntotal_inactive_file 200\n",
            "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "groups/memory/memory.usage_in_bytes": "5000\n",
        },
    )

    assert memory.used_ratio() == pytest.approx(0.6)


def test_this_process_has_some() -> None:
    memory = Memory()

    assert memory.resident_bytes() > 1_000_000
    assert 0 < memory.used_ratio() < 1.5
