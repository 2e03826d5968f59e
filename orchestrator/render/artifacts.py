"""Renders a release from one decision: serving folder, Docker context, compose file, chart and values.

The same arguments give the same bytes: no times, no paths, fixed modes, sorted names.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.container import ContainerSettings
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.backends.backend import ServingBackend
from orchestrator.backends.folder import write_file
from orchestrator.backends.table import backend
from orchestrator.backends.versions import cpu_indexes
from orchestrator.images.context import context_digest
from orchestrator.render.assets import assets_dir
from orchestrator.render.fill import fill
from orchestrator.render.requirements import requirements
from orchestrator.spec.quantities import cpu_quantity, memory_quantity

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.artifacts.sizing import Sizing
    from orchestrator.backends.backend import ServingSettings
    from orchestrator.steps.parameters import DeploymentParameters, ImageParameters

__all__ = ["render_artifacts"]


def render_artifacts(
    settings: ServingSettings,
    deployment: DeploymentParameters,
    image: ImageParameters,
    sizing: Sizing,
    variant: Path,
    folder: Path,
) -> str | None:
    """Fill `folder` with `serving/`, `docker/`, `compose.yaml`, `container.json`, `chart/`, `values.yaml` and `README.md`.

    For devices there is only `serving/`. The image's tag is the digest of what the build reads, so a different image has a
    different tag.

    Args:
        settings: of the server.
        deployment: labels, replicas and the image's name.
        image: settings of its build.
        sizing: what a replica needs, and how many are needed.
        variant: the winner's folder.
        folder: the folder to fill.

    Returns:
        The image's name and tag; None if there is no server, and so no image.

    Raises:
        ValueError: a value is not allowed in one of the files.
        FileNotFoundError: the variant lacks its model file.
        DocumentRefused: an int8 variant lacks its facts.
    """
    chosen = backend(settings.backend)
    if not isinstance(chosen, ServingBackend):
        chosen.write_folder(settings, variant, folder / "serving")
        _open_folders(folder)
        return None
    chosen.write_folder(settings, variant, folder / "serving")
    listed = requirements(settings, image.hashes, image.unlocked)
    values = _values(chosen, settings, deployment, sizing) | {
        "ca_bundle": image.ca_bundle and not image.wheels and chosen.server.packaged,
        "indexes": () if settings.devices else cpu_indexes(settings.tools),
        "locked": listed.locked,
        "needs_vnni": _needs_vnni(settings, variant),
        "platform": image.platform,
        "unlocked": listed.unlocked,
        "wheels": image.wheels and chosen.server.packaged,
    }
    for place, code in chosen.server.code.items():
        _copy_tree(code, folder / "docker" / place, ".py")
    if chosen.server.packaged:
        write_file(folder / "docker" / "requirements.txt", listed.text)
    write_file(folder / "docker" / "Dockerfile", fill(f"docker/{chosen.server.dockerfile}", values))
    write_file(folder / ".dockerignore", fill("docker/dockerignore.jinja", values))
    tag = values["tag"] = context_digest(folder)[:16]
    _copy_tree(assets_dir("charts") / "mlo-model", folder / "chart")
    values["container"] = _container(values)
    write_file(folder / ContainerSettings.FILE, values["container"].as_bytes())
    write_file(folder / "compose.yaml", fill("docker/compose.yaml.jinja", values))
    write_file(folder / "values.yaml", fill("kubernetes/values.yaml.jinja", values))
    write_file(folder / "README.md", fill(f"readme/{chosen.server.readme}", values))
    _open_folders(folder)
    return f"{deployment.repository}:{tag}"


def _open_folders(folder: Path) -> None:
    """Let everybody read the folders, whatever the umask: the server or device runs as another user."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def _values(
    chosen: ServingBackend, settings: ServingSettings, deployment: DeploymentParameters, sizing: Sizing
) -> dict[str, Any]:
    """The values for the templates; each use in a template has a filter that checks it."""
    server, timeout = chosen.server, settings.limits.request_timeout
    request_seconds = server.request_seconds if timeout is None else math.ceil(timeout)
    if sizing.longest_request is not None:
        request_seconds = min(request_seconds, sizing.longest_request)
    replicas = max(deployment.min_replicas, sizing.replicas or 1)
    return {
        "at_once": server.at_once,
        "auth": settings.auth,
        "answers_after_sigterm": server.answers_after_sigterm,
        "backend": settings.backend,
        "base": deployment.base or (server.gpu_base if settings.devices else server.base),
        "cpu_quantity": cpu_quantity(settings.cpus),
        "cpu_request": cpu_quantity(sizing.cpu_request),
        "cpus": settings.cpus,
        "decision_digest": settings.decision_digest,
        "devices": settings.devices,
        "drain_seconds": settings.drain_seconds,
        "code": sorted(server.code),
        "grace_seconds": settings.drain_seconds + request_seconds + 5,
        "grpc_port": server.grpc_port if settings.grpc else None,
        "infer_path": chosen.infer_path(settings.name),
        "labels": sorted(deployment.labels.items()),
        "live_path": server.live_path,
        "max_replicas": max(deployment.max_replicas, replicas),
        "memory": settings.memory,
        "memory_quantity": memory_quantity(settings.memory),
        "memory_request": sizing.memory_request,
        "memory_request_quantity": memory_quantity(sizing.memory_request),
        "alert_above": None if sizing.p99_limit is None else server.metrics.alert_above(sizing.p99_limit),
        "metrics": server.metrics,
        "metrics_path": server.metrics_path,
        "metrics_port": server.metrics_port,
        "min_replicas": replicas,
        "model_digest": settings.model_digest,
        "name": settings.name,
        "notice": server.notice,
        "packaged": server.packaged,
        "port": server.port,
        "processes": server.processes,
        "protocol": server.protocol,
        "p99_limit": sizing.p99_limit,
        "pushed": deployment.registry is not None,
        "ready_failures": server.ready_failures,
        "ready_path": chosen.ready_path(settings.name),
        "repository": deployment.repository,
        "request_seconds": request_seconds,
        "runs_from_tmp": server.runs_from_tmp,
        "startup_seconds": settings.startup_seconds,
        "target_cpu_percent": sizing.target_cpu_percent,
        "tls": settings.tls,
        "traces": settings.traces,
        "variant": settings.variant,
        **chosen.image_values(settings),
    }


