"""A deployment as a folder that a device, or a server of one's own, reads: `deploy: {target: folder, path: ...}`.

    PATH/
      .mlo-deployed.json       whose folder it is, and which revisions mlo has put here, with their digests
      current -> revisions/3   what is to be used; the link is replaced at once
      revisions/2, 3           whole serving folders; `deploy.versions` are kept

For TensorFlow Serving, which serves several versions from one folder, see `backends/tensorflow_serving/versions.py`. What is in use is not
touched until the next revision is whole beside it, also where that is another backend's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.backends.layout import Layout
from orchestrator.backends.table import backend as backend_named
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed, StoreFailed
from orchestrator.store.atomic import TEMPORARY_PREFIX, fsync_folder, fsync_tree
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import StatCache, digest_tree
from orchestrator.store.failures import store_errors
from orchestrator.store.scratch import remove_tree
from orchestrator.targets.folder.marker import Marker, Put, alone_in, read_marker, taken, write_marker
from orchestrator.targets.target import Candidate, Observed

__all__ = ["FolderTarget"]


class FolderTarget:
    """One deployment's folder; see `orchestrator.targets.target.Target`.

    Args:
        folder: absolute; made when the first revision is put there.
        name: the deployment's.
        keep: how many revisions stay, the newest ones and the one in use.
        cache: digests by stat, so that a look at a large model costs no reading.
    """

    answers = False

    def __init__(self, folder: Path, name: str, keep: int, cache: StatCache | None = None) -> None:
        if not folder.is_absolute():
            raise ValueError(f"{folder} is not an absolute path")
        self._folder = folder
        self._name = name
        self._keep = keep
        self._cache = cache
        self._rendered: dict[int, Path] = {}

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def observe(self) -> Observed:
        """What the folder holds: `degraded` where a file in use is not what was put there, or the marker is not ours."""
        try:
            marker = self._marker()
            revision = None if marker is None or not marker.backend else self._layout(marker.backend).in_use()
        except DeployFailed:  # told by whoever wants to change something there
            return self._observed(None, "degraded", "")
        if marker is None or revision is None:
            return self._observed(None, "stopped", "")
        whole = revision in marker.revisions and self._whole(marker, revision)
        return self._observed(revision, "healthy" if whole else "degraded", marker.backend)

    def highest(self) -> int:
        """The highest number of a revision that is there; 0 where there is none."""
        marker = self._marker()
        return max(marker.revisions, default=0) if marker is not None else 0

    def check(self) -> None:
        """Whether the folder can be deployed into; changes nothing.

        Raises:
            DeployFailed: E620, it is a file, or holds something that mlo did not put there for this deployment.
        """
        if self._folder.exists() and not self._folder.is_dir():
            raise taken(self._folder, "it is a file")
        if self._marker() is None and self._folder.is_dir() and any(self._folder.iterdir()):
            raise taken(self._folder, "it is not empty, and mlo did not fill it")

    def prepare(self, port: int | None = None) -> str:  # noqa: ARG002 - a folder listens nowhere
        """Make the folder and mark it, unless it holds something that mlo did not put there.

        Raises:
            DeployFailed: E620.
        """
        self.check()
        if self._marker() is None:
            with store_errors("write", self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            self._write(Marker(self._name, "", {}))
        return self.place

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder against others, also of other stores and users, for the block.

        Raises:
            Busy: E605, somebody else deploys into it.
        """
        with alone_in(self._folder):
            yield

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
        """Copy the serving folder beside what is in use, unless the very same is there.

        Raises:
            DeployFailed: E621 the copy is not what was rendered.
            Busy: E605 a revision of that number, with another content, was in use there.
        """
        del name, threads, startup_seconds  # whoever reads the folder has its own
        marker = self._ours()
        layout = self._layout(backend)
        source, place = layout.source(serving), layout.place(revision)
        wanted = digest_tree(source).digest
        there = marker.revisions.get(revision)
        if there is not None and there.used and there.digest != wanted:
            raise Busy(
                Diagnostic(
                    "E605",
                    f"{self._folder} holds another revision {revision}",
                    cause="it was deployed into from another store",
                    remedy="run `mlo apply` again: it takes a number that is free",
                )
            )
        if there is None or there.digest != wanted or _digest(place, None) != wanted:
            progress(f"copying revision {revision}")
            with store_errors("write", place):
                self._copy(source, place)
            if (found := _digest(place, None)) != wanted:
                raise DeployFailed(
                    Diagnostic(
                        "E621",
                        f"revision {revision} in {self._folder} is not what was rendered",
                        cause=f"its digest is {(found or 'unknown')[:12]} instead of {wanted[:12]}",
                        remedy="see whether something else writes to the folder, then run the command again",
                    )
                )
            used = there is not None and there.used
            self._write(marker.with_revision(revision, Put(wanted, backend, used=used)))
        self._rendered[revision] = serving
        crash_point("folder.candidate-ready")
        return Candidate(revision, str(place), None)

    def switch(self, revision: int) -> tuple[str, ...]:
        """Let `revision` be the one in use, at once for whoever reads, and remove what is no longer kept.

        Raises:
            DeployFailed: E607, it is not there.
        """
        marker = self._ours()
        put = marker.revisions.get(revision)
        if put is None or not self._whole(marker, revision):
            raise DeployFailed(
                Diagnostic("E607", f"revision {revision} is not in {self._folder}", remedy="run `mlo apply` again")
            )
        layout = self._layout(put.backend)
        before = self._layout(marker.backend).in_use() if marker.backend else None
        kept = self._kept(marker, revision, before)
        with store_errors("write", self._folder):
            notes = layout.use(revision, kept, self._rendered.get(revision))
        crash_point("folder.switched")
        after = marker.with_revision(revision, Put(put.digest, put.backend, used=True)).only(kept)
        self._write(Marker(after.name, put.backend, after.revisions))
        crash_point("folder.remembered")
        with store_errors("clean up", self._folder):
            for number, old in marker.revisions.items():
                if number not in kept:
                    remove_tree(self._layout(old.backend).place(number))
            if marker.backend and not self._alike(marker.backend, put.backend):
                self._layout(marker.backend).retire()
            self._sweep()
        return notes

    def drop(self, revision: int) -> None:
        """Remove a candidate that was never used; a revision that was stays for a rollback."""
        marker = self._marker()
        put = None if marker is None else marker.revisions.get(revision)
        if marker is None or put is None or put.used:
            return
        layout = self._layout(put.backend)
        if not (marker.backend and self._alike(marker.backend, put.backend)) and layout.in_use() == revision:
            layout.retire()  # a run died between its switch and the marker: what the marker says is in use
        self._write(marker.only([number for number in marker.revisions if number != revision]))
        with store_errors("clean up", self._folder):
            remove_tree(layout.place(revision))
            self._sweep()

    def stop(self) -> None:
        """Remove what mlo put there, and the folder if nothing else is in it.

        Raises:
            DeployFailed: E620, it is not this deployment's.
        """
        marker = self._marker()
        if marker is None:
            return
        with store_errors("clean up", self._folder):
            for backend in {marker.backend, *(put.backend for put in marker.revisions.values())} - {""}:
                self._layout(backend).retire()
            for number, put in marker.revisions.items():
                remove_tree(self._layout(put.backend).place(number))
            self._sweep()
            marker.file(self._folder).unlink(missing_ok=True)
        with suppress(OSError):  # what somebody else put there stays
            self._folder.rmdir()

    def _kept(self, marker: Marker, revision: int, before: int | None) -> list[int]:
        """The new one, what was in use before it, and the newest others of the same layout; `keep` in all."""
        backend = marker.revisions[revision].backend
        others = [
            number
            for number, put in marker.revisions.items()
            if number != revision and put.used and self._alike(put.backend, backend)
        ]
        order = sorted(others, key=lambda number: (number == before, number), reverse=True)
        return sorted([revision, *order[: self._keep - 1]])

    def _copy(self, source: Path, place: Path) -> None:
        """A whole copy beside, then renames: what lies there is replaced by it and by nothing less."""
        place.parent.mkdir(parents=True, exist_ok=True)
        partial, former = (place.with_name(f"{TEMPORARY_PREFIX}{place.name}{end}") for end in ("", ".former"))
        for left in (partial, former):
            if left.exists():
                remove_tree(left)
        try:
            _copy_files(source, partial)
            crash_point("folder.copied")
            fsync_tree(partial)
            if place.exists():
                place.rename(former)
            partial.rename(place)
            fsync_folder(place.parent)
        finally:
            for left in (partial, former):
                if left.exists():
                    remove_tree(left)

    def _sweep(self) -> None:
        """What copies that were killed have left, and folders that are empty now."""
        for parent in (self._folder / "revisions", self._folder / "models" / self._name, self._folder / "models"):
            if not parent.is_dir():
                continue
            for left in parent.glob(f"{TEMPORARY_PREFIX}*"):
                remove_tree(left)
            if not any(parent.iterdir()):
                parent.rmdir()

    def _whole(self, marker: Marker, revision: int) -> bool:
        put = marker.revisions[revision]
        return _digest(self._layout(put.backend).place(revision), self._cache) == put.digest

    def _alike(self, one: str, other: str) -> bool:
        """Whether two backends' readers find what is in use in the same way."""
        return type(self._layout(one)) is type(self._layout(other))

    def _layout(self, backend: str) -> Layout:
        return backend_named(backend).layout(self._folder, self._name)

    def _marker(self) -> Marker | None:
        return read_marker(self._folder, self._name)

    def _ours(self) -> Marker:
        marker = self._marker()
        if marker is None:
            raise taken(self._folder, "its marker is gone")
        return marker

    def _write(self, marker: Marker) -> None:
        write_marker(self._folder, marker)

    def _observed(self, revision: int | None, health: str, backend: str) -> Observed:
        if self._cache is not None:
            self._cache.save()
        return Observed(
            running=revision is not None,
            health="healthy" if health == "healthy" else "degraded" if health == "degraded" else "stopped",
            endpoint=self.place,
            revision=revision,
            backend=backend or None,
            pid=None,
            since=None,
        )


def _copy_files(source: Path, target: Path) -> None:
    """Contents and names alone; the first thing that fails is what is told."""
    target.mkdir(mode=0o755)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(mode=0o755)
        else:
            shutil.copyfile(path, copy)
            copy.chmod(0o644)


def _digest(place: Path, cache: StatCache | None) -> str | None:
    """The digest of what is there; None where it is gone or holds what a tree cannot."""
    try:
        return digest_tree(place, cache).digest if place.is_dir() else None
    except StoreFailed:
        return None
