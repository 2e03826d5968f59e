"""Keeps PyTorch and TensorFlow in separate processes: once one is imported, importing the other fails.

Each comes with its own OpenMP, protobuf and allocator, and they compete for threads and memory, so a measurement with both in
one process is not valid for a server that has only one. Workers and measured processes install this before they import anything
for a model.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["keep_apart"]

_OTHER: Mapping[str, str] = MappingProxyType({"torch": "tensorflow", "tensorflow": "torch"})
_NAMES: Mapping[str, str] = MappingProxyType({"torch": "PyTorch", "tensorflow": "TensorFlow"})


class _Refusing(Loader):
    """Fails when the module is imported; the module can still be found."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Refuse.

        Raises:
            ImportError: always.
        """
        here = _OTHER[spec.name]
        raise ImportError(
            f"{_NAMES[spec.name]} cannot be imported in this process, since {_NAMES[here]} is: mlo keeps them apart",
            name=spec.name,
        )

    def exec_module(self, module: ModuleType) -> None:
        """Never called, because no module is created."""


class _Apart(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that refuses if the other framework is imported."""
        if fullname not in _OTHER or _OTHER[fullname] not in sys.modules:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((s for finder in others if (s := finder.find_spec(fullname, path, target)) is not None), None)
        if spec is not None:
            # Libraries that only check whether the other framework is installed get the usual answer.
            spec.loader = _Refusing()
        return spec


def keep_apart() -> None:
    """From now on, only the framework that is imported first can be imported in this process."""
    if not any(isinstance(finder, _Apart) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Apart())
