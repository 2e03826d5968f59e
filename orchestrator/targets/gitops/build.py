"""Writes the files of one release for Git: chart and values, or manifests, or a Kustomize base; the image by its digest."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.backends.folder import write_file
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.gitops.manifests import kustomization, objects, objects_files
from orchestrator.targets.gitops.overlays import overlay_files
from orchestrator.targets.gitops.section import Writing
from orchestrator.targets.gitops.sync import DEPLOY_VALUES_FILE, VALUES_FILE, environment_values, sync_files, yaml_text

if TYPE_CHECKING:
    from orchestrator.store.state import Image

__all__ = ["build_files", "pinned"]

_DIGEST = re.compile(r'^  digest: ""[^\n]*$', re.MULTILINE)


def build_files(rendered: Path, image: Image, name: str, writing: Writing, folder: Path, tree: Path) -> None:
    """Fill `tree` with all that `folder` is to hold, except for the marker; the same arguments give the same bytes.

    Args:
        rendered: the rendered tree, of which the chart and the values are used: no model, no build context.
        image: what the objects run.
        name: the deployment's.
        writing: what the spec asks for.
        folder: where the files will lie.
        tree: an empty folder.

    Raises:
        DeployFailed: E672 no repository, E673 no Helm, E674 Helm refuses the chart, E675 the image has no digest.
    """
    base = {VALUES_FILE: pinned((rendered / "values.yaml").read_text(encoding="utf-8"), image)}
    if writing.values:
        base[DEPLOY_VALUES_FILE] = yaml_text(writing.values)
    own = {name: yaml_text(each.values) for name, each in writing.environments.items() if each.values}
    if writing.form == "helm":
        files = {**base, **{environment_values(name): content for name, content in own.items()}}
        files |= _chart_files(rendered / "chart")
    else:
        files = _objects_files(rendered / "chart", name, writing, base, own)
    files |= sync_files(writing, name, folder)
    for file, content in files.items():
        write_file(tree / file, content)


def _chart_files(chart: Path) -> dict[str, str]:
    sources = sorted(path for path in chart.rglob("*") if path.is_file())
    return {f"chart/{path.relative_to(chart).as_posix()}": path.read_text(encoding="utf-8") for path in sources}


def _objects_files(
    chart: Path, name: str, writing: Writing, base: dict[str, str], own: dict[str, str]
) -> dict[str, str]:
    """Manifests, or a Kustomize base and its overlays."""

    def made(namespace: str, environment: str | None = None) -> list[dict[str, Any]]:
        values = {**base, **({environment: own[environment]} if environment in own else {})}
        with TemporaryDirectory(prefix="mlo-gitops-") as work:
            for file, content in values.items():
                write_file(Path(work) / file, content)
            return objects(chart, [Path(work) / file for file in values], name, writing, namespace)

    documents = made(writing.namespace)
    if writing.form == "kustomize":
        files = objects_files(documents)
        files = {
            f"base/{file}": content
            for file, content in {**files, "kustomization.yaml": kustomization(list(files))}.items()
        }
        for environment, each in writing.environments.items():
            overlay = overlay_files(documents, made(each.namespace, environment), each.namespace)
            files |= {f"overlays/{environment}/{file}": content for file, content in overlay.items()}
        return files
    if not writing.environments:
        return {f"manifests/{file}": content for file, content in objects_files(documents).items()}
    return {
        f"manifests/{environment}/{file}": content
        for environment, each in writing.environments.items()
        for file, content in objects_files(made(each.namespace, environment)).items()
    }


def pinned(values: str, image: Image) -> str:
    """The text of values.yaml with the image's digest, and all comments as they are.

    Raises:
        DeployFailed: E675, the image was not pushed, so it has no digest.
        ValueError: the values do not name this image.
    """
    if image.digest is None:
        raise DeployFailed(
            Diagnostic(
                "E675",
                f"{image.name} has no digest",
                cause="it was not pushed to a registry, and a name alone does not say which image a cluster would run",
                remedy="set `image.registry` to a registry that this machine may push to",
                at=("image",),
            )
        )
    text, count = _DIGEST.subn(f'  digest: "{image.digest}"', values)
    written: dict[str, Any] = yaml.safe_load(text)["image"]
    if count != 1 or f"{written['repository']}@{written['digest']}" != image.reference:
        raise ValueError(f"values.yaml names {written}, not {image.reference}")
    return text
