"""A deployment as a folder that a device, or a server of one's own, reads: `deploy: {target: folder, path: ...}`.

    PATH/
      .mlo-deployed.json       which revisions mlo has put here, with their digests
      current -> revisions/3   what is to be used; the link is replaced at once
      revisions/2, 3           whole serving folders; `deploy.versions` are kept

For TensorFlow Serving, which serves several versions from one folder, see `tensorflow_serving_folder.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, StoreFailed
from orchestrator.store.atomic import TEMPORARY_PREFIX, fsync_folder, fsync_tree, pretty_json, write_atomic
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import digest_tree
from orchestrator.store.failures import store_errors
from orchestrator.store.scratch import remove_tree
from orchestrator.targets.folder_layout import Layout, layout_of
from orchestrator.targets.target import Candidate, Observed

__all__ = ["MARKER", "FolderTarget"]

MARKER = ".mlo-deployed.json"
_FORMAT = 1


class FolderTarget:
    """One deployment's folder; see `orchestrator.targets.target.Target`.

    Args:
        folder: absolute; made when the first revision is put there.
        name: the deployment's.
        keep: how many revisions stay, the newest ones and the one in use.
    """

    def __init__(self, folder: Path, name: str, keep: int) -> None:
        self._folder = folder
        self._name = name
        self._keep = keep

    def observe(self) -> Observed:
        """What the folder holds: `degraded` where a file of the revision in use is not what was put there."""
        marker = self._marker()
        layout = self._layout(marker)
        revision = None if layout is None else layout.in_use()
        if marker is None or layout is None or revision is None:
            return Observed(
                running=False,
                health="stopped",
                endpoint=str(self._folder),
                revision=None,
                backend=None,
                pid=None,
                since=None,
            )
        entry = marker["revisions"].get(str(revision))
        whole = entry is not None and _digest(layout.place(revision)) == entry["digest"]
        return Observed(
            running=True,
            health="healthy" if whole else "degraded",
            endpoint=str(self._folder),
            revision=revision,
            backend=marker["backend"],
            pid=None,
            since=None,
        )

    def prepare(self, port: int | None = None) -> str:  # noqa: ARG002 - a folder listens nowhere
        """Make the folder, unless it holds something that mlo did not put there.

        Raises:
            DeployFailed: E620.
        """
        marker = self._marker()
        if marker is not None and marker["name"] != self._name:
            raise self._taken(f"it holds the deployment {marker['name']}")
        if marker is None and self._folder.is_dir() and any(self._folder.iterdir()):
            raise self._taken("it is not empty, and mlo did not fill it")
        if marker is None and self._folder.exists() and not self._folder.is_dir():
            raise self._taken("it is a file")
        with store_errors("write", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        return str(self._folder)

    def start_candidate(
        self,
        revision: int,
        serving: Path,
        backend: str,
        name: str,
        threads: int,
        startup_seconds: int,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Candidate:
        """Copy the serving folder beside what is in use. The same revision again is copied again only if it was changed.

        Raises:
            DeployFailed: E621 the copy is not what was rendered.
        """
        del threads, startup_seconds  # whoever reads the folder has its own
        marker = self._marker()
        if marker is not None and marker["revisions"] and marker["backend"] != backend:
            self._empty(marker)  # another backend reads another kind of folder
            marker = None
        layout = layout_of(backend, self._folder, name)
        place = layout.place(revision)
        if not self._holds(marker, revision, place):
            progress(f"copying revision {revision}")
            source = layout.source(serving)
            wanted = digest_tree(source).digest
            with store_errors("write", place):
                self._copy(source, place)
            if (found := _digest(place)) != wanted:
                remove_tree(place)
                raise DeployFailed(
                    Diagnostic(
                        "E621",
                        f"revision {revision} in {self._folder} is not what was rendered",
                        cause=f"its digest is {(found or 'unknown')[:12]} instead of {wanted[:12]}",
                        remedy="see whether something else writes to the folder, then run the command again",
                    )
                )
            entries = {} if marker is None else dict(marker["revisions"])
            self._write_marker(backend, {**entries, str(revision): {"digest": wanted}})
        crash_point("folder.candidate-ready")
        layout.settle(serving, revision)
        return Candidate(revision, str(place), None)

    def switch(self, revision: int) -> None:
        """Let `revision` be the one in use, at once for whoever reads, and remove what is no longer kept.

        Raises:
            DeployFailed: E607, it is not there.
        """
        marker = self._marker()
        layout = self._layout(marker)
        if marker is None or layout is None or not self._holds(marker, revision, layout.place(revision)):
            raise DeployFailed(
                Diagnostic("E607", f"revision {revision} is not in {self._folder}", remedy="run `mlo apply` again")
            )
        before = layout.in_use()
        known = sorted(int(number) for number in marker["revisions"])
        newest = [number for number in reversed(known) if number != revision][: self._keep - 1]
        if before is not None and before != revision and before not in newest and newest:
            newest[-1] = before  # what was in use is what a rollback goes to
        kept = sorted({revision, *newest})
        with store_errors("write", self._folder):
            layout.use(revision, kept)
        crash_point("folder.switched")
        self._write_marker(marker["backend"], {n: e for n, e in marker["revisions"].items() if int(n) in kept})
        for number in known:
            if number not in kept:
                remove_tree(layout.place(number))

    def drop(self, revision: int) -> None:
        """Remove a revision that is not in use."""
        marker = self._marker()
        layout = self._layout(marker)
        if marker is None or layout is None or layout.in_use() == revision:
            return
        self._write_marker(marker["backend"], {n: e for n, e in marker["revisions"].items() if n != str(revision)})
        remove_tree(layout.place(revision))

    def holds(self, revision: int) -> bool:
        """Whether the revision is there, whole."""
        marker = self._marker()
        layout = self._layout(marker)
        return layout is not None and self._holds(marker, revision, layout.place(revision))

    def stop(self) -> None:
        """Remove what mlo put there, and the folder if nothing else is in it."""
        marker = self._marker()
        if marker is None:
            return
        self._empty(marker)
        (self._folder / MARKER).unlink(missing_ok=True)
        with suppress(OSError):  # what somebody else put there stays
            self._folder.rmdir()

    def _empty(self, marker: Mapping[str, Any]) -> None:
        layout = layout_of(marker["backend"], self._folder, self._name)
        with store_errors("write", self._folder):
            layout.remove(sorted(int(number) for number in marker["revisions"]))
        self._write_marker(marker["backend"], {})

    def _copy(self, source: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{TEMPORARY_PREFIX}{place.name}")
        for old in (partial, place):
            if old.exists():
                remove_tree(old)
        shutil.copytree(source, partial, copy_function=shutil.copyfile)
        for path in (partial, *partial.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        fsync_tree(partial)
        partial.rename(place)
        fsync_folder(place.parent)

    def _holds(self, marker: Mapping[str, Any] | None, revision: int, place: Path) -> bool:
        entry = None if marker is None else marker["revisions"].get(str(revision))
        return entry is not None and _digest(place) == entry["digest"]

    def _layout(self, marker: Mapping[str, Any] | None) -> Layout | None:
        return None if marker is None else layout_of(marker["backend"], self._folder, self._name)

    def _marker(self) -> dict[str, Any] | None:
        try:
            document = json.loads((self._folder / MARKER).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise self._taken(f"its {MARKER} cannot be read: {error}") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise self._taken(f"its {MARKER} has another format")
        return document

    def _write_marker(self, backend: str, revisions: Mapping[str, Any]) -> None:
        document = {"format": _FORMAT, "name": self._name, "backend": backend, "revisions": dict(revisions)}
        write_atomic(self._folder / MARKER, pretty_json(document))

    def _taken(self, cause: str) -> DeployFailed:
        return DeployFailed(
            Diagnostic(
                "E620",
                f"{self._folder} cannot be deployed into",
                cause=cause,
                remedy="name another folder in `deploy: path:`, or move away what is there",
            )
        )


def _digest(place: Path) -> str | None:
    """The digest of what is there; None where it is gone or holds what a tree cannot."""
    try:
        return digest_tree(place).digest if place.is_dir() else None
    except StoreFailed:
        return None
