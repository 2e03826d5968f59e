"""Pushes an image to its registry, with the credentials of Docker's own configuration and its credential helpers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.containers.engine import EngineError, EngineRefuses, connected
from orchestrator.images.evidence import record_push
from orchestrator.images.failures import engine_failed, push_failed
from orchestrator.store.state import Image

__all__ = ["push_image"]

_SECONDS_BETWEEN_LINES = 600.0


def push_image(image: Image, evidence: Path, progress: Callable[[str], None]) -> Image:
    """Push it; the returned image has the digest by which the registry knows it.

    Args:
        image: as it was built.
        evidence: folder in which the digest is noted.
        progress: is called with what is being sent.

    Raises:
        DeployFailed: E630 the engine does not respond; E632 the registry refused it, E635 for want of a login, E636 of a
            permission; E637 it cannot be reached.
    """
    repository, _, tag = image.name.rpartition(":")
    digest: str | None = None
    failure = ""
    try:
        with connected(_SECONDS_BETWEEN_LINES) as client:
            for message in client.api.push(repository, tag=tag, stream=True, decode=True):
                failure = str(message.get("error", failure))
                digest = message.get("aux", {}).get("Digest", digest)
                if (status := message.get("status")) and "progressDetail" not in message:
                    progress(str(status))
    except EngineRefuses as error:
        raise push_failed(image.name, str(error)) from error
    except EngineError as error:
        raise engine_failed("E630", f"{image.name} was not pushed", error) from error
    if failure or digest is None:
        raise push_failed(image.name, failure or "the registry did not say which digest it stored")
    pushed = image.model_copy(update={"digest": digest})
    record_push(evidence, pushed)
    return pushed
