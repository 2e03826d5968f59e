"""Asks a registry whether it has an image, as the engine reaches it, with given credentials or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from orchestrator.containers.engine import EngineError, connected
from orchestrator.images.failures import wants_other_login

__all__ = ["Answer", "Found", "image_at"]

Found = Literal["there", "missing", "denied", "unknown"]
_SECONDS = 30.0


class Answer(NamedTuple):
    """What a registry says.

    Attributes:
        found: `denied` if it wants other credentials, `unknown` if it could not be asked.
        reason: its words, or the engine's; empty where the image is there.
    """

    found: Found
    reason: str = ""


def image_at(repository: str, digest: str, credentials: Mapping[str, str] | None) -> Answer:
    """Whether a registry has the image of this digest; nothing is pulled.

    Args:
        repository: with the registry.
        digest: `sha256:...`.
        credentials: `username` and `password`, or `auth`; empty for none; None for those of Docker's own configuration.
    """
    name = f"{repository}@{digest}"
    try:
        with connected(_SECONDS) as client:
            from docker.errors import APIError  # noqa: PLC0415 - an extra

            try:
                client.api.inspect_distribution(  # type: ignore[no-untyped-call]
                    name, auth_config=None if credentials is None else dict(credentials)
                )
            except APIError as error:
                status = 0 if error.response is None else error.response.status_code
                return _refused(status, str(error.explanation or error))
    except EngineError as error:
        return Answer("unknown", str(error))
    return Answer("there")


def _refused(status: int, message: str) -> Answer:
    text = message.strip().splitlines()[-1] if message.strip() else f"status {status}"
    if status in {401, 403} or wants_other_login(text):
        return Answer("denied", text)
    if status == 404 or "manifest unknown" in text or "not found" in text:
        return Answer("missing", text)
    return Answer("unknown", text)
