"""Versions of the packages that steps use, read from their metadata: nothing is imported."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__all__ = ["BUILDS", "EXTRAS", "distributions", "install_hint", "version"]

EXTRAS = {
    "torch": "torch",
    "safetensors": "torch",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "torchserve": "torchserve",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "tf2onnx": "tensorflow",
    "ai-edge-litert": "litert",
    "transformers": "transformers",
    "uvloop": "server",
    "httptools": "server",
    "prometheus-client": "server",
    "orjson": "server",
}
"""Package → the extra of mlo that brings it."""


BUILDS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
"""Packages that come as several distributions, which install the same modules."""


@cache
def version(package: str) -> str | None:
    """The installed version of a distribution, or of another build of it, or None."""
    for name in BUILDS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


@cache
def distributions(module: str) -> tuple[str, ...]:
    """The distributions that bring a top-level module; none for the standard library and what is not installed.

    Reads the file lists of everything that is installed, a tenth of a second: asked only for a module that is the user's
    model and lies in no file of the user's.
    """
    return tuple(sorted(set(metadata.packages_distributions().get(module, ()))))


def install_hint(packages: tuple[str, ...]) -> str:
    """The command that brings these packages."""
    extras = sorted({EXTRAS[p] for p in packages if p in EXTRAS})
    wanted = f"'mlo[{','.join(extras)}]'" if extras else " ".join(packages)
    return f"pip install {wanted}"
