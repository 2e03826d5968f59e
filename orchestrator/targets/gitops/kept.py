"""What the store keeps of each revision: the very bytes that were written, so that a rollback brings them back."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from orchestrator.store.atomic import TEMPORARY_PREFIX, fsync_folder, fsync_tree, pretty_json, write_atomic
from orchestrator.store.failures import store_errors
from orchestrator.store.record import Record
from orchestrator.store.scratch import remove_tree
from orchestrator.store.state import MOST_REVISIONS
from orchestrator.targets.gitops.marker import GitMarker
from orchestrator.targets.gitops.section import Writing

__all__ = ["KeptRevision", "KeptRevisions"]

_RECORD = "record.json"


class KeptRevision(Record):
    """What is known of a kept revision.

    Attributes:
        digest: of the marker of its files.
        backend: its name.
        rendered: the digest of the rendered tree that it was made of.
        image: that it names.
        writing: what the spec asked for.
        used: whether it was ever in the folder; others are removed together with the release that made them.
    """

    digest: str
    backend: str
    rendered: str
    image: str
    writing: Writing
    used: bool = False


class KeptRevisions:
    """The revisions of one deployment at one place.

    Args:
        root: the store's folder.
        name: the deployment's.
        folder: where its files lie.
    """

    def __init__(self, root: Path, name: str, folder: Path) -> None:
        place = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self._root = root / "gitops" / f"{name}-{place}"

    def tree(self, revision: int) -> Path:
        """Its files."""
        return self._root / str(revision) / "files"

    def read(self) -> dict[int, KeptRevision]:
        """All of them by number, in ascending order; one that cannot be read is as if it were not there."""
        found = {}
        for entry in self._root.glob("[0-9]*"):
            try:
                found[int(entry.name)] = KeptRevision.model_validate_json((entry / _RECORD).read_bytes())
            except (OSError, ValidationError, ValueError):  # another version of mlo wrote it, or it is being removed
                continue
        return dict(sorted(found.items()))

    @contextmanager
    def adding(self) -> Iterator[Path]:
        """An empty folder for the files of a new revision, which `add` takes."""
        with store_errors("create", self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._root.glob(f"{TEMPORARY_PREFIX}*"):
                remove_tree(left)
            work = self._root / f"{TEMPORARY_PREFIX}{uuid4().hex}"
            (work / "files").mkdir(mode=0o700, parents=True)
        try:
            yield work / "files"
        finally:
            remove_tree(work)

    def add(self, revision: int, files: Path, kept: KeptRevision) -> None:
        """Keep `files` as this revision, in place of an earlier one of its number."""
        work, place = files.parent, self._root / str(revision)
        with store_errors("write", place):
            (work / _RECORD).write_bytes(pretty_json(kept.model_dump(mode="json")))
            fsync_tree(work)
            if place.exists():
                shutil.move(place, self._root / f"{TEMPORARY_PREFIX}{uuid4().hex}")
            work.rename(place)
            fsync_folder(self._root)

    def mark_used(self, revision: int) -> None:
        """Remember that this revision was in use, and forget the oldest ones."""
        revisions = self.read()
        kept = revisions[revision].model_copy(update={"used": True})
        write_atomic(self._root / str(revision) / _RECORD, pretty_json(kept.model_dump(mode="json")))
        write_atomic(self._root / "current", f"{revision}\n".encode())
        for number in [each for each in revisions if each != revision][: -(MOST_REVISIONS - 1)]:
            self.remove(number)

    def current(self) -> int | None:
        """The revision that was put in use last; None if there is none."""
        try:
            return int((self._root / "current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def holding(self, marker: GitMarker) -> int | None:
        """The revision whose files a folder with this marker has; of several with the same, the one put in use last."""
        same = [number for number, kept in self.read().items() if kept.digest == marker.digest]
        current = self.current()
        return current if current in same else max(same, default=None)

    def remove(self, revision: int) -> None:
        """Remove one; no error if it is not there."""
        with store_errors("clean up", self._root):
            remove_tree(self._root / str(revision))

    def clear(self) -> None:
        """Remove all."""
        with store_errors("clean up", self._root):
            remove_tree(self._root)
