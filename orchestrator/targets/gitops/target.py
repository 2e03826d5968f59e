"""A deployment as files in a Git repository: `deploy: {target: gitops, path: ...}`.

    PATH/
      .mlo-gitops.json             its deployment, and the sha256 of every file that mlo wrote
      chart/, values.yaml          form: helm; with the decision and the image
      values-deploy.yaml           what `deploy:` sets of the chart's values, if anything
      values-ENVIRONMENT.yaml      what an environment has of its own
      manifests/                   form: manifests; manifests/ENVIRONMENT if there are environments
      base/, overlays/ENVIRONMENT  form: kustomize
      application.yaml, flux.yaml  for Argo CD and Flux, if the spec asks for them

Nothing runs here, and mlo does not commit: it writes, and the user or a pipeline commits. The folder is replaced in one step, as
`swap.py` says, so that a commit holds the former or the new files. Nothing in it says when or where it was written: which
revision it is, the store knows (`kept.py`), and a store that is new writes the same bytes.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed
from orchestrator.store.crash_points import crash_point
from orchestrator.store.failures import store_errors
from orchestrator.store.locks import try_lock
from orchestrator.targets.gitops.build import build_files
from orchestrator.targets.gitops.environments import refuse_other_decisions, writing_of
from orchestrator.targets.gitops.kept import KeptRevision, KeptRevisions
from orchestrator.targets.gitops.manifests import require_helm
from orchestrator.targets.gitops.marker import (
    MARKER,
    GitMarker,
    drift,
    files_below,
    folder_unusable,
    foreign_files,
    read_marker,
)
from orchestrator.targets.gitops.placement import GitopsPlacement
from orchestrator.targets.gitops.repository import Repository
from orchestrator.targets.gitops.section import Writing
from orchestrator.targets.gitops.swap import check_room, clear, replace_folder, settle
from orchestrator.targets.gitops.sync import path_in_repository
from orchestrator.targets.target import (
    PLAIN,
    Description,
    Observed,
    Offers,
    Release,
    Site,
    Started,
)
from orchestrator.targets.written import ReadBy, WrittenTarget

if TYPE_CHECKING:
    from orchestrator.store.state import PlacementRecord
    from orchestrator.targets.gitops.section import GitopsDeploy

__all__ = ["GitopsTarget"]

_LOCK_SECONDS = 30.0
_MOST_NAMED = 5


class GitopsTarget(WrittenTarget):
    """One deployment's folder.

    Args:
        folder: absolute.
        site: the deployment.
        writing: what the spec asks for.
    """

    def __init__(self, folder: Path, site: Site, writing: Writing) -> None:
        read_by = ReadBy(
            cause=f"mlo writes its files into {folder}; a cluster runs what is committed",
            ask="send the request to its Service in the cluster",
            log=f"kubectl --namespace {writing.namespace} logs --selector app.kubernetes.io/instance={site.name}",
        )
        super().__init__(GitopsPlacement.TARGET, site.name, folder, read_by)
        self._writing = writing
        self._kept = KeptRevisions(site.store.home.root, site.name, folder)

    @classmethod
    def wanted(cls, section: GitopsDeploy, base: Path, site: Site) -> Self:
        """The folder that the spec names, relative to its own."""
        return cls(Path(os.path.abspath(base / section.path)), site, writing_of(section))  # noqa: PTH100 - links stay

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        """The folder that the state remembers."""
        found = GitopsPlacement.of(placement)
        return cls(Path(found.path), site, found.writing)

    @property
    def placement(self) -> PlacementRecord:
        """The folder, and what is written there."""
        return GitopsPlacement(path=str(self._folder), writing=self._writing).record()

    def is_at(self, placement: PlacementRecord) -> bool:
        """Whether it is the same folder; what is written there does not matter."""
        return placement.target == GitopsPlacement.TARGET and GitopsPlacement.of(placement).path == str(self._folder)

    def difference(self, endpoint: str) -> str | None:
        """Which keys of the section differ from those that the revision in use was written with."""
        del endpoint
        revision = self._revision_in_use()
        kept = None if revision is None else self._kept.read().get(revision)
        if kept is None:
            return None
        before, now = kept.writing.model_dump(), self._writing.model_dump()
        changed = [key for key in now if now[key] != before[key]]
        return f"`deploy` differs in {', '.join(f'`{key}`' for key in changed)}" if changed else None

    def describe(self) -> Description:
        """The words for files to commit, rather than for a server."""
        place = self._folder
        return Description(
            where=str(place),
            label="folder",
            in_use="is in the folder",
            removal=f"Remove the files of {self._name} from {place}",
            removed=f"removed from {place}; commit that, and Argo CD or Flux removes what runs",
            then=self._then(),
        )

    def observe(self) -> Observed:
        """What the folder holds: `degraded` where a file is not what mlo wrote, or it is another store's revision."""
        try:
            marker = self._marker()
        except DeployFailed as refused:
            return self._observed("degraded", refused.diagnostics[0].cause)
        if marker is None:
            return self._observed("stopped", f"{self._folder} has no files of mlo")
        revision = self._kept.holding(marker)
        kept = None if revision is None else self._kept.read()[revision]
        backend = None if kept is None else kept.backend
        if different := drift(self._folder, marker):
            more = f" and {len(different) - _MOST_NAMED} more" if len(different) > _MOST_NAMED else ""
            reason = f"{', '.join(different[:_MOST_NAMED])}{more}"
            return self._observed("degraded", reason, revision, backend)
        if revision is None:
            return self._observed("degraded", f"{self._folder} holds files that another store wrote, or another commit")
        return self._observed("healthy", "", revision, backend)

    def history(self) -> tuple[int, ...]:
        """All revisions whose files the store has."""
        return tuple(self._kept.read())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder above, which stays the same when this one is replaced; then clean up after a killed command.

        Raises:
            Busy: E605, another command has been deploying into that folder for half a minute.
        """
        try:
            handle = os.open(self._folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            yield
            return
        try:
            until = time.monotonic() + _LOCK_SECONDS
            while not try_lock(handle):
                if time.monotonic() > until:
                    raise self._busy()
                time.sleep(0.1)
            settle(self._folder, self._name)
            yield
        finally:
            os.close(handle)

    def check(self, offers: Offers = PLAIN) -> None:
        """Whether the folder can be deployed into; changes nothing.

        Raises:
            DeployFailed: E671, it is a file, cannot be written, or holds something that mlo did not put there for this
                deployment; E672 it is in no repository, E673 there is no Helm, E676 an environment needs an image of its own.
        """
        del offers  # mlo runs no server
        if self._folder.is_symlink() or (self._folder.exists() and not self._folder.is_dir()):
            raise folder_unusable(self._folder, "it is a link" if self._folder.is_symlink() else "it is a file")
        above = next(each for each in self._folder.parents if os.path.lexists(each))
        if not above.is_dir():
            raise folder_unusable(self._folder, f"{above} is not a folder")
        for place in (above, *([self._folder] if self._folder.is_dir() else [])):
            if not os.access(place, os.W_OK | os.X_OK):  # of the folder too: it is moved when it is replaced
                raise folder_unusable(
                    self._folder, f"you may not write to {place}", f"get the right to write to {place}"
                )
        if self._marker() is None and self._folder.is_dir() and (others := foreign_files(self._folder, None)):
            raise folder_unusable(self._folder, f"it is not empty, and its contents are not from mlo: {others[0]}")
        refuse_other_decisions(self._writing)
        if self._writing.form != "helm":
            require_helm()
        if self._writing.argo is not None or self._writing.flux is not None:
            path_in_repository(self._folder)

    def prepare(self, live: Release | None = None) -> str:
        """Make the folder above; this one comes with its files, in one step.

        Raises:
            DeployFailed: E671.
        """
        del live  # files do not end
        self.check()
        with store_errors("write", self._folder.parent):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
        return str(self._folder)

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        """Write the files of a revision into the store, unless it has them already, as before a rollback.

        Raises:
            DeployFailed: E671 a file of others is in the way; E672 to E675, as `build_files`.
        """
        if release.image is None:
            raise ValueError("a release for Git has no image")
        wanted = (release.rendered.name, release.image.reference, self._writing)
        kept = self._kept.read().get(release.revision)
        if kept is None or (kept.rendered, kept.image, kept.writing) != wanted:
            progress(f"writing revision {release.revision}")
            with self._kept.adding() as files:
                build_files(release.rendered, release.image, self._name, self._writing, self._folder, files)
                marker = GitMarker.of(self._name, files)
                (files / MARKER).write_bytes(marker.content())
                rendered, image, writing = wanted
                made = KeptRevision(
                    digest=marker.digest, backend=release.backend, rendered=rendered, image=image, writing=writing
                )
                self._kept.add(release.revision, files, made)
        check_room(self._folder, self._name, tuple(files_below(self._kept.tree(release.revision))))
        crash_point("gitops.started")
        # Nothing serves here: `verify` has proven the variant, and the image was built of the same rendered tree.
        return Started(
            release.revision, None, proof="the files name the image by its digest; a cluster runs what is committed"
        )

    def switch(self, revision: int) -> tuple[str, ...]:
        """Put the files of `revision` into the folder, in one step; if they are there already, nothing is touched.

        Raises:
            DeployFailed: E607, the store does not have it.
        """
        kept = self._kept.read().get(revision)
        if kept is None:
            raise DeployFailed(
                Diagnostic(
                    "E607",
                    f"the store has no files of revision {revision}",
                    remedy="run `mlo apply` with its spec, which writes them again",
                )
            )
        marker = self._marker()
        if marker is None or marker.digest != kept.digest or drift(self._folder, marker):
            replace_folder(self._folder, self._name, self._kept.tree(revision))
        crash_point("gitops.switched")
        self._kept.mark_used(revision)
        crash_point("gitops.recorded")
        return ()

    def drop(self, revision: int) -> None:
        """Forget the files of a revision that never was in the folder; one that was stays for a rollback."""
        kept = self._kept.read().get(revision)
        if kept is not None and not kept.used:
            self._kept.remove(revision)

    def stop(self) -> tuple[str, ...]:
        """Remove what mlo wrote, and the folder if nothing else is in it.

        Raises:
            DeployFailed: E671, it is not this deployment's.
        """
        if self._marker() is not None:
            clear(self._folder, self._name)
        self._kept.clear()
        return self._left()

    def _then(self) -> str:
        """What commits the files, from where mlo is run: Git looks for the repository there, and not where the files are."""
        repository = Repository.around(self._folder)
        if repository is None:
            return f"{self._folder} is in no repository: put it into a Git repository and commit it"
        folder = shlex.quote(str(self._folder))
        try:
            here = Path.cwd()
        except FileNotFoundError:  # the shell stands in a folder that was replaced
            return f"cd {folder} && git add --all . && git commit"
        if here.is_relative_to(self._folder.parent.resolve() / self._folder.name):  # which this one replaces
            return f"cd {folder} && git add --all . && git commit"
        git = "git" if Repository.around(here / MARKER) == repository else f"git -C {shlex.quote(str(repository.root))}"
        return f"{git} add --all {folder} && {git} commit"

    def _revision_in_use(self) -> int | None:
        try:
            marker = self._marker()
        except DeployFailed:
            return None
        return None if marker is None else self._kept.holding(marker)

    def _marker(self) -> GitMarker | None:
        return read_marker(self._folder, self._name)

    def _busy(self) -> Busy:
        return Busy(
            Diagnostic(
                "E605",
                f"another command is deploying into {self._folder.parent}",
                remedy="wait until it has ended, then run the command again",
            )
        )
