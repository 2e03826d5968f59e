"""Lets a proven revision take over by steps: at each one it gets a share of the traffic, is asked, and compared with what serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.artifacts.document import DocumentRefused
from orchestrator.backends.table import serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.events import Observer, StepEnded, StepProgress, StepStarted
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.side_by_side import Allowed, Asked, Compared, Disturbed, measure_side_by_side, worse
from orchestrator.process.termination import terminated_as_interrupted
from orchestrator.spec.quantities import duration_text, percent_text
from orchestrator.store.crash_points import crash_point
from orchestrator.store.scratch import scratch_folder
from orchestrator.targets.section import Canary
from orchestrator.targets.target import Split, Target

__all__ = ["CanaryRun", "Questions"]

_STEP = "canary"
_REQUESTS, _REQUESTS_BYTES = 64, 4 * 2**20
"""At most so many different requests, and bytes of their tensors."""
_PROOFS = 3
"""How often golden requests are sent where the way to the revision is disturbed."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What a revision is asked: single calls made of the samples that it was proven with.

    Attributes:
        name: the model's on the wire.
        backend: its name in `backends/table.py`.
        serving: its rendered folder.
        samples: the output folder of the import step.
    """

    name: str
    backend: str
    serving: Path
    samples: Path

    def to(self, url: str) -> Asked:
        """The requests to a server at that URL.

        Raises:
            DeployFailed: E625 there is no token for it.
            FileNotFoundError, DocumentRefused: the store has lost the samples or the folder.
        """
        # numpy and httptools, which what changes nothing does without
        from orchestrator.measure.load_connections import http_request  # noqa: PLC0415
        from orchestrator.release.golden import sample_calls  # noqa: PLC0415
        from orchestrator.targets.client import token_headers  # noqa: PLC0415

        backend, where = serving_backend(self.backend), urlsplit(url)
        more = token_headers(backend.token_file(self.serving))
        requests = []
        for inputs in sample_calls(self.samples, _REQUESTS, _REQUESTS_BYTES):
            body, headers = backend.encode(inputs, "binary" if "binary" in backend.wires else "json")
            requests.append(http_request(backend.infer_path(self.name), {**headers, **more}, body))
        assert where.port is not None, "a port of this machine"
        return Asked(where.port, requests, where.scheme == "https")


class CanaryRun:
    """The steps of one revision. The caller holds the deployment's lock, and removes the revision if this raises.

    Args:
        canary: the steps, as the spec has them.
        target: which splits the traffic.
        observer: gets the events.
        scratch: a folder for scratch folders.
        prove: sends golden requests to a URL.
        new, old: what both revisions are asked; None if the old one cannot be.
        allowed: how much slower the new one may be.
    """

    def __init__(
        self,
        canary: Canary,
        target: Target,
        observer: Observer,
        *,
        scratch: Path,
        prove: Callable[[str], None],
        new: Questions,
        old: Questions | None,
        allowed: Allowed,
    ) -> None:
        self._canary = canary
        self._target = target
        self._observer = observer
        self._scratch = scratch
        self._prove = prove
        self._new = new
        self._old = old
        self._allowed = allowed

    @property
    def largest_share(self) -> float:
        """Of all steps."""
        return max(self._canary.steps)

    def run(self, revision: int) -> None:
        """All steps, until the revision may take over.

        Raises:
            DeployFailed: E626 it is worse than what serves; E608, E609 it answers wrongly or not at all; E627 they could not be compared; or
                it does not come up.
        """
        last = ""
        with terminated_as_interrupted():
            for number, share in enumerate(self._canary.steps, start=1):
                began = time.monotonic()
                step = f"step {number} of {len(self._canary.steps)}, {percent_text(share)} of the traffic"
                self._observer(StepStarted(_STEP, step))
                try:
                    split = self._target.split(revision, share)
                    told = "nothing serves beside it, so it takes over at once"
                    if split is not None:
                        told = f"{step}: {_given(split, share)}: "
                        told += "as in the step before" if split.how == last else self._held(split, share, revision)
                except BaseException as error:
                    self._stopped(error, step, time.monotonic() - began)
                    raise
                self._observer(StepEnded(_STEP, "done", time.monotonic() - began, told))
                crash_point("release.step-passed")
                if split is None:
                    return
                last = split.how

    def _held(self, split: Split, share: float, revision: int) -> str:
        """Hold one step; what was found, a clause."""
        given = _given(split, share)
        self._tell(f"{given}: golden requests")
        self._prove_again(split)

        def progress(left: float, seen: Compared) -> None:
            self._tell(f"{given}: holds, {left:.0f} s left: {seen.text}", 1 - left / self._canary.hold)

        self._tell(f"{given}: holds for {duration_text(self._canary.hold)}", 0.0)
        new, old = self._new.to(split.new), self._asked_old(split)
        with scratch_folder(self._scratch) as folder:
            try:
                seen = measure_side_by_side(new, old, folder, self._canary.hold, split.check, progress, split.lost)
            except MeasureError as error:
                raise DeployFailed(error.diagnostic) from error
            except Disturbed as error:
                raise _not_compared(revision, given, str(error)) from error
        if why := worse(seen, self._allowed):
            raise _worse(revision, given, why, seen)
        compared = "" if old is not None else "; what serves could not be asked, because the store has lost its samples"
        return f"not worse: {seen.text}{compared}{_changed(split)}"

    def _prove_again(self, split: Split) -> None:
        """Send golden requests, and again where they failed while connections were lost on the way."""
        for left in range(_PROOFS - 1, -1, -1):
            before = split.lost()
            try:
                self._prove(split.new)
            except DeployFailed:
                if not left or split.lost() == before:
                    raise
            else:
                return

    def _asked_old(self, split: Split) -> Asked | None:
        try:
            return None if self._old is None else self._old.to(split.old)
        except (DocumentRefused, FileNotFoundError):
            return None

    def _tell(self, message: str, fraction: float | None = None) -> None:
        self._observer(StepProgress(_STEP, message, fraction))

    def _stopped(self, error: BaseException, step: str, seconds: float) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        why = "interrupted" if interrupted else "failed"
        told = f"{step}: {why}; the new revision is taken back, and what served before serves alone"
        self._observer(StepEnded(_STEP, "stopped" if interrupted else "failed", seconds, told))


def _given(split: Split, share: float) -> str:
    """The share that it got: `50% (1 of 2 pods)`, and what comes nearer to what was asked for, if that is far away."""
    given = f"really {split.share:.0%} ({split.how})"
    return given if split.share < 2 * share else f"{given}, which only more replicas bring nearer"


def _changed(split: Split) -> str:
    share, how = split.now()
    return "" if how == split.how else f"; at its end {share:.0%} ({how})"


def _not_compared(revision: int, given: str, seen: str) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E627",
            f"revision {revision} could not be compared with what serves",
            cause=f"at {given}, requests to either failed while the cluster lost the connections that carried them: {seen}",
            remedy="see that `kubectl port-forward` to the pods works and goes on working, then run `mlo apply` again; nothing was found"
            " against the revision",
        )
    )


def _worse(revision: int, given: str, why: str, seen: Compared) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E626",
            f"revision {revision} is worse than what serves",
            cause=f"at {given}, {why}",
            remedy="see the log of its server, and what differs in the spec: limits of CPU and memory, batching, the model. If it"
            " has to be so slow, remove `deploy: strategy:` for this release",
            notes=(f"measured: {seen.text}",),
        )
    )
