"""The server's certificate at a Docker Engine: its folder lies on the engine's machine, and a revision's container has it, read-only.

The public part is read through the engine: it may run elsewhere, and the user of mlo need not be able to read the folder. The key is
never read.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from orchestrator.containers.attached import started_by
from orchestrator.containers.engine import EngineAddress
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.certificates import flaw_of_certificate
from orchestrator.targets.certificate import first_certificate
from orchestrator.targets.docker.failures import is_status

if TYPE_CHECKING:
    from orchestrator.steps.server_options import ServerTls

__all__ = ["read_certificate", "require_certificate"]

_LINKS = 8
_LARGEST = 1 << 20
_AT = ("serving", "tls", "certificate")


def read_certificate(api: Any, container: str | None, named: Path) -> bytes:
    """The first certificate of a file in a container, as DER.

    Args:
        api: of the engine.
        container: its id or name; it need not run. None if no revision has the traffic.
        named: the file.

    Raises:
        DeployFailed: E482 no revision has the traffic, or there is no such container or file, or no certificate in it.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    if container is None:
        raise DeployFailed(
            Diagnostic(
                "E482",
                "the server's certificate cannot be read: no container has it",
                cause="no revision has the traffic",
                remedy="run `mlo apply` with the spec, which starts one",
            )
        )
    try:
        return first_certificate(_content(api, container, PurePosixPath(named)))
    except (APIError, ValueError) as error:
        raise DeployFailed(
            Diagnostic(
                "E482",
                f"the server's certificate cannot be read from {named} in the container {container}",
                cause=str(error.explanation if isinstance(error, APIError) else error),
                remedy="put it there on the engine's machine, and run `mlo apply` with the spec",
            )
        ) from error


def require_certificate(api: Any, tls: ServerTls, engine: EngineAddress) -> None:
    """Look at the certificate on the engine's machine, before anything is computed; nothing is started there.

    A container that has the folder is created for it, of any image, and removed again. Where the engine has no image yet, the
    container of the revision will tell.

    Raises:
        DeployFailed: E481 the folder or the certificate is not there, or clients would refuse it.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra
    from docker.types import Mount  # noqa: PLC0415

    images = api.images(quiet=True)
    if not images:
        return
    mount = Mount(tls.folder, tls.folder, type="bind", read_only=True)
    host = api.create_host_config(mounts=[mount], network_mode="none")
    try:
        made = api.create_container(images[0], ["never-started"], labels=started_by(), host_config=host)
    except APIError as error:
        if "bind source path does not exist" not in str(error.explanation):
            raise
        raise _unusable(f"{engine.host} has no folder {tls.folder}", "", tls) from error
    try:
        pem = _content(api, made["Id"], PurePosixPath(tls.certificate))
    except APIError as error:
        if not is_status(error, 404):
            raise
        raise _unusable(f"{engine.host} has no file {tls.certificate}", "", tls) from error
    except ValueError as error:
        raise _unusable(f"{tls.certificate} cannot be read at {engine.host}", str(error), tls) from error
    finally:
        api.remove_container(made["Id"], v=True, force=True)
    if (flaw := flaw_of_certificate(tls.certificate, pem)) is not None:
        raise DeployFailed(Diagnostic("E481", flaw.problem, cause=flaw.cause, remedy=flaw.remedy, at=_AT))


def _content(api: Any, container: str, path: PurePosixPath) -> bytes:
    """A file's content, through links.

    Raises:
        APIError: it is not there.
        ValueError: it is no file of a certificate's size.
    """
    for _ in range(_LINKS):
        stream, _ = api.get_archive(container, str(path))
        packed = b""
        for part in stream:
            packed += part
            if len(packed) > _LARGEST:
                raise ValueError("it is larger than 1 MiB")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            (member, *_) = archive.getmembers()
            if member.issym():
                path = path.parent / member.linkname
                continue
            file = archive.extractfile(member)
            if file is None:
                raise ValueError("it is a folder")
            return file.read()
    raise ValueError("its links lead in a circle")


def _unusable(message: str, cause: str, tls: ServerTls) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E481",
            message,
            cause=cause or "the server reads its certificate and its key there",
            remedy=f"put both into {tls.folder} on the engine's machine, readable for user 65532",
            at=_AT,
        )
    )
