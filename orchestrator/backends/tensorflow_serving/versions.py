"""A folder from which TensorFlow Serving serves several versions of one model at once, with labels that move.

    FOLDER/
      models/NAME/3, models/NAME/4    the versions; the deployment copies and removes them
      models.config                   labels: `stable` is the version that gets requests, `previous` the one before it
      flags.txt, batching.config, monitoring.config, server.json

A server that runs on the folder picks up changes without a restart. It loads every version whose folder appears (`all {}`),
and reads models.config again every few seconds. A label that is in use only moves to a loaded version: until then the server
keeps its entire previous configuration and tries again. A policy that lists versions (`specific {}`) would therefore never
take effect, because the new version would be loaded by the same configuration that is rejected because of its label.
Source: `ServerCore::ReloadConfig`, `FileSystemStoragePathSource`.
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
    "apply_settings",
    "move_label",
    "rendered_version",
    "served_versions",
    "version_folder",
]

FORMER = "previous"
"""The label of the previously live version."""

_WATCHED = {"file_system_poll_wait_seconds": 1, "model_config_file_poll_wait_seconds": 2}
_READ_AT_START = ("batching.config", "monitoring.config")
_NUMBER = re.compile(r"[1-9][0-9]*")


class VersionError(ValueError):
    """The folder or version cannot be used; the message is a sentence with the reason."""


@dataclass(frozen=True, slots=True)
class ServedVersions:
    """The versions served from a folder.

    Attributes:
        name: of the model on the wire.
        versions: those with a folder, in ascending order.
        labels: label → version.
    """

    name: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]

    @property
    def live(self) -> int | None:
        """The version that gets requests; None before the first `move_label`."""
        return self.labels.get(LIVE)


def version_folder(folder: Path, name: str, version: int) -> Path:
    """The folder of a version of the model.

    It must be moved there complete, by a rename, because a server loads it as soon as it appears. Names that are not numbers
    are ignored.
    """
    return folder / "models" / name / str(version)


def rendered_version(rendered: Path) -> Path:
    """The one version in a folder that `TensorFlowServing.write_folder` wrote.

    Raises:
        VersionError: it is another folder.
    """
    models = _read(rendered)
    if len(models.versions) != 1:
        raise VersionError(f"{rendered} is not a rendered folder: its {MODELS_FILE} does not name exactly one version")
    return version_folder(rendered, models.name, models.versions[0])


def served_versions(folder: Path) -> ServedVersions | None:
    """The versions that the folder serves now; None if it does not serve anything yet.

    Raises:
        VersionError: mlo did not write its models.config.
    """
    if not (folder / MODELS_FILE).exists():
        return None
    models = _read(folder)
    return ServedVersions(models.name, _versions(folder, models.name), dict(models.labels))


def apply_settings(folder: Path, rendered: Path, *, seen_at: PurePosixPath | None = None) -> bool:
    """Apply the settings of a rendered folder, except for its version; labels do not change.

    Args:
        folder: an existing folder that a server reads.
        rendered: a folder written by `TensorFlowServing.write_folder`.
        seen_at: the path of `folder` as seen by the server, if it differs.

    Returns:
        Whether servers that run on the folder must be restarted: they only read flags and batching at the start.

    Raises:
        VersionError: the folder serves another model, or mlo did not write it.
        StoreFailed: the folder cannot be written.
    """
    root = seen_at or PurePosixPath(folder.absolute())
    name = _read(rendered).name
    new = not (folder / MODELS_FILE).exists()
    former = Models(name, "") if new else _read(folder)
    if former.name != name:
        raise VersionError(f"{folder} serves the model {former.name}, not {name}")
    # The socket needs a unique name outside a container, where several servers share /tmp.
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
    """Make a version live: `stable` moves to it, and `previous` to the version that was live.

    A server that runs on the folder follows within seconds if it has loaded the version, otherwise as soon as it has.

    Args:
        folder: a folder written by `apply_settings`, with the folder of the version.
        version: the new live version.
        kept: the versions that are kept; labels of others are removed. None for all.

    Raises:
        VersionError: mlo did not write the folder, or the version is missing or not kept.
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
    """Atomically write the file, or remove it if there is no content; returns whether it changed."""
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
        folder: the deployment folder.
        name: the model's, on the wire.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def source(self, serving: Path) -> Path:
        """The one version in a rendered folder."""
        return _or_refuse(lambda: rendered_version(serving))

    def place(self, revision: int) -> Path:
        """`models/NAME/N`; a server that runs on the folder loads it as soon as it exists."""
        return version_folder(self._folder, self._name, revision)

    def in_use(self) -> int | None:
        """The version with the label `stable`."""
        served = _or_refuse(lambda: served_versions(self._folder))
        return None if served is None else served.live

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Take over flags, batching and the list of models, then move the labels."""
        restart = serving is not None and _or_refuse(lambda: apply_settings(self._folder, serving))
        _or_refuse(lambda: move_label(self._folder, revision, kept=kept))
        return ("restart servers that run on the folder, because flags or batching changed",) if restart else ()

    def retire(self) -> None:
        """Remove the configuration."""
        for file in _FILES:
            (self._folder / file).unlink(missing_ok=True)


def _or_refuse(change: Callable[[], _T]) -> _T:
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
