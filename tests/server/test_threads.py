"""Threads come from the container's CPU limit, of either version of control groups, and not from the machine's cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.server.threads import cpu_limit, usable_threads
from tests.server.conftest import Start, add_model

CPUS = len(os.sched_getaffinity(0))


def tree(folder: Path, files: dict[str, str], process: str) -> tuple[Path, Path]:
    root, own = folder / "cgroup", folder / "self"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    root.mkdir(exist_ok=True)
    own.write_text(process)
    return root, own


@pytest.mark.parametrize(
    ("files", "process", "limit"),
    [
        pytest.param({"cpu.max": "50000 100000"}, "0::/\n", 0.5, id="version 2, in the container's own root"),
        pytest.param({"cpu.max": "max 100000"}, "0::/\n", CPUS, id="version 2, no limit"),
        pytest.param(
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "70000 100000"}, "0::/a/b\n", 0.7, id="version 2, of a parent"
        ),
        pytest.param(
            {"cpu.max": "60000 100000"}, "0::/machine/path/that/is/not/here\n", 0.6, id="version 2, path of the machine"
        ),
        pytest.param(
            {"cpu,cpuacct/cpu.cfs_quota_us": "25000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/\n1:memory:/x\n",
            0.25,
            id="version 1",
        ),
        pytest.param(
            {"cpu/kube/pod/cpu.cfs_quota_us": "40000", "cpu/kube/pod/cpu.cfs_period_us": "50000"},
            "4:cpuacct,cpu:/kube/pod\n",
            0.8,
            id="version 1, below",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", CPUS, id="version 1, none"
        ),
        pytest.param({"cpu.max": "rubbish"}, "0::/\n", CPUS, id="unreadable"),
        pytest.param({}, "", CPUS, id="no control groups"),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], process: str, limit: float) -> None:
    assert cpu_limit(*tree(tmp_path, files, process)) == limit


def test_no_file_of_control_groups_is_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "none", tmp_path / "neither") == CPUS


@pytest.mark.parametrize(
    ("configured", "instances", "limit", "threads"),
    [(None, 1, 4.0, 4), (None, 1, 3.9, 3), (None, 1, 0.5, 1), (8, 1, 2.0, 2), (1, 1, 4.0, 1), (8, 3, 2.0, 3)],
)
def test_a_part_of_a_cpu_is_not_counted_and_every_instance_has_one(
    configured: int | None, instances: int, limit: float, threads: int
) -> None:
    assert usable_threads(configured, instances, limit) == threads


@pytest.mark.frameworks
def test_the_server_takes_what_it_may_and_says_so(tmp_path: Path, start: Start) -> None:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(own)})  # a server inherits it
    try:
        loaded = start(add_model(tmp_path, threads=None)).wait_for_log("loaded")
        assert loaded["threads"] == 1
        server = start(add_model(tmp_path, threads=7))
        assert server.wait_for_log("loaded")["threads"] == 1
        line = server.wait_for_log("fewer CPUs than threads")
        assert (line["configured"], line["threads"]) == (7, 1)
    finally:
        os.sched_setaffinity(0, own)
