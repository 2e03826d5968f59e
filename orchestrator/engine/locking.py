"""Looks up the hashes of an image's packages before planning, since they are in what is rendered; kept in the store."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
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

_REVISION = 1
"""Rises when other files or platforms are looked up."""


def look_up_hashes(loaded: LoadedSpec, platform: Platform, store: Store, observer: Observer) -> Hashes:
    """The hashes of all packages that an image of this spec may hold, for every platform, the image's own first.

    An index is asked once for the same packages; what it says of a version does not change. One that cannot be asked is no
    error: requirements then have versions only, and the reason is rendered with them.
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
    if kept.is_file():
        return Hashes({pin: tuple(hashes) for pin, hashes in json.loads(kept.read_bytes()).items()})
    began = time.monotonic()
    observer(StepStarted("lock", f"hashes of {len(pins)} packages from the index"))
    try:
        from_index, complete = _from_index(pins, settings, platform)
    except WheelsMissing as error:
        observer(StepEnded("lock", "skipped", 0.0, f"no hashes: {error}"))
        return Hashes(unlocked=str(error))
    if complete:
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(kept, pretty_json(from_index))
    observer(StepEnded("lock", "done", time.monotonic() - began, ""))
    return Hashes(from_index)


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


def _from_index(pins: list[str], settings: BuildSettings, own: str) -> tuple[Mapping[str, tuple[str, ...]], bool]:
    """The hashes for every platform, and whether all were asked for; a package that one platform lacks has those of the others.

    Args:
        pins: `name==version`.
        settings: with the index.
        own: the platform of the image.

    Raises:
        WheelsMissing: the index cannot be asked for the image's own platform.
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
                elif platform == own:
                    raise
                else:
                    complete = False
                    break
    return {pin: tuple(sorted(hashes)) for pin, hashes in found.items()}, complete
