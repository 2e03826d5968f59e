"""A step's key: the sha256 over everything that its result depends on, and nothing else.

Names, output paths, times, users and log levels are not in it. The parts are kept in the receipt, so that a re-run
can be explained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.machine.here import Here
from orchestrator.plan.step import Step
from orchestrator.spec.quantities import cpus_text, duration_text, rate_text, size_text
from orchestrator.store.atomic import canonical_json
from orchestrator.store.digest import sha256_bytes

__all__ = ["differences", "key_parts", "shortened", "step_key"]

_DOMAIN = b"mlo.step.v1\0"


def key_parts(step: Step, inputs: Mapping[str, str], code: Mapping[str, str], here: Here) -> dict[str, Any]:
    """The parts of the key.

    Args:
        step: whose key it is.
        inputs: role → sha256 of the file or folder; optional roles that are absent are absent.
        code: the user's files and installed distributions that the step is known to import → sha256.
        here: the machine that the step runs on, with the versions of its packages.
    """
    parts: dict[str, Any] = {
        "kind": step.kind,
        "function": step.function,
        "revision": step.revision,
        "params": dict(step.params),
        "inputs": dict(inputs),
        "tools": {package: here.version(package) or "absent" for package in step.tools},
    }
    if code:
        parts["code"] = dict(code)
    if step.user_code is not None and step.user_code.env:
        parts["env"] = {name: here.variables[name] or "not set" for name in step.user_code.env}
    if step.machine:
        parts["machine"] = dict(here.fingerprint)
        if here.cuda is not None and step.accelerator == "cuda":
            parts["machine"]["accelerators"] = here.cuda.devices.as_json()
    return parts


def step_key(parts: Mapping[str, Any]) -> str:
    """The key as 64 hex digits."""
    return sha256_bytes(_DOMAIN + canonical_json(parts))


_QUANTITIES: Mapping[str, Callable[[Any], object]] = {
    "cpus": cpus_text,
    "max_delay": duration_text,
    "memory": size_text,
    "p99_latency": duration_text,
    "throughput": rate_text,
    "time_budget": duration_text,
}
"""The parameters of steps that are quantities, by name; they are in SI units."""


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences between two sets of key parts, one line each: `tools.torch 2.13.0 → 2.14.1`."""
    lines: list[str] = []
    for name in sorted({*before, *after}):
        path = f"{prefix}{name}"
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines.extend(differences(old, new, f"{path}."))
        elif name not in before:
            lines.append(f"{path} is new: {shortened(name, new)}")
        elif name not in after:
            lines.append(f"{path} is gone (was {shortened(name, old)})")
        else:
            lines.append(f"{path} {shortened(name, old)} → {shortened(name, new)}")
    return lines


def shortened(name: str, value: object) -> str:
    """A value of a key's parts on one line: digests to 12 digits, quantities in units of the spec, the rest to 60 characters."""
    if name in _QUANTITIES and isinstance(value, int | float):
        return str(_QUANTITIES[name](value))
    if isinstance(value, str) and len(value) == 64:  # a digest
        return value[:12]
    text = str(value) if isinstance(value, str) else canonical_json(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
