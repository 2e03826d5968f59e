"""The document beside compose.yaml: how a container of the release's image is run, for targets that run containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from orchestrator.artifacts.document import Document

__all__ = ["ContainerSettings"]


class ContainerSettings(Document):
    """What a container may use, and where it answers; `compose.yaml` is filled with the same values.

    Attributes:
        port: for requests.
        grpc_port: for requests over gRPC; None if it does not answer them.
        ready_path: answers 200 if and only if requests can be answered.
        user: user and group id.
        read_only: whether its root file system is.
        tmpfs: folder in memory → mount options.
        cap_drop: capabilities that it does not have.
        no_new_privileges: whether programs with more rights than their user have no effect.
        memory: bytes; there is no swap on top.
        memory_request: bytes that were measured to be needed, which the engine tries to leave to it.
        cpus: how many.
        processes: the most processes and threads.
        devices: GPUs.
        token_file: with the accepted tokens, on the engine's machine, read there; None if requests need none.
        tls_folder: with the server's certificate, likewise; None without TLS.
        egress: whether the server calls others: the collector of its traces.
        stop_seconds: from SIGTERM to the kill.
        at_once: arguments after the image's own command with which its server stops as soon as nothing is under way, for whoever routes
            the traffic of all connections away before SIGTERM; empty if it always does.
    """

    NAME: ClassVar[str] = "container"
    VERSION: ClassVar[int] = 2
    FILE: ClassVar[str] = "container.json"

    port: int
    grpc_port: int | None
    ready_path: str
    user: str
    read_only: bool
    tmpfs: Mapping[str, str]
    cap_drop: tuple[str, ...]
    no_new_privileges: bool
    memory: int
    memory_request: int
    cpus: float
    processes: int
    devices: int
    token_file: str | None
    tls_folder: str | None
    egress: bool
    stop_seconds: int
    at_once: tuple[str, ...]
