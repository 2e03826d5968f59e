"""Revisions as versions of one TensorFlow Serving model: both are served, and a label says which one requests go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from orchestrator.backends.tensorflow_serving import versions
from orchestrator.backends.tensorflow_serving.config import FLAGS_FILE, MODELS_FILE
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed

__all__ = ["VersionedLayout"]

_FILES = (FLAGS_FILE, MODELS_FILE, "batching.config", "monitoring.config", "server.json")
_T = TypeVar("_T")


class VersionedLayout:
    """`models/NAME/N` and the labels of `models.config`; see `orchestrator.targets.folder.layout.Layout`.

    Args:
        folder: what is deployed into.
        name: the model's, on the wire.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def source(self, serving: Path) -> Path:
        """The one version that a rendered folder holds."""
        return _told(lambda: versions.rendered_version(serving))

    def place(self, revision: int) -> Path:
        """`models/NAME/N`: a server that runs on the folder loads it as soon as it is there."""
        return versions.version_folder(self._folder, self._name, revision)

    def in_use(self) -> int | None:
        """The version with the label `stable`."""
        served = _told(lambda: versions.served_versions(self._folder))
        return None if served is None else served.live

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Take over flags, batching and the list of models, then move the labels."""
        again = serving is not None and _told(lambda: versions.settle(self._folder, serving))
        _told(lambda: versions.move_label(self._folder, revision, kept=kept))
        return (
            ("a server that runs on the folder has to be started again: its flags or batching changed",)
            if again
            else ()
        )

    def retire(self) -> None:
        """The configuration."""
        for file in _FILES:
            (self._folder / file).unlink(missing_ok=True)


def _told(change: Callable[[], _T]) -> _T:
    try:
        return change()
    except versions.VersionError as error:
        raise DeployFailed(
            Diagnostic(
                "E620",
                "the folder cannot be deployed into",
                cause=str(error),
                remedy="restore its files, or name another folder in `deploy: path:`",
            )
        ) from error
