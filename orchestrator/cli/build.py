"""`mlo build` and `mlo push`: the image of a spec's winner, on the Docker Engine and in its registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import console
from orchestrator.cli.options import json_option, open_store, spec_options
from orchestrator.cli.progress import lines, watch
from orchestrator.cli.refused import refused_decisions
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.apply import run_steps
from orchestrator.engine.planning import Planned, make_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import UsageError
from orchestrator.images.evidence import Evidence, read_evidence
from orchestrator.images.settings import image_settings
from orchestrator.release.image import release_image

__all__ = ["build", "push", "require_registry"]


@click.command(
    epilog="""\b
Examples:
  mlo build specs/digits/digits.yaml
  mlo build specs/digits/digits.yaml --json | jq -r .id
  docker run --read-only --tmpfs /tmp --publish 127.0.0.1:8080:8080 IMAGE
"""
)
@click.argument("spec", metavar="SPEC", type=click.Path(path_type=Path))
@json_option
@spec_options
def build(spec: Path, as_json: bool, platform: Path | None, environment: str | None) -> None:
    """Build the image of the winner with the Docker Engine, and list its packages.

    Runs the required steps that are not cached; deploys nothing. An image of the same content is built once.
    """
    _make(spec, platform, environment, push=False, as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  docker login registry.example.com
  mlo push specs/digits/digits.yaml
  mlo push specs/digits/digits.yaml --json | jq -r .reference
"""
)
@click.argument("spec", metavar="SPEC", type=click.Path(path_type=Path))
@json_option
@spec_options
def push(spec: Path, as_json: bool, platform: Path | None, environment: str | None) -> None:
    """Push the image of the winner to `image.registry`; it is built first if the engine lacks it.

    The credentials are those of Docker's own configuration and its credential helpers. The digest that the registry gives the
    image is kept, and names it from then on.
    """
    _make(spec, platform, environment, push=True, as_json=as_json)


def _make(spec: Path, platform: Path | None, environment: str | None, *, push: bool, as_json: bool) -> None:
    store = open_store(spec.parent)
    planned = make_plan(spec, store, platform=platform, environment=environment, observer=lines(), image=True)
    settings = replace(image_settings(planned.loaded), push=push)
    if push:
        require_registry(planned)
    with refused_decisions(as_json=as_json), watch(show_cached=planned.preview.changes) as observer:
        outcomes = run_steps(planned, store, observer, Stop())
        store.stat_cache.save()
        receipt = outcomes["render"].receipt
        if receipt is None or receipt.manifest is None:
            raise ValueError("the step render did not finish")
        rendered = store.trees.path(receipt.manifest.digest)
        _require_server(rendered, planned)
        with store.in_use(f"building the image of {planned.plan.name}"):
            image = release_image(rendered, settings, store, observer)
    known = read_evidence(store.home.images, image)
    assert known is not None, "what was built leaves its evidence"
    if as_json:
        console.print_json(_document(known))
    else:
        console.print_result(_text(known))


def require_registry(planned: Planned) -> None:
    """Refuse to push before anything is computed, where the spec says no place.

    Raises:
        UsageError: E632.
    """
    if planned.loaded.spec.image.registry is None:
        name = planned.plan.name
        raise UsageError(
            planned.loaded.located(
                Diagnostic(
                    "E632",
                    f"the spec of {name} names no registry to push to",
                    remedy=f"add `image: {{registry: registry.example.com/team}}`; the image is then .../{name}",
                    at=("image",),
                )
            )
        )


def _require_server(rendered: Path, planned: Planned) -> None:
    if not (rendered / "docker").is_dir():
        raise UsageError(
            Diagnostic(
                "E630",
                f"{planned.plan.name} has no image",
                cause="its winner runs on devices, without a server",
                remedy="`mlo render` writes what a device needs; allow other formats under `optimize.formats` for a server",
            )
        )


def _document(known: Evidence) -> dict[str, Any]:
    image = known.image
    return {
        "image": image.name,
        "reference": image.reference,
        "id": image.id,
        "digest": image.digest,
        "platform": image.platform,
        "bytes": known.sizes.as_json(),
        "sbom": str(known.sbom),
        "provenance": str(known.provenance),
    }


def _text(known: Evidence) -> str:
    image = known.image
    lines = [
        f"image: {click.style(image.reference, bold=True)}",
        f"id: {image.id}",
        f"platform: {image.platform}",
        f"size: {known.sizes.text}",
        f"packages: {known.sbom}",
        f"provenance: {known.provenance}",
    ]
    return "\n".join(lines)
