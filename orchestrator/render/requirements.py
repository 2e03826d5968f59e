"""The packages of an image, at exactly the measured versions, and with the hashes of their files where these are known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.table import backend
from orchestrator.backends.versions import image_pins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.backends.backend import ServingSettings

__all__ = ["Requirements", "requirements"]

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Requirements:
    """The content of requirements.txt.

    Attributes:
        locked: whether every package has the hashes of its files, so that pip installs nothing else.
        unlocked: why not, in a sentence without a full stop; empty if they have.
    """

    text: str
    locked: bool
    unlocked: str


def requirements(settings: ServingSettings, hashes: Mapping[str, tuple[str, ...]], unlocked: str = "") -> Requirements:
    """requirements.txt: measured packages are pinned; others that a server imports have no version.

    Args:
        settings: with the measured versions.
        hashes: `name==version` → sha256 of the files that may be installed.
        unlocked: why there are none, if that is known.

    Raises:
        ValueError: a name, a version or a hash is not valid.
    """
    pins = image_pins(backend(settings.backend).tools, settings.tools, cuda=bool(settings.devices))
    unknown = [pin for pin in pins if "==" not in pin or not hashes.get(pin)]
    reason = unlocked or "they were not looked up in a package index"
    if unknown and hashes:
        reason = (
            f"no file of {', '.join(unknown[:3])}{' and others' if len(unknown) > 3 else ''} was found in the index"
        )
    lines = [pin if unknown else " \\\n".join([pin, *(_hash(each) for each in hashes[pin])]) for pin in pins]
    return Requirements("".join(f"{line}\n" for line in lines), not unknown, reason if unknown else "")


def _hash(sha256: str) -> str:
    if not _HASH.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a sha256 in hex")
    return f"    --hash=sha256:{sha256}"
