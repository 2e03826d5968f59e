"""Loads a spec: reads it, merges platform defaults and the environment, validates it, and reports every problem at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.errors import SpecInvalid
from orchestrator.spec.batch_dimension import declared_batch
from orchestrator.spec.checks import checked
from orchestrator.spec.document import SpecDocument, SpecPath, find, read_document, span_of
from orchestrator.spec.layers import fixed_keys, overlaid, relabelled, without
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.places import did_you_mean
from orchestrator.spec.schema import json_schema
from orchestrator.spec.types import ENVIRONMENT_NAME, EXPECTS
from orchestrator.spec.validation import in_order, validated
from orchestrator.spec.yaml_tree import SPEC, Layer, Node, quoted

if TYPE_CHECKING:
    from orchestrator.spec.platform import Platform, Rules

__all__ = ["LoadedSpec", "Origin", "load_spec"]

_PLATFORM_FILE = "mlo-platform.yaml"
_MOST_ENVIRONMENTS = 16


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value is written: in a layer, on a line of its file."""

    layer: Layer
    line: int

    def __str__(self) -> str:
        """As messages have it: `spec line 12`, `platform FILE line 3`, `environment NAME line 30`."""
        return f"{self.layer} line {self.line}"


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec and where it came from.

    Attributes:
        spec: the effective spec, merged with platform defaults and the environment.
        document: the spec's file.
        folder: the spec's folder, absolute; paths in the spec are relative to it.
        warnings: what is valid but doubtful.
        environment: the chosen environment's name.
        bounds: the platform that was applied, if any.
        tree: the effective values, each with its position.
        environments: the effective spec of every environment; none if one was chosen.
    """

    spec: ModelDeployment
    document: SpecDocument
    folder: Path
    warnings: tuple[Diagnostic, ...]
    environment: str | None
    bounds: Platform | None
    tree: Node
    environments: Mapping[str, ModelDeployment]

    @property
    def platform(self) -> Path | None:
        """The platform file that was applied."""
        return None if self.bounds is None else self.bounds.file

    @property
    def rules(self) -> Rules | None:
        """That platform's rules."""
        return None if self.bounds is None else self.bounds.rules

    @cached_property
    def digest(self) -> str:
        """sha256 of the effective spec as canonical JSON, in hex: independent of comments, key order and notation."""
        values = self.spec.model_dump(mode="json")
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return sha256(text.encode()).hexdigest()

    def span(self, path: SpecPath, *, key: bool = False) -> Span:
        """The position of the deepest value on `path` that a file sets; of its key if `key` is set."""
        return span_of(self.tree, path, key=key)

    def located(self, diagnostic: Diagnostic) -> Diagnostic:
        """The diagnostic with the line of the spec that its path `at` leads to."""
        return replace(diagnostic, span=self.span(diagnostic.at))

    def origin(self, path: SpecPath | str) -> Origin | None:
        """Where the value at `path` (`("hardware", "cpus")` or `"hardware.cpus"`) is written; None for a default."""
        if isinstance(path, str):
            path = tuple(int(part) if part.isdecimal() else part for part in path.split("."))
        found = find(self.tree, path)
        if found.depth < len(path) and found.node.entries is not None:
            return None
        return Origin(found.node.layer, found.node.line)


def load_spec(path: str | Path, *, platform: Path | None = None, environment: str | None = None) -> LoadedSpec:
    """Read and check a spec.

    Args:
        path: the spec's file.
        platform: the platform file; by default the nearest `mlo-platform.yaml` in the spec's folder or its parents.
        environment: which of the spec's `environments` to apply.

    Raises:
        SpecInvalid: with all problems, in file order.
    """
    document = read_document(path, SPEC)
    folder = Path(path).absolute().parent
    _refuse_platform_file(document, path)
    bounds = _platform(platform, folder)
    environments, problems = _environments(document.root)
    problems += document.problems
    if environment is not None and environment not in environments:
        problems.append(_unknown_environment(document.root, environment, environments))
    base = without(document.root, "environments")
    if bounds is not None and bounds.defaults is not None:
        base = overlaid(bounds.defaults, base)
    chosen = base if environment not in environments else overlaid(base, environments[environment])
    tree, spec, found = _evaluated(chosen, bounds, folder)
    problems += found
    specs: dict[str, ModelDeployment] = {}
    for name, overlay in environments.items():
        if name != environment:
            _, other, others = _evaluated(overlaid(base, overlay), bounds, folder)
            if other is not None:
                specs[name] = other
            problems += [
                replace(each, notes=(*each.notes, f"environment: {name}")) for each in others if each not in found
            ]
    problems = in_order(problems)
    if spec is None or any(each.severity == "error" for each in problems):
        raise SpecInvalid(*problems)
    return LoadedSpec(
        spec=_with_fitting_batch_sizes(spec, tree),
        document=document,
        folder=folder,
        warnings=tuple(problems),
        environment=environment,
        bounds=bounds,
        tree=tree,
        environments={} if environment is not None else specs,
    )


