"""Reads a SavedModel folder: its signatures without running it, and one of them to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.frameworks.tf_process import tf

__all__ = ["load_signature"]


def load_signature(folder: Path, name: str) -> tuple[Any, Callable[..., Mapping[str, Any]]]:
    """What the folder holds, which owns the variables; and its signature, called by the model's own names."""
    loaded = tf.saved_model.load(str(folder))
    return loaded, loaded.signatures[name]
