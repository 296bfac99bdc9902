import os
import sys
from pathlib import Path

import pytest

from service.contract import cpu_count


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups in a temporary folder, of a process with an affinity mask of 16 CPUs."""
    monkeypatch.setattr(cpu_count, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpu_count, "OWN_CGROUPS", tmp_path / "own")
    if sys.platform == "linux":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    return tmp_path


def write_first_version(cgroups: Path, quota: str) -> None:
    cgroups.mkdir(parents=True)
    (cgroups / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroups / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.usefixtures("cgroups")
def test_without_control_groups_the_affinity_mask_counts() -> None:
    assert cpu_count.available_cpus() == 16


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 16),
    ],
)
def test_a_quota_is_rounded_up_to_cpus(cgroups: Path, limit: str, count: int) -> None:
    (cgroups / "cpu.max").write_text(f"{limit}\n")
    assert cpu_count.available_cpus() == count


@pytest.mark.parametrize(("quota", "count"), [("-1", 16), ("250000", 3)])
def test_a_quota_of_control_groups_version_1(cgroups: Path, quota: str, count: int) -> None:
    write_first_version(cgroups / "cpu", quota)
    assert cpu_count.available_cpus() == count


def test_an_unreadable_quota_is_ignored(cgroups: Path) -> None:
    (cgroups / "cpu.max").write_text("")
    assert cpu_count.available_cpus() == 16


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"user.slice": "max", "user.slice/mine.service": "300000"}, 3),
        ({"user.slice": "200000", "user.slice/mine.service": "300000"}, 2),
        ({"user.slice": "max", "user.slice/mine.service": "max"}, 16),
        ({"user.slice/another.service": "100000"}, 16),
    ],
)
def test_the_quotas_of_parent_groups_apply(cgroups: Path, limits: dict[str, str], count: int) -> None:
    (cgroups / "own").write_text("0::/user.slice/mine.service\n")
    for group, quota in limits.items():
        (cgroups / group).mkdir(parents=True)
        (cgroups / group / "cpu.max").write_text(f"{quota} 100000\n")
    assert cpu_count.available_cpus() == count


def test_paths_of_control_groups_version_1(cgroups: Path) -> None:
    (cgroups / "own").write_text("5:memory:/other\n4:cpu,cpuacct:/docker/abc\n0::/\n")
    write_first_version(cgroups / "cpu" / "docker" / "abc", "200000")
    write_first_version(cgroups / "cpu" / "other", "100000")
    assert cpu_count.available_cpus() == 2


def test_a_path_outside_the_mounted_groups_is_ignored(cgroups: Path) -> None:
    (cgroups / "own").write_text("0::/../beside\n")
    (cgroups / "cpu.max").write_text("400000 100000\n")
    assert cpu_count.available_cpus() == 4