def _container(values: dict[str, Any]) -> ContainerSettings:
    """How the container is run: the least that the server needs."""
    return ContainerSettings(
        port=values["port"],
        grpc_port=values["grpc_port"],
        ready_path=values["ready_path"],
        user="65532:65532",
        read_only=True,
        # What a server unpacks there, native libraries, it also runs.
        tmpfs={"/tmp": "size=64m,mode=1777,exec" if values["runs_from_tmp"] else "size=64m,mode=1777"},  # noqa: S108 - in the container
        cap_drop=("ALL",),
        no_new_privileges=True,
        memory=values["memory"],
        memory_request=values["memory_request"],
        cpus=values["cpus"],
        processes=values["processes"],
        devices=values["devices"],
        token_file=None if values["auth"] is None else values["auth"].token_file,
        tls_folder=None if values["tls"] is None else values["tls"].folder,
        egress=values["traces"] is not None,
        stop_seconds=values["grace_seconds"],
        at_once=values["at_once"],
    )


def _needs_vnni(settings: ServingSettings, variant: Path) -> bool:
    """Whether int8 weights use all 8 bits, which is only correct on x86 CPUs with VNNI: others add products in 16 bits.

    Source: ONNX Runtime's manual, "Quantize ONNX models", on `reduce_range`.
    """
    if settings.precision != "int8":
        return False
    return not VariantFacts.read(variant).reduce_range


def _copy_tree(source: Path, target: Path, suffix: str = "") -> None:
    """Copy the files below `source` that end with `suffix`, without caches of Python."""
    for path in sorted(source.rglob(f"*{suffix}")):
        relative = path.relative_to(source)
        if path.is_file() and "__pycache__" not in relative.parts:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / relative)
            (target / relative).chmod(0o644)
