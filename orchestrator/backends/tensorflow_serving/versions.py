"""A folder from which TensorFlow Serving serves several versions of one model at once, with labels that move.

    FOLDER/
      models/NAME/3, models/NAME/4    the versions; whoever fills the folder copies them and removes them
      models.config                   labels: `stable` is the version that requests go to, `previous` the one before it
      flags.txt, batching.config, monitoring.config, server.json

A server that runs on the folder follows without a restart, and nobody has to wait for it. It loads every version whose
folder appears (`all {}`), and reads models.config again every few seconds. A label that is in use moves only to a version
that is loaded: until then the server keeps all of its former configuration and tries again. So a policy that names its
versions (`specific {}`) would never get there: the new version is loaded by the very configuration that is turned down for
its label. Source: `ServerCore::ReloadConfig`, `FileSystemStoragePathSource`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from orchestrator.backends.tensorflow_serving.config import (
    FLAGS_FILE,
    LIVE,
    MODELS_FILE,
    Models,
    changed_flags,
    models_config,
    read_models_config,
)
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.atomic import write_atomic

__all__ = [
    "FORMER",
    "ServedVersions",
    "VersionError",
    "VersionedLayout",
    "move_label",
    "rendered_version",
    "served_versions",
    "settle",
    "version_folder",
]

FORMER = "previous"
"""The label of the version that was live before."""

_WATCHED = {"file_system_poll_wait_seconds": 1, "model_config_file_poll_wait_seconds": 2}
_READ_AT_START = ("batching.config", "monitoring.config")
_NUMBER = re.compile(r"[1-9][0-9]*")


class VersionError(ValueError):
    """A folder, or a version, with which this cannot be done; the message is a sentence for a person."""


@dataclass(frozen=True, slots=True)
class ServedVersions:
    """What a folder serves.

    Attributes:
        name: of the model on the wire.
        versions: whose folders are there, in ascending order.
        labels: label → version.
    """

    name: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]

    @property
    def live(self) -> int | None:
        """The version that requests go to; None before the first `move_label`."""
        return self.labels.get(LIVE)


def version_folder(folder: Path, name: str, version: int) -> Path:
    """Where a version of the model lies.

    It has to appear there whole, by a rename: a server loads it as soon as it sees it. Names that are no number are not
    looked at.
    """
    return folder / "models" / name / str(version)


def rendered_version(rendered: Path) -> Path:
    """The one version of a folder that `TensorFlowServing.write_folder` left.

    Raises:
        VersionError: it left no such folder.
    """
    models = _read(rendered)
    if len(models.versions) != 1:
        raise VersionError(f"{rendered} is no rendered folder: its {MODELS_FILE} does not name one version")
    return version_folder(rendered, models.name, models.versions[0])


def served_versions(folder: Path) -> ServedVersions | None:
    """What the folder serves now; None where there is nothing to serve yet.

    Raises:
        VersionError: its models.config is not as mlo wrote it.
    """
    if not (folder / MODELS_FILE).exists():
        return None
    models = _read(folder)
    return ServedVersions(models.name, _versions(folder, models.name), dict(models.labels))


def settle(folder: Path, rendered: Path, *, seen_at: PurePosixPath | None = None) -> bool:
    """Take over how a rendered folder wants to be served, all but its version; labels stay as they are.

    Args:
        folder: what a server reads; it exists.
        rendered: what `TensorFlowServing.write_folder` left.
        seen_at: where the server sees `folder`, if that is not its own path.

    Returns:
        Whether a server that runs on the folder has to be started again: it reads flags and batching at its start alone.

    Raises:
        VersionError: the folder serves another model, or is not as mlo wrote it.
        StoreFailed: the folder cannot be written.
    """
    root = seen_at or PurePosixPath(folder.absolute())
    name = _read(rendered).name
    new = not (folder / MODELS_FILE).exists()
    former = Models(name, "") if new else _read(folder)
    if former.name != name:
        raise VersionError(f"{folder} serves the model {former.name}, not {name}")
    # The socket of a server outside a container, where others have theirs in the same folder.
    changes = {**_WATCHED, "grpc_socket_path": f"/tmp/mlo-{name}.sock"}  # noqa: S108 - any folder would do
    flags = changed_flags((rendered / FLAGS_FILE).read_text(encoding="utf-8").splitlines(), root, **changes)
    wanted: dict[str, bytes | None] = {FLAGS_FILE: "".join(f"{flag}\n" for flag in flags).encode()}
    wanted |= {file: _content(rendered / file) for file in _READ_AT_START}
    changed = [_replace(folder / file, content) for file, content in wanted.items()]
    _replace(folder / "server.json", _content(rendered / "server.json"))
    models = Models(name, str(root / "models" / name), labels=former.labels)
    _replace(folder / MODELS_FILE, models_config(models).encode())
    return any(changed) and not new


def move_label(folder: Path, version: int, *, kept: Collection[int] | None = None) -> ServedVersions:
    """Make a version the live one: `stable` moves to it, and `previous` to the one that was live.

    A server that runs on the folder follows within seconds if it has loaded the version, else as soon as it has.

    Args:
        folder: what `settle` left, with the folder of the version.
        version: which.
        kept: the versions that stay; a label of another goes. None for all.

    Raises:
        VersionError: the folder is not as mlo wrote it, or the version is not there or not kept.
        StoreFailed: the folder cannot be written.
    """
    models = _read(folder)
    there = _versions(folder, models.name)
    stay = there if kept is None else tuple(number for number in there if number in kept)
    if version not in stay:
        raise VersionError(f"{folder} has no version {version} of {models.name}, only {', '.join(map(str, stay))}")
    live = models.labels.get(LIVE)
    former = models.labels.get(FORMER) if live == version else live
    labels = {LIVE: version} | ({FORMER: former} if former is not None and former in stay else {})
    _replace(folder / MODELS_FILE, models_config(replace(models, labels=labels)).encode())
    return ServedVersions(models.name, there, labels)


def _read(folder: Path) -> Models:
    file = folder / MODELS_FILE
    try:
        return read_models_config(file.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError as error:
        raise VersionError(f"{folder} has no {MODELS_FILE}") from error
    except ValueError as error:
        raise VersionError(f"{file} cannot be used: {error}") from error


def _versions(folder: Path, name: str) -> tuple[int, ...]:
    models = folder / "models" / name
    if not models.is_dir():
        return ()
    return tuple(sorted(int(path.name) for path in models.iterdir() if _NUMBER.fullmatch(path.name) and path.is_dir()))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _replace(path: Path, content: bytes | None) -> bool:
    """Let the file hold this, or be gone; whether it was otherwise. A reader sees it as it was or as it is."""
    if content == _content(path):
        return False
    if content is None:
        path.unlink()
    else:
        write_atomic(path, content)
    return True


_FILES = (FLAGS_FILE, MODELS_FILE, *_READ_AT_START, "server.json")
_T = TypeVar("_T")


class VersionedLayout:
    """`models/NAME/N` and the labels of `models.config`; see `orchestrator.backends.layout.Layout`.

    Args:
        folder: what is deployed into.
        name: the model's, on the wire.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def source(self, serving: Path) -> Path:
        """The one version that a rendered folder holds."""
        return _told(lambda: rendered_version(serving))

    def place(self, revision: int) -> Path:
        """`models/NAME/N`: a server that runs on the folder loads it as soon as it is there."""
        return version_folder(self._folder, self._name, revision)

    def in_use(self) -> int | None:
        """The version with the label `stable`."""
        served = _told(lambda: served_versions(self._folder))
        return None if served is None else served.live

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Take over flags, batching and the list of models, then move the labels."""
        again = serving is not None and _told(lambda: settle(self._folder, serving))
        _told(lambda: move_label(self._folder, revision, kept=kept))
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
    except VersionError as error:
        raise DeployFailed(
            Diagnostic(
                "E620",
                "the folder cannot be deployed into",
                cause=str(error),
                remedy="restore its files, or name another folder in `deploy: path:`",
            )
        ) from error
