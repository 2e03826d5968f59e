"""A measured process ends with its parent, however that ends, and stays on its CPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.machine.cpus import (
    CpuShare,
    cpu_share,
    other_cpus,
    package_environment,
    thread_environment,
    usable_cpus,
)
from orchestrator.process.memory import MemoryWatch, format_bytes

_PARENT = """
import sys, time
from pathlib import Path
from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.session import MeasuredProcess
process = MeasuredProcess("orchestrator.measure.load", cpu_share(1), memory=None, folder=Path(sys.argv[1]))
try:
    process.ask({"do": "schedule"}, 60)
except Exception as error:
    print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.processes
def test_no_child_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=package_environment()
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.cpu_affinity() == list(cpu_share(1).cpus)
        parent.kill()
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert gone == [child]
    assert not alive


@pytest.mark.parametrize(("wanted", "cpus", "how"), [
    (2.0, (0, 1), "measured with 2 CPUs"),
    (1.0, (0,), "measured with 1 CPU"),
    (4.0, (0, 1), "measured with 2 of 4 CPUs: this machine has no more"),
    (0.5, (0,), "measured with 1 CPU instead of 0.5: a fraction of a CPU cannot be measured"),
])  # fmt: skip
def test_the_used_cpus_are_described(wanted: float, cpus: tuple[int, ...], how: str) -> None:
    assert CpuShare(wanted, cpus, len(cpus)).how == how


def test_a_share_never_exceeds_the_usable_cpus() -> None:
    assert cpu_share(0.25).threads == 1
    assert cpu_share(10_000).threads == max(1, int(usable_cpus()))
    assert usable_cpus() <= len(psutil.Process().cpu_affinity() or [])


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/pod/one", {"pod/one/cpu.max": "150000 100000"}, 1.5),
        ("0::/pod/one", {"pod/one/cpu.max": "max 100000", "pod/cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/of/the/host", {"cpu.max": "100000 100000"}, 1.0),
        ("0::/pod", {"pod/cpu.max": "max 100000"}, 4.0),
        ("0::/pod", {"pod/cpu.max": "900000 100000"}, 4.0),
        ("3:memory:/a\n2:cpu,cpuacct:/a", {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
                                           "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 2.5),
        ("2:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 4.0),
        ("", {}, 4.0),
    ],
)  # fmt: skip
def test_a_quota_of_the_control_group_limits_the_usable_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cpus: float
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    (tmp_path / "groups").write_text(groups + "\n" if groups else "", encoding="ascii")
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    assert usable_cpus(tmp_path / "groups", tmp_path / "mounted") == cpus


def test_a_measurement_under_a_quota_takes_no_more_cpus_than_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr("orchestrator.machine.cpus.usable_cpus", lambda: 2.5)
    assert cpu_share(4.0).cpus == (0, 1)
    assert other_cpus(cpu_share(4.0)) is None
    rest = other_cpus(cpu_share(1.0))
    assert rest is not None
    assert rest.cpus == (1,)


@pytest.mark.processes
def test_memory_above_the_limit_kills_the_whole_tree() -> None:
    hungry = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(3 * 10**8); input()'])"
    with (
        subprocess.Popen([sys.executable, "-c", hungry], stdin=subprocess.PIPE) as child,
        MemoryWatch(child.pid, 200 * 2**20) as watch,
    ):
        assert child.wait(60) != 0
        assert watch.exceeded
        assert watch.peak > 200 * 2**20


def test_threads_that_wait_for_work_sleep_in_every_framework() -> None:
    assert thread_environment(3) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def test_sizes_read_well() -> None:
    assert (format_bytes(40 * 2**20), format_bytes(3 * 2**29)) == ("40 MiB", "1.5 GiB")
