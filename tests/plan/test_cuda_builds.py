"""Whether an installed package can use CUDA, according to its files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.machine.packages import NoCuda, without_cuda
from tests.plan.fake_site import FILES, install


@pytest.mark.parametrize("package", FILES)
def test_a_build_for_cpus_is_distinguished_from_one_for_cuda(tmp_path: Path, package: str) -> None:
    assert without_cuda([package], [install(tmp_path / "gpu", package, cuda=True)]) is None
    lacking = without_cuda([package], [install(tmp_path / "cpu", package, cuda=False)])
    assert lacking is not None
    assert lacking.package == package
    assert "install" in lacking.remedy


def test_the_first_on_the_path_counts(tmp_path: Path) -> None:
    cpu, gpu = install(tmp_path / "cpu", "torch", cuda=False), install(tmp_path / "gpu", "torch", cuda=True)
    assert without_cuda(["torch"], [gpu, cpu]) is None
    assert isinstance(without_cuda(["torch"], [cpu, gpu]), NoCuda)


def test_packages_with_one_build_or_not_installed_are_accepted(tmp_path: Path) -> None:
    assert without_cuda(["numpy", "onnx", "torch"], [str(tmp_path)]) is None


def test_nothing_is_imported() -> None:
    before = set(sys.modules)
    without_cuda(FILES)
    assert not {name.partition(".")[0] for name in set(sys.modules) - before} & set(FILES)
