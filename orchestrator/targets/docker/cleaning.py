"""What `mlo destroy` removes from a Docker Engine besides containers: the deployment's network, and images that nothing uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from orchestrator.containers.attached import sweep_containers
from orchestrator.targets.docker.failures import is_status
from orchestrator.targets.docker.marks import Marks

if TYPE_CHECKING:
    from orchestrator.store.state import Image

__all__ = ["remove_images", "remove_networks"]


def remove_networks(api: Any, marks: Marks, *, keep: str | None = None) -> tuple[str, ...]:
    """Remove the deployment's own networks but one; returns what is left, a clause each."""
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    for network in api.networks(filters=marks.own):
        if network["Name"] == keep:
            continue
        try:
            api.remove_network(network["Id"])
        except APIError as error:
            if is_status(error, 404):
                continue
            if not is_status(error, 403):
                raise
            return (f"except for the network {network['Name']}, which other containers use",)
    return ()


def remove_images(api: Any, images: Iterable[Image], fronts: Iterable[str]) -> None:
    """Remove images that mlo built on this engine, unless a container or another name uses them.

    One that was pushed has a digest of its registry and stays, as what was pulled does.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    sweep_containers(api)  # a killed command may have left one that uses an image
    built = [(image.id, image.name) for image in images if image.digest is None]
    for identity, name in dict.fromkeys([*built, *((front, front) for front in fronts)]):
        try:
            # Its name may be that of another image by now.
            if str(api.inspect_image(name)["Id"]) == identity:
                api.remove_image(name)
        except APIError as error:
            if not is_status(error, 404, 409):  # 409: something uses it
                raise
