"""The packages of an image, as a CycloneDX document: Debian's and Python's, read in a container without a network."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from orchestrator.containers.attached import started_by, sweep_containers
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["bill_of_materials"]

_PYTHON = (
    "import importlib.metadata as m, json; "
    'print("python:" + json.dumps(sorted({(d.metadata["Name"], d.version, d.metadata.get("License-Expression") or "") '
    "for d in m.distributions()})))"
)
_LIST = f"""
. /etc/os-release; echo "os:$ID:$VERSION_ID"
dpkg-query --show --showformat 'deb:${{Package}}:${{Version}}:${{Architecture}}\\n' || exit 1
dpkg-query --show tini >/dev/null 2>&1 || echo "init:$(/usr/bin/tini --version)"
if test -x /opt/venv/bin/python; then /opt/venv/bin/python -c '{_PYTHON}'; fi
"""
_SECONDS = 120


def bill_of_materials(client: DockerClient, image: str, name: str, context: str, made_by: str) -> dict[str, Any]:
    """A CycloneDX 1.5 document; the same image gives the same document, whatever its name and store.

    Args:
        client: of the engine that has the image.
        image: its id.
        name: its repository and tag, for messages.
        context: the digest of what it was built from, by which the document names it.
        made_by: the version of mlo that built it.

    Raises:
        DeployFailed: E639 the packages cannot be listed.
    """
    system, components = "linux", list[dict[str, Any]]()
    for line in _listed(client, image, name).splitlines():
        kind, _, rest = line.partition(":")
        if kind == "os":
            system = rest.partition(":")[0]
        elif kind == "deb":
            package, version, architecture = _split_deb(rest)
            components.append(
                _component(package, version, f"pkg:deb/{system}/{package}@{quote(version)}?arch={architecture}")
            )
        elif kind == "init":
            version = rest.removeprefix("tini version ").partition(" ")[0]
            components.append(_component("tini", version, f"pkg:generic/tini@{version}"))
        elif kind == "python":
            for package, version, licence in json.loads(rest):
                made = _component(package, version, f"pkg:pypi/{package.lower()}@{quote(version)}")
                components.append({**made, "licenses": [{"expression": licence}]} if licence else made)
    content: dict[str, Any] = {
        "metadata": {
            "component": {"type": "container", "bom-ref": "image", "name": "image", "version": context},
            "tools": {"components": [{"type": "application", "name": "mlo", "version": made_by}]},
        },
        "components": sorted(components, key=lambda each: str(each["bom-ref"])),
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **content,
    }


def _split_deb(rest: str) -> tuple[str, str, str]:
    """Name, version and architecture; a version may have an epoch, which ends with a colon."""
    package, _, more = rest.partition(":")
    version, _, architecture = more.rpartition(":")
    return package, version, architecture


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _listed(client: DockerClient, image: str, name: str) -> str:
    """What the container prints; it is removed whatever happens, if this process is killed by the next one."""
    from requests.exceptions import ConnectionError as NoAnswer  # noqa: PLC0415 - it comes with the extra
    from requests.exceptions import ReadTimeout  # noqa: PLC0415

    api = cast("Any", client.api)  # the package has types for a part of it only
    sweep_containers(api)
    settings = api.create_host_config(network_mode="none", read_only=True, cap_drop=["ALL"])
    made = api.create_container(
        image, command=["-c", _LIST], entrypoint=["/bin/sh"], host_config=settings, labels=started_by(),
        use_config_proxy=False,
    )  # fmt: skip
    try:
        api.start(made["Id"])
        try:
            status = api.wait(made["Id"], timeout=_SECONDS)["StatusCode"]
        except (ReadTimeout, NoAnswer) as error:
            if isinstance(error, NoAnswer) and "timed out" not in str(error).lower():
                raise
            raise _not_listed(
                name,
                f"the container has not ended within {_SECONDS} s",
                "if the engine was busy, run the command again; `docker stats` shows what it is doing",
            ) from error
        text = api.logs(made["Id"], stdout=True, stderr=False).decode("utf-8", "replace")
        if status:
            said = api.logs(made["Id"], stdout=False, stderr=True).decode("utf-8", "replace").strip().splitlines()
            cause = said[-1] if said else f"the container ended with status {status}"
            raise _not_listed(name, cause, "use a Debian or Ubuntu base with dpkg")
        return str(text)
    finally:
        api.remove_container(made["Id"], v=True, force=True)


def _not_listed(name: str, cause: str, remedy: str) -> DeployFailed:
    return DeployFailed(Diagnostic("E639", f"the packages of {name} cannot be listed", cause=cause, remedy=remedy))
