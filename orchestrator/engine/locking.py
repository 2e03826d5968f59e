"""Looks up the hashes of an image's packages before planning, since they are in what is rendered; kept in the store."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends.table import BACKENDS, backend
from orchestrator.backends.versions import image_pins, installed_closure
from orchestrator.events import Observer, StepEnded, StepStarted
from orchestrator.images.settings import BuildSettings, image_settings
from orchestrator.images.wheels import MACHINES, WheelsMissing, hashes_in_folder, hashes_in_index
from orchestrator.machine.here import Hashes
from orchestrator.optimize.candidates import wanted_backends
from orchestrator.steps.parameters import Platform
from orchestrator.store.atomic import pretty_json, write_atomic

if TYPE_CHECKING:
    from orchestrator.spec.load import LoadedSpec
    from orchestrator.store.store import Store

__all__ = ["look_up_hashes"]

_REVISION = 2
"""Rises when other files or platforms are looked up, or an answer is kept in another form."""

_SECONDS_BEFORE_ASKING_AGAIN = 600.0
"""Within them, an index that did not answer, or had no file of a package, is not asked again."""

_NOT_ASKED = "the package index could not be asked"
"""What is rendered, whatever the cause: what a machine or a network says must not make releases differ."""


def look_up_hashes(loaded: LoadedSpec, platform: Platform, store: Store, observer: Observer) -> Hashes:
    """The hashes of all packages that an image of this spec may hold, for every platform, the image's own first.

    An index is asked once for the same packages; the hashes that it gives for a version do not change. One that cannot be asked
    is no error: requirements then have versions only. The observer gets the cause.
    """
    pins, settings = _pins(loaded), image_settings(loaded)
    if not pins:
        return Hashes()
    if settings.wheelhouse is not None:
        found = hashes_in_folder(pins, settings.wheelhouse)
        lacking = [pin for pin, hashes in found.items() if not hashes]
        reason = f"{settings.wheelhouse.name} has no wheel of {', '.join(lacking[:3])}" if lacking else ""
        return Hashes({pin: hashes for pin, hashes in found.items() if hashes}, reason)
    asked = {"pins": pins, "index": settings.pip_index, "python": settings.python, "revision": _REVISION}
    kept = store.home.hashes / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()}.json"
    if (answer := _Answer.read(kept)) is None:
        began = time.monotonic()
        observer(StepStarted("lock", f"hashes of {len(pins)} packages from the index"))
        answer = _from_index(pins, settings, platform)
        answer.write(kept)
        if not answer.failed:
            observer(StepEnded("lock", "done", time.monotonic() - began, ""))
    if answer.failed:
        observer(
            StepEnded("lock", "skipped", 0.0, f"the image's packages are installed without hashes: {answer.failed}")
        )
        return Hashes(unlocked=_NOT_ASKED)
    return Hashes(answer.hashes)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an index said, as it is kept.

    Attributes:
        hashes: `name==version` → sha256 of its files.
        complete: whether every package has the hashes for the image's platform, and every platform was asked for.
        failed: why the index could not be asked; empty if it could.
    """

    hashes: Mapping[str, tuple[str, ...]]
    complete: bool
    failed: str = ""

    @classmethod
    def read(cls, file: Path) -> _Answer | None:
        """The kept answer; None if there is none, or one that may be another by now."""
        try:
            age = time.time() - file.stat().st_mtime
            kept = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        if not kept["complete"] and not 0 <= age < _SECONDS_BEFORE_ASKING_AGAIN:
            return None
        return cls({pin: tuple(each) for pin, each in kept["hashes"].items()}, kept["complete"], kept["failed"])

    def write(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(file, pretty_json({"hashes": self.hashes, "complete": self.complete, "failed": self.failed}))


def _pins(loaded: LoadedSpec) -> list[str]:
    """What the images of all candidates may hold, as it is installed here, sorted."""
    spec, pins = loaded.spec, set[str]()
    if spec.only_for_devices:
        return []
    cuda = bool(spec.hardware.devices)
    for name in wanted_backends(spec):
        if not BACKENDS[name].served:
            continue
        chosen = backend(name)
        added = (
            *(chosen.grpc_tools if spec.serving.offers_grpc else ()),
            *(chosen.traces_tools if spec.serving.traces is not None else ()),
        )
        tools = installed_closure(chosen.tools, cuda=cuda) | installed_closure(added)
        pins |= {pin for pin in image_pins(chosen.tools, tools, cuda=cuda) if "==" in pin}
    return sorted(pins)


def _from_index(pins: list[str], settings: BuildSettings, own: str) -> _Answer:
    """The hashes for every platform; a package that another platform lacks has those of the image's own.

    Args:
        pins: `name==version`.
        settings: with the index.
        own: the platform of the image.
    """
    found: dict[str, set[str]] = {pin: set() for pin in pins}
    complete = True
    for platform in sorted(MACHINES, key=lambda each: each != own):
        asked = list(pins)
        while asked:
            try:
                for pin, sha256 in hashes_in_index(asked, settings, platform).items():
                    found[pin].add(sha256)
                break
            except WheelsMissing as error:
                if error.pin in asked:
                    asked.remove(error.pin)
                    complete = complete and platform != own  # an index may get the file later
                elif platform == own:
                    return _Answer({}, complete=False, failed=str(error))
                else:
                    complete = False
                    break
    return _Answer({pin: tuple(sorted(hashes)) for pin, hashes in found.items()}, complete)
