"""The image of fronts: built once for each engine and base, and built anew when its program or its base has changed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.failures import is_status

__all__ = ["FrontImages", "program_digest"]

_REPOSITORY = "mlo-front"
_PROGRAM = "mlo.front"
"""The label with the digest of the front's program, which containers have from their image."""
_BASE = "org.opencontainers.image.base.name"
_LAST_LINES = 12


class FrontImages:
    """The images of fronts at one engine.

    Args:
        api: of the engine.
        network: of the build's commands, as Docker names it; None for the engine's default.
    """

    def __init__(self, api: Any, network: str | None = None) -> None:
        self._api = api
        self._network = network

    def on(self, base: str, progress: Callable[[str], None]) -> str:
        """The id of the image on a base, which is built unless the engine has it.

        Args:
            base: the image of Debian or Ubuntu that it is built on: that of the model's image, which is there already.
            progress: is called with what is built.

        Raises:
            DeployFailed: E645 it cannot be built.
        """
        files, program = _context(base), program_digest()
        tag = f"{_REPOSITORY}:{_digest({**files, _PROGRAM: program.encode()})}"
        there = self._inspected(tag)
        if there is None or self._is_outdated(there):
            progress(f"building {tag}, which publishes the port (once for this engine)")
            self._build(tag, base, files, program)
        return str(self._api.inspect_image(tag)["Id"])

    def is_renewable(self, front: Mapping[str, Any]) -> bool:
        """Whether a front has another program than this version of mlo's, or the base of its image was updated since."""
        image = self._inspected(front["Image"])
        # Who creates a front anew by hand, of another image, may copy its labels.
        labels = (front if image is None else image)["Config"]["Labels"] or {}
        return labels.get(_PROGRAM) != program_digest() or (image is not None and self._is_outdated(image))

    def remove(self, image: str) -> None:
        """Remove the image of a front that was renewed, unless another front is made of it, or somebody has named it otherwise."""
        from docker.errors import APIError  # noqa: PLC0415 - an extra

        there = self._inspected(image)
        names = [] if there is None else there["RepoTags"] or ()
        if there is None or any(not name.startswith(f"{_REPOSITORY}:") for name in names):
            return
        for name in names or (image,):  # an updated one has taken over the name of the one that it follows
            try:
                self._api.remove_image(name)
            except APIError as error:
                if not is_status(error, 404, 409):  # 409: a container uses it
                    raise

    def _is_outdated(self, image: Mapping[str, Any]) -> bool:
        """Whether the name of its base means an image at the engine that it was not built on."""
        base = self._inspected((image["Config"]["Labels"] or {}).get(_BASE, ""))
        if base is None:
            return False
        layers = base["RootFS"]["Layers"]
        return bool(image["RootFS"]["Layers"][: len(layers)] != layers)

    def _inspected(self, image: str) -> dict[str, Any] | None:
        """What the engine says about an image; None if it has no such image."""
        from docker.errors import APIError  # noqa: PLC0415 - an extra

        if not image:
            return None
        try:
            return self._api.inspect_image(image)  # type: ignore[no-any-return]
        except APIError as error:
            if not is_status(error, 404):
                raise
            return None

    def _build(self, tag: str, base: str, files: Mapping[str, bytes], program: str) -> None:
        lines: deque[str] = deque(maxlen=_LAST_LINES)
        for message in self._api.build(
            fileobj=_tar(files),
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            labels={"mlo.role": "front-image", _PROGRAM: program, _BASE: base},
            network_mode=self._network,
            timeout=1800,
            use_config_proxy=True,  # the proxies of Docker's configuration become arguments that no history shows
        ):
            if "error" in message:
                raise _not_built(tag, base, str(message["error"]), lines)
            lines.extend(line.rstrip() for line in str(message.get("stream", "")).splitlines() if line.strip())


def program_digest() -> str:
    """What changes with the front's program, and not with the base of its image."""
    return _digest(_context("debian"))


def _context(base: str) -> dict[str, bytes]:
    """The files that the image is built from."""
    from orchestrator.render.assets import assets_dir  # noqa: PLC0415 - only when something is built
    from orchestrator.render.fill import fill  # noqa: PLC0415 - jinja

    folder = assets_dir("templates") / "front"
    dockerfile = fill("front/Dockerfile.jinja", {"base": base}).encode()
    return {"Dockerfile": dockerfile, **{name: (folder / name).read_bytes() for name in ("front", "haproxy.cfg")}}


def _digest(files: Mapping[str, bytes]) -> str:
    content = hashlib.sha256()
    for name, text in sorted(files.items()):
        content.update(f"{name}\0{len(text)}\0".encode())
        content.update(text)
    return content.hexdigest()[:16]


def _tar(files: Mapping[str, bytes]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755 if name == "front" else 0o644
            archive.addfile(member, io.BytesIO(text))
    packed.seek(0)
    return packed


def _not_built(tag: str, base: str, error: str, lines: deque[str]) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E645",
            f"the image {tag}, which publishes the port, cannot be built",
            cause=error.strip().splitlines()[-1],
            remedy=f"let builds on the engine install Debian packages on {base}, with another network in `image: {{build: {{network: ...}}}}`"
            " where they need one, or name an `image: {base: ...}` that has haproxy and socat, or build it where it can be built and bring"
            " it here with `docker save` and `docker load`; the last lines of the log say which instruction failed",
            notes=tuple(lines),
        )
    )
