"""What a revision's container needs at the engine before it can be created: its image, and a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.containers.engine import EngineAddress
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.failures import another_store, is_status, name_taken, refused
from orchestrator.targets.docker.marks import DEPLOYMENT, STORE, Marks

if TYPE_CHECKING:
    from orchestrator.store.state import Image

__all__ = ["image_at", "make_network"]


def image_at(api: Any, image: Image, revision: int) -> Mapping[str, Any]:
    """What the engine says about a revision's image, which is pulled if it was pushed and is not there.

    Raises:
        DeployFailed: E648 it is gone.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    for reference in (image.id, image.reference):
        try:
            return api.inspect_image(reference)  # type: ignore[no-any-return]
        except APIError as error:
            if not is_status(error, 404):
                raise
    cause = f"the engine has no image {image.id}, and it was never pushed to a registry"
    if image.digest is not None:
        try:
            said = [
                str(line["error"]) for line in api.pull(image.reference, stream=True, decode=True) if "error" in line
            ]
            if not said:
                return api.inspect_image(image.reference)  # type: ignore[no-any-return]
        except APIError as error:
            said = [str(error.explanation)]
        cause = f"it is not at the engine, and pulling {image.reference} failed: {said[-1]}"
    raise DeployFailed(
        Diagnostic(
            "E648",
            f"the image of revision {revision}, {image.name}, is gone",
            cause=cause,
            remedy="apply the spec that the revision was made from, which builds it again",
        )
    )


def make_network(api: Any, engine: EngineAddress, marks: Marks, named: str | None, *, egress: bool) -> str:
    """Make the deployment's own network, unless the spec names one, which has to be there; returns its name.

    Args:
        api: of the engine.
        engine: its address, for messages.
        marks: of the deployment.
        named: in the spec.
        egress: whether the deployment's own network leads out.

    Raises:
        DeployFailed: E641 another store deploys this name, E642 another network has its name, E643 there is none of the name in the spec.
    """
    name = named or marks.network(egress=egress)
    there = [each for each in api.networks(names=[name]) if each["Name"] == name]
    if named is not None and not there:
        raise refused(f"it has no network {named}; `docker network create {named}` makes it", engine)
    if named is None and there:
        labels = there[0]["Labels"] or {}
        if labels.get(DEPLOYMENT) != marks.deployment or there[0]["Internal"] == egress:
            raise name_taken(name)
        if labels.get(STORE) != marks.store:
            raise another_store(marks.deployment, labels)
    if not there:
        labels = marks.labels("network")
        api.create_network(name, driver="bridge", internal=not egress, check_duplicate=True, labels=labels)
    return name