def _refuse_platform_file(document: SpecDocument, path: str | Path) -> None:
    kind = document.root.child("kind")
    if kind is not None and kind.data == "Platform":
        from orchestrator.spec.platform import load_platform  # noqa: PLC0415 - most specs have no platform file

        load_platform(path)  # its own problems come first
        message = f"{document.file} is a platform file, not a spec"
        remedy = "the platform file is valid; pass it as `--platform`, or validate a spec in this folder or below"
        raise SpecInvalid(Diagnostic("E112", message, kind.span, remedy=remedy))


def _platform(given: Path | None, folder: Path) -> Platform | None:
    found = given or _nearest_platform_file(folder)
    if found is None:
        return None
    from orchestrator.spec.platform import load_platform  # noqa: PLC0415 - most specs have no platform file

    here = Path.cwd()
    shown = found.relative_to(here) if given is None and found.is_relative_to(here) else found
    return load_platform(found, str(shown))


def _nearest_platform_file(folder: Path) -> Path | None:
    """The platform file in `folder` or the nearest above it."""
    above = (each / _PLATFORM_FILE for each in (folder, *folder.parents))
    return next((file for file in above if file.is_file()), None)


def _environments(root: Node) -> tuple[dict[str, Node], list[Diagnostic]]:
    """The overlays by name, and problems with the section itself."""
    section = root.child("environments")
    if section is None:
        return {}, []
    if section.entries is None:
        message = "`environments` must be a mapping of names to overlays"
        span = span_of(root, ("environments",), key=True)
        return {}, [
            Diagnostic(
                "E104",
                message,
                span,
                remedy="add an entry such as `staging: {hardware: {cpus: 1}}`, or remove the section",
            )
        ]
    overlays: dict[str, Node] = {}
    problems: list[Diagnostic] = []
    for name, entry in section.entries.items():
        if len(overlays) == _MOST_ENVIRONMENTS:
            problems.append(Diagnostic("E107", f"more than {_MOST_ENVIRONMENTS} environments", entry.span))
            break
        if not re.fullmatch(ENVIRONMENT_NAME, name):
            label = f"use {EXPECTS[ENVIRONMENT_NAME]}"
            problems.append(Diagnostic("E105", f"{quoted(name)} is not a valid environment name", entry.span, label))
        elif entry.value.entries is None:
            message = f"environment `{name}` must be a mapping of keys to values"
            remedy = "add sections of the spec to it, or remove it"
            problems.append(Diagnostic("E104", message, entry.span, remedy=remedy))
        else:
            fixed = fixed_keys(entry.value, "an environment")
            problems += fixed
            if not fixed:
                overlays[name] = relabelled(entry.value, Layer("environment", name))
    return overlays, problems


def _unknown_environment(root: Node, name: str, environments: dict[str, Node]) -> Diagnostic:
    known = ", ".join(environments)
    return Diagnostic(
        "E134",
        f"the spec has no environment {quoted(name)}",
        span_of(root, ("environments",), key=True) if "environments" in (root.entries or {}) else None,
        label=did_you_mean(name, environments),
        remedy=f"choose one of {known}" if known else "add a section `environments`, or omit `--environment`",
    )


def _evaluated(
    tree: Node, bounds: Platform | None, folder: Path
) -> tuple[Node, ModelDeployment | None, list[Diagnostic]]:
    """The effective tree and its spec, or its problems."""
    if bounds is None:
        spec, found = validated(tree, ModelDeployment, json_schema)
        return tree, spec, found if spec is None else checked(spec, tree, folder)
    from orchestrator.spec.platform_rules import narrowed, violations  # noqa: PLC0415 - most specs have no platform file

    tree = narrowed(tree, bounds)
    spec, found = validated(tree, ModelDeployment, json_schema)
    if spec is not None:
        found = checked(spec, tree, folder) + violations(spec, tree, bounds)
    return tree, spec, found


def _with_fitting_batch_sizes(spec: ModelDeployment, tree: Node) -> ModelDeployment:
    """Default batch sizes are limited to the range of the batch dimension."""
    if find(tree, ("benchmark", "batch_sizes")).depth == 2:
        return spec
    if not spec.model.inputs:
        return spec  # known once the model has been read
    batch = declared_batch(spec).name
    allowed = None if batch is None else spec.model.dims[batch]
    sizes = spec.benchmark.batch_sizes
    fitting = [1]
    if allowed is not None:
        (low, high), step = allowed.bounds, allowed.multiple_of
        fitting = sorted({max(low, min(size, high) // step * step) for size in sizes})
    return spec.model_copy(update={"benchmark": spec.benchmark.model_copy(update={"batch_sizes": fitting})})
