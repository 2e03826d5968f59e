"""Builds the image of a rendered tree with a Docker Engine, or finds it there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator import __version__
from orchestrator.containers.engine import EngineError, EngineRefuses, connected
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.images.context import CA_BUNDLE, WHEELHOUSE, archive, context_digest, context_files
from orchestrator.images.evidence import Sizes, provenance, read_evidence, sbom_bytes, sha256_label, write_evidence
from orchestrator.images.failures import build_failed, engine_failed, engine_refused
from orchestrator.images.following import follow
from orchestrator.images.packages import bill_of_materials
from orchestrator.images.wheels import WheelsMissing, fetch_wheels
from orchestrator.store.state import Image

if TYPE_CHECKING:
    from docker import DockerClient

    from orchestrator.images.settings import BuildSettings

__all__ = ["CONTEXT_LABEL", "build_image"]

CONTEXT_LABEL = "mlo.context-digest"
"""The label by which an image that was built before is found: the digest of what the build read."""

_BASE_DIGEST = "org.opencontainers.image.base.digest"
_BASE_BYTES = "mlo.base-bytes"
_KNOWN_LABELS = {_BASE_DIGEST, _BASE_BYTES, "mlo.version"}
"""Without them an image that is found does not tell what it was built from."""

_SECONDS_BETWEEN_LINES = 1800.0
_REQUIREMENTS = "docker/requirements.txt"


def build_image(rendered: Path, settings: BuildSettings, evidence: Path, progress: Callable[[str], None]) -> Image:
    """Build the image of a rendered tree, unless the engine has it already.

    It is the engine's classic builder that builds: every engine has it, and it needs nothing besides the package `docker`.
    What it leaves when it is interrupted is its cache, from which the next build continues.

    Args:
        rendered: the tree that the step `render` wrote.
        settings: from the spec.
        evidence: folder in which the image's packages and provenance are kept.
        progress: is called with what the build does: its instruction, and the last line of its log.

    Raises:
        DeployFailed: E630 the engine does not respond, is gone half-way, or refuses; E631 an instruction failed, with the last lines
            of the log; E633 the engine's disk is full; E634 the base image cannot be had; E638 wheels are missing; E639 the
            packages cannot be listed.
    """
    digest = context_digest(rendered)
    name = f"{settings.repository}:{digest[:16]}"
    text = (rendered / "docker" / "Dockerfile").read_text(encoding="utf-8")
    base, platform = _fact(text, r"^FROM (\S+)"), _fact(text, r'mlo\.platform="([^"]+)"')
    try:
        with connected(_SECONDS_BETWEEN_LINES) as client:
            found = _known(client, name, digest)
            if found is not None and (kept := read_evidence(evidence, found)) is not None:
                progress(f"cached: {name}")
                return kept.image if kept.image.name == name else found  # with the digest of its registry
            facts = _inspected(client, found.id) if found is not None else {}
            if found is None or not facts["Config"]["Labels"].keys() >= _KNOWN_LABELS:
                base_digest = _base(client, base, platform, name, progress)
                with _sources(rendered, settings, platform, name, progress) as sources:
                    files = {**context_files(rendered), **sources}
                    made = _build(client, files, name, settings.network, platform, progress)
                progress("listing its packages")
                sbom = sbom_bytes(bill_of_materials(client, made, name, f"sha256:{digest}", __version__))
                labels = {
                    CONTEXT_LABEL: f"sha256:{digest}",
                    "mlo.version": __version__,
                    "mlo.sbom": sha256_label(sbom),
                    _BASE_BYTES: str(_inspected(client, base)["Size"]),
                    _BASE_DIGEST: base_digest,
                }
                found = _labelled(client, made, name, labels, platform)
                facts = _inspected(client, found.id)
            else:  # built for another store: what it was built from is what it says, not what the base's name means today
                by = facts["Config"]["Labels"]["mlo.version"]
                sbom = sbom_bytes(bill_of_materials(client, found.id, name, f"sha256:{digest}", by))
            labels = facts["Config"]["Labels"]
            statement = provenance(
                found,
                context=digest,
                base=base,
                base_digest=labels[_BASE_DIGEST],
                labels=labels,
                engine=str(client.version()["Version"]),
                network=settings.network,
            )
            sizes = Sizes(int(facts["Size"]), int(labels[_BASE_BYTES]), _model_bytes(rendered))
            write_evidence(evidence, found, sizes, sbom, statement)
            return found
    except EngineRefuses as error:
        raise engine_refused("E630", f"the image {name} cannot be built", error) from error
    except EngineError as error:
        raise engine_failed("E630", f"the image {name} cannot be built", error) from error


def _fact(dockerfile: str, pattern: str) -> str:
    found = re.search(pattern, dockerfile, re.MULTILINE)
    if found is None:
        raise ValueError(f"the rendered Dockerfile has no {pattern}")
    return found[1]


def _known(client: DockerClient, name: str, digest: str) -> Image | None:
    """The image of the same context, if the engine has it; it gets the name if it has another one."""
    api = cast("Any", client.api)  # the package has types for a part of it only
    found = api.images(filters={"label": f"{CONTEXT_LABEL}=sha256:{digest}"})
    if not found:
        return None
    newest = max(found, key=lambda image: int(image["Created"]))
    if name not in (newest["RepoTags"] or ()):
        _tag(client, newest["Id"], name)
    return _image(client, name)


def _tag(client: DockerClient, image: str, name: str) -> None:
    repository, _, tag = name.rpartition(":")
    cast("Any", client.api).tag(image, repository, tag)


def _inspected(client: DockerClient, image: str) -> dict[str, Any]:
    return cast("dict[str, Any]", cast("Any", client.api).inspect_image(image))


def _image(client: DockerClient, name: str) -> Image:
    facts = _inspected(client, name)
    return Image(name=name, id=facts["Id"], platform=f"{facts['Os']}/{facts['Architecture']}")


def _base(client: DockerClient, base: str, platform: str, name: str, progress: Callable[[str], None]) -> str:
    """Pull the base if the engine lacks it; returns the digest of its manifest, or its id if it never was in a registry."""
    from docker.errors import APIError, ImageNotFound  # noqa: PLC0415 - an extra

    api = cast("Any", client.api)
    try:
        facts = api.inspect_image(base)
    except ImageNotFound:
        progress(f"pulling {base}")
        repository, separator, rest = base.partition("@")
        if not separator:
            repository, separator, rest = base.rpartition(":")
            if not separator or "/" in rest:  # that colon is the one of a port, or there is none
                repository, rest = base, "latest"
        try:
            if failure := _failure(api.pull(repository, tag=rest, platform=platform, stream=True, decode=True)):
                raise build_failed(name, failure, (f"Step 1/1 : FROM {base}",)) from None
            facts = api.inspect_image(base)
        except APIError as error:
            said = str(error.explanation or error)
            raise build_failed(name, said, (f"Step 1/1 : FROM {base}",)) from error
    digests = facts.get("RepoDigests") or ()
    return str(next((each.partition("@")[2] for each in digests), facts["Id"]))


@contextmanager
def _sources(
    rendered: Path, settings: BuildSettings, platform: str, name: str, progress: Callable[[str], None]
) -> Iterator[dict[str, Path]]:
    """What the context has besides the rendered tree, so that the build gets its packages.

    That is a wheelhouse, whose fetched wheels only stay for the block; or the authorities that pip trusts in the build.
    """
    if not (rendered / _REQUIREMENTS).is_file():
        yield {}
    elif settings.wheelhouse is not None:
        yield _in_context(settings.wheelhouse)
    elif settings.pip_index is None:
        yield {} if settings.ca_bundle is None else {CA_BUNDLE: settings.ca_bundle}
    else:
        with tempfile.TemporaryDirectory(prefix="mlo-wheels-") as folder:
            progress(f"fetching wheels from {settings.pip_index}")
            try:
                fetch_wheels(rendered / _REQUIREMENTS, settings, platform, Path(folder))
            except WheelsMissing as error:
                remedy = "check `image.build.pip_index`, and that pip on this machine has the credentials for it"
                if error.untrusted:
                    remedy = (
                        "name the file with the certificate of its authority in `image: {build: {ca_bundle: FILE}}`"
                    )
                raise DeployFailed(
                    Diagnostic(
                        "E638",
                        f"the packages of {name} cannot be fetched from {settings.pip_index}",
                        cause=str(error),
                        remedy=remedy,
                        at=("image", "build", "ca_bundle" if error.untrusted else "pip_index"),
                    )
                ) from error
            yield _in_context(Path(folder))


def _in_context(folder: Path) -> dict[str, Path]:
    return {f"{WHEELHOUSE}/{path.name}": path for path in sorted(folder.iterdir()) if path.suffix in {".whl", ".deb"}}


def _build(
    client: DockerClient,
    files: Mapping[str, Path],
    name: str,
    network: str | None,
    platform: str,
    progress: Callable[[str], None],
) -> str:
    """Build without a tag; returns the id of the image."""
    stream = client.api.build(
        fileobj=cast("Any", archive(files)),
        custom_context=True,
        dockerfile="docker/Dockerfile",
        network_mode=network,
        platform=platform,
        rm=True,
        forcerm=True,
        decode=True,
        use_config_proxy=True,  # the proxies of Docker's configuration become arguments that no history shows
    )
    built, failure, lines = follow(stream, progress)
    if failure or not built:
        raise build_failed(name, failure or "the engine ended the build without an image", lines)
    return built


def _labelled(client: DockerClient, built: str, name: str, labels: Mapping[str, str], platform: str) -> Image:
    """Give a built image its name and the labels that only its build can know, which adds no layer."""
    with tempfile.TemporaryDirectory(prefix="mlo-label-") as folder:
        dockerfile = Path(folder, "Dockerfile")
        dockerfile.write_text(f"FROM {built}\n", encoding="utf-8")
        stream = client.api.build(
            fileobj=cast("Any", archive({"Dockerfile": dockerfile})),
            custom_context=True,
            labels=dict(labels),
            tag=name,
            platform=platform,
            rm=True,
            forcerm=True,
            decode=True,
        )
        if failure := _failure(stream):
            raise build_failed(name, failure, ())
    return _image(client, name)


def _failure(stream: Iterable[Mapping[str, Any]]) -> str:
    """What the engine says went wrong, from the whole of its answer; empty if nothing did."""
    failure = ""
    for message in stream:
        failure = str(message.get("error", failure))
    return failure


def _model_bytes(rendered: Path) -> int:
    return sum(path.stat().st_size for path in (rendered / "serving").rglob("*") if path.is_file())
