"""Which installed packages are built for CUDA, read from their files: a CPU build has the same name and version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["NoCuda", "without_cuda"]


@dataclass(frozen=True, slots=True)
class NoCuda:
    """An installed package that is built for CPUs alone, and the command that brings the other build."""

    package: str
    remedy: str

    @property
    def reason(self) -> str:
        """Why a candidate that it runs is refused."""
        return f"the installed {self.package} is a build for CPUs: {self.remedy}"


@dataclass(frozen=True, slots=True)
class _Build:
    """How a build for CUDA is told: a file of the package, and what stands in it; empty: that it is there."""

    file: str
    holds: str
    remedy: str


_BUILDS = {
    "onnxruntime": _Build(
        "capi/libonnxruntime_providers_cuda.so",
        "",
        "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "torch": _Build("lib/libtorch_cuda.so", "", "install the build of torch for your CUDA version, which pytorch.org names"),
    "tensorflow": _Build(
        "python/platform/build_info.py",
        "('is_cuda_build', True)",
        "pip uninstall tensorflow-cpu && pip install 'tensorflow[and-cuda]'",
    ),
}  # fmt: skip
"""Package → what tells its build for CUDA. Other packages have one build for all."""


def without_cuda(packages: Iterable[str], path: Sequence[str] | None = None) -> NoCuda | None:
    """The first of these packages that is installed as a build for CPUs; None where there is none.

    Args:
        packages: as their distributions are called.
        path: where they are looked for; None is where Python looks.
    """
    for package in sorted(packages):
        build = _BUILDS.get(package)
        if build is None:
            continue
        found = PathFinder.find_spec(package, path)
        if found is None or found.origin is None:
            continue  # what is not installed at all is told elsewhere
        file = Path(found.origin).parent / build.file
        if not file.is_file() or build.holds not in (file.read_text("utf-8", "replace") if build.holds else ""):
            return NoCuda(package, build.remedy)
    return None
