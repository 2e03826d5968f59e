"""Builds the image of a server that is measured, and starts it in a container with the limits of `hardware`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.artifacts.server_report import ImageSizes
from orchestrator.artifacts.sizing import Sizing
from orchestrator.backends.backend import Launch, Server, ServingSettings
from orchestrator.backends.table import serving_backend
from orchestrator.backends.versions import installed_closure
from orchestrator.containers.engine import EngineError, engine_version
from orchestrator.errors import DeployFailed
from orchestrator.images.build import build_image
from orchestrator.images.evidence import read_evidence
from orchestrator.images.settings import BuildSettings
from orchestrator.measure.failure import MeasureError
from orchestrator.process.environment import engine_environment
from orchestrator.steps.context import Ending, StepError
from orchestrator.steps.parameters import BuildParameters, DeploymentParameters

if TYPE_CHECKING:
    from orchestrator.machine.cpus import CpuShare
    from orchestrator.steps.server_options import ServerTls

__all__ = ["ContainerServer", "built", "certificate_inside", "require_engine"]

_CONTAINER_FILE = "container"
_SECRETS = "/run/measured"


class ContainerServer:
    """The image of one server, and the command that runs it.

    Args:
        image: its id.
        sizes: of the image.
        compose: the rendered compose.yaml, whose limits it has.
        server: its ports.
        devices: GPUs.
        share: the CPUs it runs on.
        secrets: file in the container → file here whose content it gets.
    """

    def __init__(
        self,
        image: str,
        sizes: ImageSizes,
        compose: Path,
        server: Server,
        devices: int,
        share: CpuShare,
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._image = image
        self.sizes = sizes
        self._service: dict[str, Any] = yaml.safe_load(compose.read_text(encoding="utf-8"))["services"]["model"]
        self._server = server
        self._devices = devices
        self._share = share
        self._secrets = dict(secrets)

    def launch(self, scratch: Path, port: int, grpc_port: int) -> Launch:
        """The command that runs the container as long as it runs itself; requests go to ports on loopback.

        Args:
            scratch: for its files.
            port: for requests.
            grpc_port: for requests over gRPC; 0 for none.
        """
        described = {
            "image": self._image,
            "options": self._options(port, grpc_port),
            "secrets": self._secrets,
            "file": str(scratch / _CONTAINER_FILE),
        }
        file = scratch / "run.json"
        file.write_text(json.dumps(described), encoding="utf-8")
        argv = (sys.executable, "-m", "orchestrator.containers.attached", str(file))
        return Launch(argv, engine_environment(), scratch, container_file=scratch / _CONTAINER_FILE)

    def _options(self, port: int, grpc_port: int) -> dict[str, Any]:
        service, server = self._service, self._server
        ports = {f"{server.port}/tcp": ("127.0.0.1", port)}
        if grpc_port and server.grpc_port is not None:
            ports[f"{server.grpc_port}/tcp"] = ("127.0.0.1", grpc_port)
        gpus = [{"Driver": "", "Count": self._devices, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]
        return {
            "ports": ports,
            "read_only": service["read_only"],
            "tmpfs": dict(each.split(":", 1) for each in service["tmpfs"]),
            "cap_drop": service["cap_drop"],
            "security_opt": service["security_opt"],
            "mem_limit": service["mem_limit"],
            "memswap_limit": service["mem_limit"],
            "nano_cpus": round(service["cpus"] * 1e9),
            "cpuset_cpus": ",".join(str(cpu) for cpu in sorted(self._share.cpus)),
            "pids_limit": service["pids_limit"],
            "device_requests": gpus if self._devices else [],
            "auto_remove": True,
            "detach": False,
        }


def require_engine() -> None:
    """Check that the Docker Engine responds.

    Raises:
        StepError: E491, it does not; the refusal is not remembered, since it may respond the next time.
    """
    try:
        engine_version()
    except EngineError as error:
        raise StepError(
            "E491",
            "servers cannot be measured in containers, because the Docker Engine does not respond",
            cause=str(error),
            remedy="start it, or set `benchmark: {inside: process}`",
            at=("benchmark", "inside"),
        ) from error


def certificate_inside(tls: ServerTls) -> ServerTls:
    """Where a container has the certificate and the key that are `tls` here."""
    return replace(tls, certificate=f"{_SECRETS}/{Path(tls.certificate).name}", key=f"{_SECRETS}/{Path(tls.key).name}")


def built(
    settings: ServingSettings,
    build: BuildParameters,
    variant: Path,
    share: CpuShare,
    folder: Path,
    progress: Callable[[str], None],
    tls: ServerTls | None = None,
) -> ContainerServer:
    """Render the server as for a release, and build its image; a release with the same packages has its layers then.

    Args:
        settings: of the server; with TLS, its certificate is where `certificate_inside` says.
        build: of its image.
        variant: the variant's folder.
        share: the CPUs it will run on.
        folder: an empty folder, which holds the rendered tree.
        progress: is called with what the build does.
        tls: the certificate and the key here, which no layer of the image gets; None for plain HTTP.

    Raises:
        MeasureError: the image cannot be built.
    """
    from orchestrator.render.artifacts import render_artifacts  # noqa: PLC0415 - jinja2: what is measured as a process needs none

    served_by = serving_backend(settings.backend)
    rendered, evidence = folder / "rendered", folder / "evidence"
    rendered.mkdir(parents=True)
    evidence.mkdir()
    tools = installed_closure(served_by.tools, cuda=settings.devices > 0)
    if settings.grpc:
        tools |= installed_closure(served_by.grpc_tools, cuda=False)
    deployment = DeploymentParameters(settings.name, {}, 1, 1, None, build.base)
    nothing_measured = Sizing(
        memory_request=settings.memory,
        cpu_request=settings.cpus,
        longest_request=None,
        target_cpu_percent=80,
        proven_rate=None,
        replicas=None,
        p99_limit=None,
    )
    render_artifacts(replace(settings, tools=tools), deployment, build.image, nothing_measured, variant, rendered)
    repository = f"mlo-benchmark/{build.name}"
    try:
        image = build_image(rendered, _build_settings(repository, build), evidence, progress)
    except DeployFailed as error:
        raise MeasureError(Ending.EXCEPTION, error.diagnostics[0]) from error
    known = read_evidence(evidence, image)
    assert known is not None, "what was built leaves its evidence"
    sizes = ImageSizes(total=known.sizes.total, base=known.sizes.base, model=known.sizes.model)
    secrets = {}
    if tls is not None:
        inside = certificate_inside(tls)
        secrets = {inside.certificate: tls.certificate, inside.key: tls.key}
    return ContainerServer(
        image.id, sizes, rendered / "compose.yaml", served_by.server, settings.devices, share, secrets
    )


def _build_settings(repository: str, build: BuildParameters) -> BuildSettings:
    def path(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    return BuildSettings(
        repository=repository,
        network=build.network,
        pip_index=build.pip_index,
        wheelhouse=path(build.wheelhouse),
        ca_bundle=path(build.ca_bundle),
        python=build.python,
    )
