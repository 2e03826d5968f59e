"""The step `build`: the image of a rendered release, built or found, and pushed if it is to be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from orchestrator.events import Observer, StepEnded, StepProgress, StepStarted
from orchestrator.images.settings import BuildSettings
from orchestrator.store.state import Image
from orchestrator.store.store import Store

__all__ = ["release_image"]

_MEGABYTE = 1e6


def release_image(rendered: Path, settings: BuildSettings, store: Store, observer: Observer) -> Image:
    """Build the image of a rendered tree, unless the engine has it, and push it if the settings say so.

    Raises:
        DeployFailed: E630 to E639, as `build_image` and `push_image` say.
    """
    from orchestrator.images.build import build_image  # noqa: PLC0415 - docker: what changes nothing is quicker
    from orchestrator.images.evidence import read_evidence  # noqa: PLC0415
    from orchestrator.images.push import push_image  # noqa: PLC0415

    began = datetime.now(UTC)
    observer(StepStarted("build", "the image of the release"))

    def progress(message: str) -> None:
        observer(StepProgress("build", message, None))

    try:
        image = build_image(rendered, settings, store.home.images, progress)
        if settings.push:
            image = push_image(image, store.home.images, progress)
    except BaseException:
        observer(StepEnded("build", "failed", (datetime.now(UTC) - began).total_seconds(), ""))
        raise
    known = read_evidence(store.home.images, image)
    size = "" if known is None else f", {known.sizes.above_base / _MEGABYTE:.0f} MB above its base"
    observer(StepEnded("build", "done", (datetime.now(UTC) - began).total_seconds(), f"{image.reference}{size}"))
    return image
