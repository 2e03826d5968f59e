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
from orchestrator.targets.gitops.section import Writing
from orchestrator.targets.gitops.sync import DEPLOY_VALUES_FILE, VALUES_FILE, sync_files, yaml_text

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
    values = pinned((rendered / "values.yaml").read_text(encoding="utf-8"), image)
    value_files = {VALUES_FILE: values}
    if writing.values:
        value_files[DEPLOY_VALUES_FILE] = yaml_text(writing.values)
    if writing.form == "helm":
        place = "chart"
        for file, content in value_files.items():
            write_file(tree / file, content)
        for source in sorted((rendered / "chart").rglob("*")):
            if source.is_file():
                write_file(tree / "chart" / source.relative_to(rendered / "chart"), source.read_bytes())
    else:
        place = "manifests" if writing.form == "manifests" else "base"
        with TemporaryDirectory(prefix="mlo-gitops-") as work:
            for file, content in value_files.items():
                write_file(Path(work) / file, content)
            documents = objects(rendered / "chart", [Path(work) / file for file in value_files], name, writing)
        files = objects_files(documents)
        if writing.form == "kustomize":
            files["kustomization.yaml"] = kustomization(list(files))
        for file, content in files.items():
            write_file(tree / place / file, content)
    for file, content in sync_files(writing, name, folder, {"": place}).items():
        write_file(tree / file, content)


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
