"""How requests get from here to a port that a Docker Engine publishes, and which port is free there."""

from __future__ import annotations

import errno
import ipaddress
import socket
import zlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["choose_port", "host_of", "is_here", "taken_ports", "url", "who_has"]

_LOOPBACK = "127.0.0.1"
# Below the range that Linux takes the ports of outgoing connections from (32768 and up).
_FIRST, _COUNT = 20000, 10000


def is_here(host: str) -> bool:
    """Whether an engine publishes ports at this machine, as far as its address tells."""
    if not host.startswith(("tcp://", "http://", "https://", "ssh://")):
        return True
    name = urlsplit(host).hostname or ""
    return name == "localhost" or _is_loopback(name)


def host_of(host: str, address: str) -> str | None:
    """The host at which a port of `address` answers from here; None if none does.

    Args:
        host: where the engine listens.
        address: of its machine, where the port is published.
    """
    published_at = ipaddress.ip_address(address)
    if is_here(host):
        return ("::1" if published_at.version == 6 else _LOOPBACK) if published_at.is_unspecified else address
    if published_at.is_loopback:
        return None
    return urlsplit(host).hostname if published_at.is_unspecified else address


def url(host: str, port: int, *, tls: bool) -> str:
    """Of a server."""
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def taken_ports(containers: Iterable[Mapping[str, Any]], address: str) -> dict[int, str]:
    """Ports that other containers publish there → the container that does, from the engine's list."""
    return {
        each["PublicPort"]: container["Names"][0].removeprefix("/")
        for container in containers
        for each in container.get("Ports") or ()
        if "PublicPort" in each and _overlap(each.get("IP", ""), address)
    }


def who_has(containers: Iterable[Mapping[str, Any]], host: str, address: str, port: int) -> str | None:
    """What has a port already, a clause; None if it is free as far as can be seen."""
    container = taken_ports(containers, address).get(port)
    if container is not None:
        return f"the container {container} publishes it"
    if is_here(host) and not _is_free(address, port):
        return "another program listens there"
    return None


def choose_port(name: str, containers: Iterable[Mapping[str, Any]], host: str, address: str) -> int:
    """A free port, the next one free too; the same name gets the same port wherever that is free."""
    taken = taken_ports(containers, address)
    start = zlib.crc32(name.encode())
    for step in range(_COUNT):
        port = _FIRST + (start + step) % _COUNT
        if not taken.keys() & {port, port + 1} and (
            not is_here(host) or (_is_free(address, port) and _is_free(address, port + 1))
        ):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port between {_FIRST} and {_FIRST + _COUNT - 1}")


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            # Another address than this machine's is the engine's business; so is a port that needs root.
            return error.errno != errno.EADDRINUSE
    return True


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _overlap(one: str, other: str) -> bool:
    everywhere = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with
    return one == other or one in everywhere or other in everywhere
