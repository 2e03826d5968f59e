"""The packages that mlo uses: their extras and builds, and which are installed. Imports none of them.

To add a package, add a row; a package with one build and no extra needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["PACKAGES", "CpuBuild", "CudaBuild", "NoCuda", "Package", "install_hint", "version", "without_cuda"]


@dataclass(frozen=True, slots=True)
class CudaBuild:
    """How to recognise an installed build for CUDA; builds for CPUs may have the same name and version.

    Attributes:
        file: a file of the package.
        holds: a text that the file contains; empty if the file's existence is enough.
        remedy: the command that installs the build.
        requirement: what an image installs instead of the package; empty for the package itself.
    """

    file: str
    holds: str
    remedy: str
    requirement: str = ""


@dataclass(frozen=True, slots=True)
class CpuBuild:
    """A build for CPUs of a package whose usual build brings CUDA.

    Attributes:
        local: the local part of its version, without the plus sign.
        index: the package index that has it.
    """

    local: str
    index: str


@dataclass(frozen=True, slots=True)
class Package:
    """One distribution.

    Attributes:
        extra: the extra of mlo that installs it; empty if none does.
        builds: all distributions that install the same modules, including this one; empty if there are no others.
        cuda: its build for CUDA; None if one build supports all devices.
        cpu: its build for CPUs; None if the usual one is.
    """

    extra: str = ""
    builds: tuple[str, ...] = ()
    cuda: CudaBuild | None = None
    cpu: CpuBuild | None = None


PACKAGES = {
    "torch": Package(
        "torch",
        cuda=CudaBuild(
            "lib/libtorch_cuda.so", "", "install the build of torch for your CUDA version, which pytorch.org names"
        ),
        cpu=CpuBuild("cpu", "https://download.pytorch.org/whl/cpu"),
    ),
    "safetensors": Package("torch"),
    "grpcio": Package("grpc"),
    "grpcio-health-checking": Package("grpc"),
    "grpcio-reflection": Package("grpc"),
    "h2": Package("grpc"),
    "cryptography": Package("tls"),
    "opentelemetry-api": Package("traces"),
    "opentelemetry-exporter-otlp-proto-http": Package("traces"),
    "opentelemetry-sdk": Package("traces"),
    "protobuf": Package("grpc"),
    "onnx": Package("onnx"),
    "onnxscript": Package("onnx"),
    "onnxslim": Package("onnx"),
    "onnxruntime": Package(
        "onnx",
        builds=("onnxruntime", "onnxruntime-gpu"),
        cuda=CudaBuild(
            "capi/libonnxruntime_providers_cuda.so",
            "",
            "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
            requirement="onnxruntime-gpu[cuda,cudnn]",
        ),
    ),
    "docker": Package("docker"),
    "kubernetes": Package("kubernetes"),
    "openvino": Package("openvino"),
    "torchserve": Package("torchserve"),
    "tensorflow": Package(
        "tensorflow",
        builds=("tensorflow", "tensorflow-cpu"),
        cuda=CudaBuild(
            "python/platform/build_info.py",
            "('is_cuda_build', True)",
            "pip uninstall tensorflow-cpu && pip install 'tensorflow[and-cuda]'",
        ),
    ),
    "keras": Package("tensorflow"),
    "tf2onnx": Package("tensorflow"),
    "ai-edge-litert": Package("litert"),
    "transformers": Package("transformers"),
    "uvloop": Package("server"),
    "httptools": Package("server"),
    "prometheus-client": Package("server"),
    "orjson": Package("server"),
}
"""Distribution → its extra and builds."""


@dataclass(frozen=True, slots=True)
class NoCuda:
    """An installed package that is only built for CPUs, and the command that installs the build for CUDA."""

    package: str
    remedy: str

    @property
    def reason(self) -> str:
        """Why candidates that need it are refused."""
        return f"the installed {self.package} is a CPU build: {self.remedy}"


@cache
def version(package: str) -> str | None:
    """The installed version of a distribution, or of another build of it, or None."""
    for name in (package, *PACKAGES.get(package, Package()).builds):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def install_hint(packages: tuple[str, ...]) -> str:
    """The command that installs these packages."""
    extras = sorted({PACKAGES[p].extra for p in packages if p in PACKAGES} - {""})
    wanted = f"'mlo[{','.join(extras)}]'" if extras else " ".join(packages)
    return f"pip install {wanted}"


def without_cuda(packages: Iterable[str], path: Sequence[str] | None = None) -> NoCuda | None:
    """The first of these packages that is installed as a build for CPUs; None if there is none.

    Args:
        packages: names of distributions.
        path: folders to search; None for Python's own path.
    """
    for package in sorted(packages):
        build = PACKAGES.get(package, Package()).cuda
        if build is None:
            continue
        found = PathFinder.find_spec(package, path)
        if found is None or found.origin is None:
            continue  # reported by the code that needs the package
        file = Path(found.origin).parent / build.file
        if not file.is_file() or build.holds not in (file.read_text("utf-8", "replace") if build.holds else ""):
            return NoCuda(package, build.remedy)
    return None
