"""Pushes an image to its registry, with the credentials of Docker's own configuration."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.containers.engine import EngineError, connected
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.state import Image

__all__ = ["push_image"]

_SECONDS_BETWEEN_LINES = 600.0


def push_image(image: Image, progress: Callable[[str], None]) -> Image:
    """Push it; the returned image has the digest by which the registry knows it.

    Args:
        image: as it was built.
        progress: is called with what is being sent.

    Raises:
        DeployFailed: E632 the registry refused it or did not respond.
    """
    repository, _, tag = image.name.rpartition(":")
    digest: str | None = None
    try:
        with connected(_SECONDS_BETWEEN_LINES) as client:
            for message in client.api.push(repository, tag=tag, stream=True, decode=True):
                if "error" in message:
                    raise _refused(image.name, str(message["error"]))
                digest = message.get("aux", {}).get("Digest", digest)
                if (status := message.get("status")) and "id" not in message:
                    progress(str(status))
    except EngineError as error:
        raise _refused(image.name, str(error)) from error
    if digest is None:
        raise _refused(image.name, "the registry did not say which digest it stored")
    return image.model_copy(update={"digest": digest})


def _refused(name: str, cause: str) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E632",
            f"{name} was not pushed",
            cause=cause.strip(),
            remedy="check `image.registry` in the spec, and log in with `docker login`",
        )
    )
