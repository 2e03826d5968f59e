"""What goes wrong with an engine or a registry while an image is built or pushed, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.containers.engine import EngineError
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed

__all__ = ["build_failed", "engine_failed", "engine_refused", "push_failed", "wants_other_login"]

_NO_BASE = re.compile(
    r"pull access denied|manifest unknown|manifest for .* not found|repository .* not found|No such image|"
    r"failed to resolve|dial tcp|lookup .* on|TLS handshake|x509|unauthorized|connection refused|i/o timeout|"
    r"Client\.Timeout|no matching manifest|context deadline exceeded",
)
_FROM = re.compile(r"^Step \d+/\d+ : FROM (\S+)")
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_FREE_SPACE = "free some space, for instance with `docker system prune`, then run the command again"
_NO_HASH = re.compile(r"DO NOT MATCH THE HASHES|Hashes are required|hash(es)? .*mismatch", re.IGNORECASE)
_NO_WHEEL = re.compile(r"No matching distribution found for (\S+)")
_NO_NETWORK = re.compile(r"Temporary failure resolving|Name or service not known|Failed to establish a new connection")
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED|problem confirming the ssl certificate", re.IGNORECASE)
_UNTRUSTED_BY_APT = re.compile(r"Certificate verification failed: The certificate is NOT trusted")

_STATUS = r"(?:HTTP|status(?: code)?:?|status from [^\n]*:) {0}\b|\b{0} {1}"
_DENIED = re.compile(r"denied|forbidden|insufficient_scope|" + _STATUS.format(403, "Forbidden"), re.IGNORECASE)
_NOT_LOGGED_IN = re.compile(
    r"unauthorized|authentication required|no basic auth credentials|" + _STATUS.format(401, "Unauthorized"),
    re.IGNORECASE,
)
_PLAIN = re.compile(r"server gave HTTP response to HTTPS client")
_UNKNOWN_AUTHORITY = re.compile(r"x509|certificate")
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection refused|i/o timeout|Client\.Timeout|TLS handshake timeout|no route to host|\bEOF\b"
)


def wants_other_login(error: str) -> bool:
    """Whether a registry refuses who asks, or asks for a login."""
    return bool(_DENIED.search(error) or _NOT_LOGGED_IN.search(error))


def engine_failed(code: str, what: str, error: EngineError) -> DeployFailed:
    """The engine was not there, or was gone half-way."""
    return DeployFailed(
        Diagnostic(
            code,
            f"{what}: the Docker Engine does not answer",
            cause=str(error),
            remedy="start the Docker Engine, or choose another one with `docker context use NAME`, then run the command again",
        )
    )


def engine_refused(code: str, what: str, error: EngineError) -> DeployFailed:
    """The engine answered, and does not do it."""
    cause, remedy = str(error), "mend what the engine says, then run the command again"
    if _NO_SPACE.search(cause):
        code, remedy = "E633", _FREE_SPACE
    return DeployFailed(Diagnostic(code, f"{what}: the Docker Engine refuses", cause=cause, remedy=remedy))


def build_failed(name: str, error: str, lines: Sequence[str]) -> DeployFailed:
    """An instruction failed, or its base cannot be had.

    Args:
        name: of the image.
        error: what the engine said.
        lines: the last lines of the build's log.
    """
    cause = error.strip().splitlines()[-1] if error.strip() else "the engine gave no reason"
    log = "\n".join([*lines, error])
    instruction = next((line for line in reversed(lines) if line.startswith("Step ")), "")
    base = _FROM.match(instruction)
    code, remedy = "E631", "the last lines of its log name the instruction; mend its cause, then run the command again"
    if _NO_SPACE.search(log):
        code = "E633"
        cause = "the engine's disk is full"
        remedy = _FREE_SPACE
    elif (base is not None or not instruction) and _NO_BASE.search(log):
        code = "E634"
        missing = base[1] if base is not None else "the base image"
        cause = f"{missing} is neither in the engine nor can it be pulled: {cause}"
        remedy = f"pull or load it (`docker pull {missing}`), log in to its registry, or name another one in `image: {{base: ...}}`"
    elif _NO_HASH.search(log):
        cause = "a file is not the one whose hash is in docker/requirements.txt"
        remedy = (
            "if the base has another version of Python than the hashes are for, name it in `image: {build: {python: ...}}`; "
            "otherwise the index gives out other files than it did: find out why before you build"
        )
    elif _NO_NETWORK.search(log):  # pip then also says that it found no wheel
        cause = f"the build has no network, or does not reach an index: {cause}"
        remedy = (
            "set a proxy in Docker's configuration (`proxies`), another network in `image: {build: {network: ...}}`, or build "
            "without one from `image: {build: {wheelhouse: ...}}` on a base that has tini"
        )
    elif _UNTRUSTED.search(log):  # the same
        cause = "pip in the build does not trust the certificate of a package index, or of a proxy before it"
        remedy = "name the file with the certificate of its authority in `image: {build: {ca_bundle: FILE}}`"
    elif _UNTRUSTED_BY_APT.search(log):
        cause = "apt in the build does not trust the certificate of its base's source of Debian packages"
        remedy = "choose a base that trusts it, or that has the packages, in `image: {base: ...}`"
    elif missing := _NO_WHEEL.search(log):
        cause = f"there is no wheel of {missing[1]} for this platform and Python"
        remedy = "add it to the index or the wheelhouse that the build uses, or choose a base with another Python"
    return DeployFailed(Diagnostic(code, f"the build of {name} failed", cause=cause, remedy=remedy, notes=tuple(lines)))


def push_failed(name: str, error: str) -> DeployFailed:
    """The registry refused an image, or cannot be reached.

    Args:
        name: of the image.
        error: what the engine said.
    """
    registry = name.partition("/")[0] if "/" in name else "the registry"
    cause = error.strip().splitlines()[-1] if error.strip() else "the engine gave no reason"
    remedy = "check `image.registry` in the spec, then run the command again"
    if _PLAIN.search(error):
        code, cause = "E632", f"{registry} speaks plain HTTP, and the engine trusts it only over HTTPS"
        remedy = f'add "insecure-registries": ["{registry}"] to the engine\'s daemon.json, or give the registry a certificate'
    elif _UNREACHABLE.search(error):  # before what its addresses and names may look like
        code, remedy = "E637", f"check that {registry} is right in `image.registry`, and that the engine reaches it"
    elif _UNKNOWN_AUTHORITY.search(error):
        code, remedy = (
            "E632",
            f"put the authority's certificate into /etc/docker/certs.d/{registry}/ca.crt where the engine runs",
        )
    elif _NOT_LOGGED_IN.search(error):
        code, remedy = "E635", f"log in: docker login {registry}"
    elif _DENIED.search(error):
        code = "E636"
        remedy = f"log in to {registry} as a user who may push there, or set another path in `image.registry`"
    else:
        code = "E632"
    return DeployFailed(
        Diagnostic(code, f"{name} was not pushed", cause=cause, remedy=remedy, at=("image", "registry"))
    )
