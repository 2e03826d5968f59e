"""Checks a spec against the limits and rules of its platform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from orchestrator.backends.table import SERVERS
from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.spec.document import SpecPath, find, span_of
from orchestrator.spec.layers import overlaid
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.places import did_you_mean
from orchestrator.spec.platform import Platform
from orchestrator.spec.quantities import size_text
from orchestrator.spec.yaml_tree import Entry, Node, quoted

__all__ = ["narrowed", "violations"]


def narrowed(root: Node, platform: Platform) -> Node:
    """The spec's tree with `auto` replaced where the platform's rules restrict it.

    The allowed formats replace `optimize.formats: auto`; a single allowed backend replaces `serving.backend: auto`. With
    several backends, or one without a server, the planner refuses the candidates that the rule excludes.
    """
    rules = platform.root.child("rules")
    formats = None if rules is None else rules.child("formats")
    backends = None if rules is None else rules.child("backends")
    backend = backends.child(0) if backends is not None and len(backends.items or ()) == 1 else None
    if backend is not None and backend.data not in SERVERS:
        backend = None
    for path, node in ((("optimize", "formats"), formats), (("serving", "backend"), backend)):
        found = find(root, path)
        if node is not None and (found.depth < len(path) or found.node.data == "auto"):
            section = root.child(path[0])
            if (
                section is None or section.entries is not None
            ):  # otherwise the section is invalid, which is reported separately
                root = overlaid(root, _nested(path, node))
    return root


def _nested(path: tuple[str, ...], node: Node) -> Node:
    for key in reversed(path):
        entry = Entry(key, node.source, node.start, node.end, node)
        node = replace(node, data={key: node.data}, entries={key: entry}, items=None)
    return node


def violations(spec: ModelDeployment, root: Node, platform: Platform) -> list[Diagnostic]:
    """Where the spec violates its platform; each error has a note with the location of the rule."""
    return [*_limits(spec, root, platform), *_choices(spec, root, platform), *_required(spec, root, platform)]


def _span(root: Node, path: SpecPath) -> Span:
    """The line that sets the value, or the line of the deployment's name if the value is a default."""
    return span_of(root, path if find(root, path).depth == len(path) else ("metadata", "name"))


def _note(platform: Platform, section: Literal["limits", "rules"], key: str) -> tuple[str, ...]:
    return (f"platform: {platform.shown}:{platform.line_of(section, key)}",)


def _limits(spec: ModelDeployment, root: Node, platform: Platform) -> Iterator[Diagnostic]:
    limits, hardware = platform.limits, spec.hardware
    # path, key of the limit, value, limit, both as text
    rows: list[tuple[SpecPath, str, float, float | None, str, str]] = [
        (("hardware", "cpus"), "cpus", hardware.cpus, limits.cpus, f"{hardware.cpus:g}", f"{limits.cpus or 0:g}"),
        (("hardware", "memory"), "memory", hardware.memory, limits.memory, size_text(hardware.memory), size_text(limits.memory or 0)),
        (("serving", "replicas", "max"), "replicas", spec.serving.replicas.max, limits.replicas,
         str(spec.serving.replicas.max), str(limits.replicas)),
        (("hardware", "count" if hardware.count > 1 else "accelerator"), "accelerators", hardware.devices, limits.accelerators,
         str(hardware.devices) if hardware.count > 1 else hardware.accelerator, str(limits.accelerators)),
    ]  # fmt: skip
    for path, key, asked, most, asked_words, most_words in rows:
        if most is not None and asked > most:
            yield Diagnostic(
                "E131",
                f"`{'.'.join(map(str, path))}` is {asked_words}, but the platform allows at most {most_words}",
                _span(root, path),
                remedy=f"set it to {most_words} or less" if most else "remove it",
                notes=_note(platform, "limits", key),
            )


def _choices(spec: ModelDeployment, root: Node, platform: Platform) -> Iterator[Diagnostic]:
    rules, optimize = platform.rules, spec.optimize
    chosen: list[tuple[SpecPath, str, str | None, Iterable[str] | None]] = [
        (("model", "source", "kind"), "source_kinds", spec.model.source.kind, rules.source_kinds),
        (("serving", "backend"), "backends", None if spec.serving.backend == "auto" else spec.serving.backend, rules.backends),
        (("deploy", "target"), "targets", spec.deploy.target, rules.targets),
    ]  # fmt: skip
    if optimize.formats != "auto":
        chosen += [(("optimize", "formats", i), "formats", f, rules.formats) for i, f in enumerate(optimize.formats)]
    for path, key, value, allowed in chosen:
        if allowed is not None and value is not None and value not in allowed:
            yield _not_allowed(root, platform, path, key, value, allowed)
    registry, base = spec.image.registry, spec.image.base
    if rules.registries is not None and registry is not None and not any(_below(registry, r) for r in rules.registries):
        yield _not_allowed(root, platform, ("image", "registry"), "registries", registry, rules.registries)
    if rules.base_images is not None and base is not None and not any(_is_image(base, b) for b in rules.base_images):
        yield _not_allowed(root, platform, ("image", "base"), "base_images", base, rules.base_images)


def _below(registry: str, allowed: str) -> bool:
    return registry == allowed or registry.startswith(allowed + "/")


def _is_image(base: str, allowed: str) -> bool:
    """Whether `base` is `allowed`, or a tag or digest of it where `allowed` leaves these open."""
    if base == allowed:
        return True
    if "@" in allowed:
        return False
    if ":" in allowed.rpartition("/")[2]:  # a tag, not a registry's port
        return base.startswith(allowed + "@")
    return base.startswith((allowed + ":", allowed + "@"))


def _not_allowed(
    root: Node, platform: Platform, path: SpecPath, key: str, value: str, allowed: Iterable[str]
) -> Diagnostic:
    options = list(allowed)
    return Diagnostic(
        "E130",
        f"the platform does not allow {quoted(value)}",
        _span(root, path),
        label=did_you_mean(value, options),
        remedy=f"allowed: {', '.join(options)}" if options else "remove it; the platform allows none",
        notes=_note(platform, "rules", key),
    )


def _required(spec: ModelDeployment, root: Node, platform: Platform) -> Iterator[Diagnostic]:
    name = span_of(root, ("metadata", "name"))
    rules = platform.rules
    for label in rules.required_labels:
        if not spec.metadata.labels.get(label):
            yield Diagnostic(
                "E132",
                f"the platform requires the label `{label}`",
                name,
                remedy=f"add `labels: {{{label}: ...}}` under `metadata`",
                notes=_note(platform, "rules", "required_labels"),
            )
    for gate in rules.required_gates:
        if not spec.verify.sets(gate):
            yield Diagnostic(
                "E132",
                f"the platform requires the gate `{gate}`",
                name,
                remedy=f"add `verify: {{{gate}: ...}}`",
                notes=_note(platform, "rules", "required_gates"),
            )
    if rules.base_images and spec.image.base is None and not spec.only_for_devices:
        yield Diagnostic(
            "E132",
            "the platform requires an approved base image",
            name,
            remedy=f"add `image: {{base: {rules.base_images[0]}}}`",
            notes=_note(platform, "rules", "base_images"),
        )
