"""A deployment as a folder that a device or your own server reads: `deploy: {target: folder, path: ...}`.

    PATH/
      .mlo-deployed.json       its deployment, and the revisions that mlo copied here, with their digests
      current -> revisions/3   the revision in use; the link is replaced atomically
      revisions/2, 3           whole serving folders; `deploy.versions` are kept

For TensorFlow Serving, which serves several versions from one folder, see `backends/tensorflow_serving/versions.py`. The revision in use is not
touched until the next revision is completely copied beside it, even if that has another backend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from orchestrator.backends.layout import Layout
from orchestrator.backends.table import backend as backend_named
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed, StoreFailed
from orchestrator.store.atomic import TEMPORARY_PREFIX, copy_folder_atomic
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import StatCache, digest_tree
from orchestrator.store.failures import store_errors
from orchestrator.store.scratch import remove_tree
from orchestrator.targets.folder.marker import (
    CopiedRevision,
    Marker,
    folder_unusable,
    lock_folder,
    read_marker,
    write_marker,
)
from orchestrator.targets.folder.placement import FolderPlacement
from orchestrator.targets.target import (
    PLAIN,
    Description,
    Health,
    Observed,
    Offers,
    Release,
    Site,
    Started,
)
from orchestrator.targets.written import ReadBy, WrittenTarget

if TYPE_CHECKING:
    from orchestrator.store.state import PlacementRecord
    from orchestrator.targets.folder.section import FolderDeploy

__all__ = ["FolderTarget"]


class FolderTarget(WrittenTarget):
    """One deployment's folder; see `orchestrator.targets.target.Target`.

    Args:
        folder: absolute; made when the first revision is put there.
        name: the deployment's.
        keep: how many revisions stay, the newest ones and the one in use.
        cache: digests by stat, so that checking a large model needs no reading.
    """

    def __init__(self, folder: Path, name: str, keep: int, cache: StatCache | None = None) -> None:
        read_by = ReadBy(
            cause=f"it is deployed into the folder {folder}, and mlo runs no server for it",
            ask="send the request to the device or server that reads the folder",
            log="see the log of the device or server that reads the folder",
        )
        super().__init__(FolderPlacement.TARGET, name, folder, read_by)
        self._keep = keep
        self._cache = cache
        self._rendered: dict[int, Path] = {}

    @classmethod
    def wanted(cls, section: FolderDeploy, base: Path, site: Site) -> Self:
        """The folder that the spec names, relative to its own."""
        return cls((base / section.path).absolute(), site.name, section.versions, site.store.stat_cache)

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        """The folder that the state remembers."""
        found = FolderPlacement.of(placement)
        return cls(Path(found.path), site.name, found.versions, site.store.stat_cache)

    @property
    def placement(self) -> PlacementRecord:
        """The folder, and how many revisions stay in it."""
        return FolderPlacement(path=str(self._folder), versions=self._keep).record()

    def is_at(self, placement: PlacementRecord) -> bool:
        """Whether it is the same folder; how many revisions stay does not matter."""
        return placement.target == FolderPlacement.TARGET and FolderPlacement.of(placement).path == str(self._folder)

    def difference(self, endpoint: str) -> str | None:
        """None: a spec only names the folder."""
        del endpoint
        return None

    def describe(self) -> Description:
        """The words for files in a folder, rather than for a server."""
        return Description(
            where=str(self._folder),
            label="folder",
            in_use="is in use",
            removal=f"Remove {self._name} from {self._folder}",
            removed=f"removed from {self._folder}",
        )

    def observe(self) -> Observed:
        """What the folder holds: `degraded` where a file in use is not what was put there, or the marker is not ours."""
        try:
            marker = self._marker()
            revision = None if marker is None or not marker.backend else self._layout(marker.backend).in_use()
        except DeployFailed as refused:
            return self._observed("degraded", refused.diagnostics[0].cause)
        if marker is None:
            return self._observed("stopped", f"mlo has not deployed anything into {self._folder}")
        if revision is None:
            return self._observed("stopped", f"no revision in {self._folder} is in use")
        if revision not in marker.revisions:
            reason = f"revision {revision} is in use, but mlo did not deploy it"
            return self._observed("degraded", reason, revision, marker.backend)
        if not self._is_intact(marker, revision):
            reason = f"files of revision {revision} are missing or were changed"
            return self._observed("degraded", reason, revision, marker.backend)
        return self._observed("healthy", "", revision, marker.backend)

    def history(self) -> tuple[int, ...]:
        """All revisions that lie there."""
        marker = self._marker()
        return () if marker is None else tuple(sorted(marker.revisions))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for the block, also against other stores and users.

        Raises:
            Busy: E605, another command is deploying into it.
        """
        with lock_folder(self._folder):
            yield

    def check(self, offers: Offers = PLAIN) -> None:
        """Whether the folder can be deployed into; changes nothing.

        Raises:
            DeployFailed: E620, it is a file, cannot be written, or holds something that mlo did not put there for this
                deployment.
        """
        del offers  # mlo runs no server
        if self._folder.exists() and not self._folder.is_dir():
            raise folder_unusable(self._folder, "it is a file")
        if reason := _unwritable(self._folder):
            raise folder_unusable(self._folder, reason)
        if self._marker() is None and self._folder.is_dir() and any(self._folder.iterdir()):
            raise folder_unusable(self._folder, "it is not empty, and its contents are not from mlo")

    def prepare(self, live: Release | None = None) -> str:
        """Make the folder and mark it, unless it holds something that mlo did not put there.

        Raises:
            DeployFailed: E620.
        """
        del live  # files do not end
        self.check()
        if self._marker() is None:
            with store_errors("write", self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            self._write(Marker(name=self._name, backend=None, revisions={}))
        return str(self._folder)

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        """Copy the serving folder beside the revision in use, unless the same is already there.

        Raises:
            DeployFailed: E621 the copy is not what was rendered.
            Busy: E605 a revision of that number, with another content, was in use there.
        """
        revision, backend = release.revision, release.backend  # the folder's reader has its own settings for the rest
        marker = self._own_marker()
        layout = self._layout(backend)
        source, place = layout.source(release.serving), layout.place(revision)
        wanted = digest_tree(source).digest
        there = marker.revisions.get(revision)
        if there is not None and there.used and there.digest != wanted:
            raise Busy(
                Diagnostic(
                    "E605",
                    f"{self._folder} holds another revision {revision}",
                    cause="another store has deployed into it",
                    remedy="run `mlo apply` again: it uses the next free number",
                )
            )
        if there is None or there.digest != wanted or _digest(place, None) != wanted:
            progress(f"copying revision {revision}")
            used = there is not None and there.used
            # First, so that a run that dies from here on leaves nothing that `drop` and `stop` do not know.
            self._write(marker.with_revision(revision, CopiedRevision(digest=wanted, backend=backend, used=used)))
            with store_errors("write", place):
                copy_folder_atomic(source, place)
            if (found := _digest(place, None)) != wanted:
                raise DeployFailed(
                    Diagnostic(
                        "E621",
                        f"revision {revision} in {self._folder} is not what was rendered",
                        cause=f"its digest is {(found or 'unknown')[:12]} instead of {wanted[:12]}",
                        remedy="keep other programs from writing to the folder, then run the same command again",
                    )
                )
        self._rendered[revision] = release.serving
        crash_point("folder.started")
        # Nothing serves here: `verify` has proven the variant, and the copy has its digest.
        return Started(revision, None, proof=f"the digest of {place} is that of the rendered folder")

    def switch(self, revision: int) -> tuple[str, ...]:
        """Make `revision` the one in use, atomically for readers, and remove what is no longer kept.

        Raises:
            DeployFailed: E607, it is not there.
        """
        marker = self._own_marker()
        copied = marker.revisions.get(revision)
        if copied is None or not self._is_intact(marker, revision):
            raise DeployFailed(
                Diagnostic(
                    "E607",
                    f"revision {revision} is not in {self._folder}",
                    cause="another program has removed or changed it since it was copied",
                    remedy="keep other programs from writing to the folder, then run the same command again",
                )
            )
        layout = self._layout(copied.backend)
        before = self._layout(marker.backend).in_use() if marker.backend else None
        kept = self._kept(marker, revision, before)
        with store_errors("write", self._folder):
            notes = layout.use(revision, kept, self._rendered.get(revision))
        crash_point("folder.switched")
        used = copied.model_copy(update={"used": True})
        self._write(marker.with_revision(revision, used).only(kept).used_with(copied.backend))
        crash_point("folder.recorded")
        with store_errors("clean up", self._folder):
            for number, old in marker.revisions.items():
                if number not in kept:
                    remove_tree(self._layout(old.backend).place(number))
            if marker.backend and not self._same_layout(marker.backend, copied.backend):
                self._layout(marker.backend).retire()
            self._sweep()
        return notes

    def drop(self, revision: int) -> None:
        """Remove a copy that was never in use; one that was in use stays for a rollback."""
        marker = self._marker()
        copied = None if marker is None else marker.revisions.get(revision)
        if marker is None or copied is None or copied.used:
            return
        layout = self._layout(copied.backend)
        if not (marker.backend and self._same_layout(marker.backend, copied.backend)) and layout.in_use() == revision:
            layout.retire()  # a run died between its switch and the marker: what the marker says is in use
        self._write(marker.only([number for number in marker.revisions if number != revision]))
        with store_errors("clean up", self._folder):
            remove_tree(layout.place(revision))
            self._sweep()

    def stop(self) -> tuple[str, ...]:
        """Remove what mlo put there, and the folder if nothing else is in it.

        Raises:
            DeployFailed: E620, it is not this deployment's.
        """
        marker = self._marker()
        if marker is None:
            return ()
        with store_errors("clean up", self._folder):
            backends = {copied.backend for copied in marker.revisions.values()}
            for backend in backends | ({marker.backend} if marker.backend else set()):
                self._layout(backend).retire()
            for number, copied in marker.revisions.items():
                remove_tree(self._layout(copied.backend).place(number))
            self._sweep()
            marker.file(self._folder).unlink(missing_ok=True)
        with suppress(OSError):  # files of others stay
            self._folder.rmdir()
        return self._left()

    def _kept(self, marker: Marker, revision: int, before: int | None) -> list[int]:
        """The new revision, the one in use before it, and the newest others of the same layout; `keep` in all."""
        backend = marker.revisions[revision].backend
        others = [
            number
            for number, copied in marker.revisions.items()
            if number != revision and copied.used and self._same_layout(copied.backend, backend)
        ]
        order = sorted(others, key=lambda number: (number == before, number), reverse=True)
        return sorted([revision, *order[: self._keep - 1]])

    def _sweep(self) -> None:
        """Remove what killed copies left behind, and empty folders."""
        for parent in (self._folder / "revisions", self._folder / "models" / self._name, self._folder / "models"):
            if not parent.is_dir():
                continue
            for left in parent.glob(f"{TEMPORARY_PREFIX}*"):
                remove_tree(left)
            if not any(parent.iterdir()):
                parent.rmdir()

    def _is_intact(self, marker: Marker, revision: int) -> bool:
        copied = marker.revisions[revision]
        return _digest(self._layout(copied.backend).place(revision), self._cache) == copied.digest

    def _same_layout(self, one: str, other: str) -> bool:
        """Whether two backends mark the revision in use in the same way."""
        return type(self._layout(one)) is type(self._layout(other))

    def _layout(self, backend: str) -> Layout:
        return backend_named(backend).layout(self._folder, self._name)

    def _marker(self) -> Marker | None:
        return read_marker(self._folder, self._name)

    def _own_marker(self) -> Marker:
        marker = self._marker()
        if marker is None:
            raise folder_unusable(self._folder, "its marker is missing")
        return marker

    def _write(self, marker: Marker) -> None:
        write_marker(self._folder, marker)

    def _observed(
        self, health: Health, reason: str, revision: int | None = None, backend: str | None = None
    ) -> Observed:
        if self._cache is not None:
            self._cache.save()
        return super()._observed(health, reason, revision, backend)


def _digest(place: Path, cache: StatCache | None) -> str | None:
    """The digest of the folder; None where it is missing or holds what a tree cannot."""
    try:
        return digest_tree(place, cache).digest if place.is_dir() else None
    except StoreFailed:
        return None


def _unwritable(folder: Path) -> str:
    """Why nothing can be written into the folder, or why it cannot be made; empty if it can."""
    place = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not place.is_dir():
        return f"{place} is not a folder"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"you may not write to {place}"
    if place == folder:
        return ""
    try:
        # Permissions do not tell everything, least of all to root: a quota, or a file system without folders of one's own.
        with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=place):
            return ""
    except OSError as error:
        return f"no folder can be made in {place}: {(error.strerror or str(error)).lower()}"
