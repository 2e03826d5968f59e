"""Folders of installed packages, with the files that distinguish their builds."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "onnxruntime": ("capi/libonnxruntime_providers_cuda.so", ""),
    "torch": ("lib/libtorch_cuda.so", ""),
    "tensorflow": ("python/platform/build_info.py", "OrderedDict([('is_cuda_build', True)])"),
}


def install(site: Path, package: str, *, cuda: bool) -> str:
    """Lay a package below `site` that is a build for CUDA, or one for CPUs; returns the place that Python would look in."""
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").touch()
    file, text = FILES[package]
    if cuda or text:
        (site / package / file).parent.mkdir(parents=True)
        (site / package / file).write_text(text if cuda else text.replace("True", "False"))
    return str(site)
