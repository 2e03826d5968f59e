"""Observes the machine and the project before a spec is compiled; nothing else in planning looks at them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from orchestrator.backends.table import BACKENDS, backend, serving_backend
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.here import CudaHere, Here, ServerHere
from orchestrator.machine.instructions import cpu_flags
from orchestrator.machine.packages import version, without_cuda
from orchestrator.optimize.candidates import wanted_backends
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.passes import passes_of
from orchestrator.optimize.sources import SOURCES
from orchestrator.optimize.transform import Transform
from orchestrator.render.assets import assets_digest
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.random_mark import is_random
from orchestrator.spec.source_models import PytorchSource
from orchestrator.store.digest import sha256_bytes

__all__ = ["observe_here"]

_OWN = ("cryptography", "h2", "jinja2", "numpy")
"""Packages that steps use but that are in no table."""


def observe_here(loaded: LoadedSpec, root: Path = Path("/"), path: Sequence[str] | None = None) -> Here:
    """What is available on this machine and in the spec's folder.

    Args:
        loaded: the spec.
        root: the folder with `proc`, `dev` and `sys`.
        path: folders to search for builds for CUDA; None for Python's own path.
    """
    spec = loaded.spec
    file = _factory_file(loaded)
    return Here(
        fingerprint=fingerprint(),
        packages=_table_packages(),
        assets=assets_digest(),
        servers={
            name: _server(name, spec.hardware.devices)
            for name in sorted(wanted_backends(spec))
            if BACKENDS[name].served
        },
        cuda=_cuda(spec, root, path),
        factory_file=file,
        variables=_variables(spec),
        weights_bytes=_weights_bytes(loaded),
        cpu_flags=cpu_flags(),
        random_samples=spec.model.samples is not None and is_random(spec.path(spec.model.samples, loaded.folder)),
    )


@cache
def _table_packages() -> dict[str, str | None]:
    """All packages of sources, formats and backends."""
    names = {*_OWN}
    for source in SOURCES.values():
        names.update(source.tools)
    for row in FORMATS.values():
        for transform in (*row.convert.values(), *(each.made for each in passes_of(row.name))):
            names.update(transform.tools if isinstance(transform, Transform) else ())
    for name in BACKENDS:
        names.update(
            backend(name).tools,
            backend(name).grpc_tools,
            backend(name).traces_tools,
            *(opener.tools for opener in backend(name).runtimes.values()),
        )
    return {name: version(name) for name in sorted(names)}


def _server(name: str, devices: int) -> ServerHere:
    chosen = serving_backend(name)
    if (lacking := chosen.unavailable(devices)) is not None:
        notes = chosen.notes(devices)
        return ServerHere(present=False, notes=notes, lacking=lacking.reason, remedy=lacking.remedy)
    return ServerHere(chosen.present(devices), chosen.notes(devices))


def _cuda(spec: ModelDeployment, root: Path, path: Sequence[str] | None) -> CudaHere | None:
    if not spec.hardware.devices:
        return None
    builds = {name: build for name in _table_packages() if (build := without_cuda((name,), path)) is not None}
    return CudaHere(cuda_devices(root), builds)


def _weights_bytes(loaded: LoadedSpec) -> int | None:
    """The size of a file that holds the weights and nothing else: others may hold an optimizer's state too."""
    source = loaded.spec.model.source
    path = loaded.spec.path(source.weights, loaded.folder)
    if path.suffix != ".safetensors" or (isinstance(source, PytorchSource) and source.weights_key is not None):
        return None
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None  # the step that reads it says why


def _factory_file(loaded: LoadedSpec) -> Path | None:
    """The factory's module, if it is in the spec's folder or in one of `model.source.path`."""
    source = loaded.spec.model.source
    if not isinstance(source, PytorchSource):
        return None
    relative = Path(*source.factory.partition(":")[0].split("."))
    for folder in (loaded.folder, *(loaded.spec.path(root, loaded.folder) for root in source.path)):
        for path in (folder / relative.with_suffix(".py"), folder / relative / "__init__.py"):
            if path.is_file():
                return path
    return None


def _variables(spec: ModelDeployment) -> dict[str, str | None]:
    source = spec.model.source
    names = source.env if isinstance(source, PytorchSource) else []
    return {name: sha256_bytes(os.environ[name].encode()) if name in os.environ else None for name in names}
