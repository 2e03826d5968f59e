"""Builds the image of a rendered tree with a Docker Engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.containers.engine import EngineError, connected
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.digest import digest_tree
from orchestrator.store.state import Image

if TYPE_CHECKING:
    from docker import DockerClient

    from orchestrator.images.settings import BuildSettings

__all__ = ["build_image"]

_SECONDS_BETWEEN_LINES = 1800.0
_LAST_LINES = 12


def build_image(rendered: Path, settings: BuildSettings, progress: Callable[[str], None]) -> Image:
    """Build the image whose context is `rendered`, or find it if the engine has it already.

    Args:
        rendered: the tree that the step `render` wrote.
        settings: from the spec.
        progress: is called with what the build does.

    Raises:
        DeployFailed: E630 the engine does not respond, E631 the build failed; with the last lines of its log.
    """
    context = rendered / "docker"
    name = f"{settings.repository}:{digest_tree(context).digest[:16]}"
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        with connected(_SECONDS_BETWEEN_LINES) as client:
            if client.api.images(name=name):
                return _image(client, name)
            for message in client.api.build(path=str(context), tag=name, rm=True, forcerm=True, decode=True):
                if "error" in message:
                    raise _failed(name, str(message["error"]), lines)
                for line in str(message.get("stream", "")).splitlines():
                    if line.strip():
                        lines.append(line.rstrip())
                        progress(line.strip())
            return _image(client, name)
    except EngineError as error:
        raise DeployFailed(
            Diagnostic(
                "E630",
                f"the image {name} cannot be built",
                cause=str(error),
                remedy="start the Docker Engine, or choose another one with `docker context use NAME`",
            )
        ) from error


def _image(client: DockerClient, name: str) -> Image:
    api = cast("Any", client.api)  # the package has types for a part of it only
    facts = api.inspect_image(name)
    return Image(name=name, id=facts["Id"], platform=f"{facts['Os']}/{facts['Architecture']}")


def _failed(name: str, error: str, lines: deque[str]) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E631",
            f"the build of {name} failed",
            cause=error.strip().splitlines()[-1],
            remedy="the last lines of its log say which instruction failed; mend its cause, then apply again",
            notes=tuple(lines),
        )
    )
