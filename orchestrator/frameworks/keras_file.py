"""Loads a `.keras` or `.h5` file and calls it by the model's own names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.frameworks.tf_process import keras

__all__ = ["as_function", "input_names", "load_keras", "output_names"]


def load_keras(path: Path) -> Any:
    """The model in the file, without its optimizer."""
    ending = ".h5" if _is_hdf5(path) else ".keras"
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, f"model{ending}")
        named.symlink_to(path.resolve())
        return keras.saving.load_model(named, compile=False, safe_mode=True)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def input_names(model: Any) -> list[str]:
    """The model's own names of its inputs, in the order in which `keras.tree.flatten(model.input)` gives them."""
    return _names(model.input, [tensor.name for tensor in model.inputs])


def output_names(model: Any) -> list[str]:
    """As `input_names`, of its outputs: the keys of a dictionary, or else the names of the layers that they come from."""
    return _names(model.output, list(model.output_names))


def as_function(model: Any) -> Callable[..., dict[str, Any]]:
    """The model in inference mode: tensors by its own names in, a dictionary by its own names out."""
    inputs, outputs, structure = input_names(model), output_names(model), model.input

    def call(**tensors: Any) -> dict[str, Any]:
        given = keras.tree.pack_sequence_as(structure, [tensors[name] for name in inputs])
        answer = model(given, training=False)
        return dict(zip(outputs, keras.tree.flatten(answer), strict=True))

    return call


def _names(structure: Any, otherwise: list[str]) -> list[str]:
    if isinstance(structure, Mapping) and len(structure) == len(otherwise):
        paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
        if all(len(path) == 1 for path in paths):
            return [str(path[0]) for path in paths]
    unique: list[str] = []
    for name in otherwise:
        number, free = 1, name
        while free in unique:
            free, number = f"{name}_{number}", number + 1
        unique.append(free)
    return unique
