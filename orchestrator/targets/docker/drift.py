"""What a container was created from, and how one that is there differs from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.targets.docker.marks import KEPT

__all__ = ["differences", "facts_of", "kept_of"]


def facts_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how a container runs, from what the engine says about it."""
    config, host = container["Config"], container["HostConfig"]
    return {
        "image": container["Image"],
        "command": [*(config["Entrypoint"] or ()), *(config["Cmd"] or ())],
        "environment": sorted(config["Env"] or ()),
        "user": config["User"],
        "memory limit": host["Memory"],
        "reserved memory": host["MemoryReservation"],
        "CPU limit": host["NanoCpus"] / 1e9,
        "limit of processes": host["PidsLimit"] or 0,
        "read-only file system": host["ReadonlyRootfs"],
        "dropped capabilities": sorted(host["CapDrop"] or ()),
        "added capabilities": sorted(host["CapAdd"] or ()),
        "privileged mode": host["Privileged"],
        "security options": sorted(host["SecurityOpt"] or ()),
        "folders in memory": dict(host.get("Tmpfs") or {}),  # absent if there are none
        "mounted files": sorted(
            f"{m['Source']}:{m['Destination']}" for m in container["Mounts"] if m["Type"] == "bind"
        ),
        "published ports": published(host["PortBindings"] or {}),
    }


def published(bindings: Mapping[str, Iterable[Mapping[str, str]] | None]) -> dict[str, list[str]]:
    """Port of the container → addresses and ports of the machine, in one form."""
    return {
        port: sorted(f"{each.get('HostIp', '')}:{each.get('HostPort') or 0}" for each in there or ())
        for port, there in sorted(bindings.items())
    }


def kept_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """What mlo created the container from; empty if its label is gone."""
    text = (container["Config"]["Labels"] or {}).get(KEPT, "{}")
    kept = json.loads(text)
    return kept if isinstance(kept, dict) else {}


def differences(container: Mapping[str, Any]) -> list[str]:
    """How it differs from what mlo created, a clause each: "its memory limit is 1 GiB instead of 2 GiB"."""
    wanted, found = kept_of(container).get("facts", {}), facts_of(container)
    return [
        _environment(wanted[what], found[what])
        if what == "environment"
        else f"its {what} {'are' if what.endswith('s') else 'is'} {_word(what, found[what])} instead of {_word(what, wanted[what])}"
        for what in found
        if what in wanted and found[what] != wanted[what]
    ]


def _environment(wanted: Iterable[str], found: Iterable[str]) -> str:
    """The names of the variables that differ; their values may be secret."""
    names = sorted({each.partition("=")[0] for each in {*wanted} ^ {*found}})
    return f"its environment has another {', '.join(names)}"


def _word(what: str, value: Any) -> str:
    if what in ("memory limit", "reserved memory"):
        return f"{value / 2**20:g} MiB" if value else "none"
    if what == "image":
        return str(value).removeprefix("sha256:")[:12]
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} at {_word(what, each)}" for key, each in value.items()) or "none"
    return str(value)
