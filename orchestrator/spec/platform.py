"""Platform files: what a platform team sets for all specs. A spec may override the defaults, not the limits and rules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.spec.document import read_document
from orchestrator.spec.gates import GATES
from orchestrator.spec.layers import fixed_keys, overlaid, without
from orchestrator.spec.models import BackendName, DeployTarget, Format, ModelDeployment
from orchestrator.spec.schema import closed, json_schema, partial
from orchestrator.spec.source_models import SourceKind
from orchestrator.spec.source_text import SourceText
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import Cpus, ImageRef, LabelKey, Name, RegistryPrefix, Size
from orchestrator.spec.validation import in_order, validated
from orchestrator.spec.yaml_tree import SPEC, Layer, Node, parse_tree

__all__ = [
    "Limits",
    "Platform",
    "Rules",
    "load_platform",
    "platform_schema",
]

if TYPE_CHECKING:
    GateName = str
else:
    GateName = Literal[tuple(GATES)]
_SKELETON = """
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: any}
model: {source: {kind: torchscript, weights: any}, inputs: [{name: x, dtype: float32, shape: []}], outputs: [{name: y}]}
"""


class Limits(Strict):
    """Upper limits for one deployment."""

    cpus: Cpus | None = None
    memory: Size | None = None
    replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    accelerators: Annotated[int, Field(ge=0, le=16)] | None = None


class Rules(Strict):
    """What a spec may choose and must set. A list that is missing allows everything."""

    registries: list[RegistryPrefix] | None = None
    base_images: list[ImageRef] | None = None
    backends: Annotated[list[BackendName], Field(min_length=1)] | None = None
    source_kinds: Annotated[list[SourceKind], Field(min_length=1)] | None = None
    formats: Annotated[list[Format], Field(min_length=1)] | None = None
    targets: Annotated[list[DeployTarget], Field(min_length=1)] | None = None
    required_labels: list[LabelKey] = Field(default_factory=list)
    required_gates: list[GateName] = Field(default_factory=list)


class _About(Strict):
    """Which platform this is."""

    name: Name


class _PlatformFile(Strict):
    """A platform file without its `defaults`, which are checked as part of a spec."""

    apiVersion: Literal["mlo/v1"] = Field(examples=["mlo/v1"])  # noqa: N815 - the key's spelling in the file
    kind: Literal["Platform"] = Field(examples=["Platform"])
    metadata: _About | None = None
    limits: Limits = Field(default={}, validate_default=True)
    rules: Rules = Field(default={}, validate_default=True)


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform file that was read and checked.

    Attributes:
        file: its path.
        shown: its name in messages.
        root: the whole file.
        defaults: the partial spec that every spec starts from.
    """

    file: Path
    shown: str
    root: Node
    defaults: Node | None
    limits: Limits
    rules: Rules

    def line_of(self, section: Literal["limits", "rules"], key: str) -> int:
        """The line of one rule, counted from 1."""
        around = self.root.child(section)
        entries = (around.entries if around is not None else None) or {}
        return self.root.source.line_of(entries[key].start)


@cache
def platform_schema() -> dict[str, Any]:
    """The JSON schema of a platform file, draft 2020-12. Do not change the returned value."""
    schema = closed(_PlatformFile.model_json_schema())
    schema["properties"]["defaults"] = partial(json_schema(), json_schema()["$defs"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "mlo platform"}


def load_platform(path: str | Path, shown: str | None = None) -> Platform:
    """Read and check a platform file.

    Args:
        path: the file.
        shown: its name in messages; by default `path`.

    Raises:
        SpecInvalid: with all its problems.
    """
    shown = shown or str(path)
    document = read_document(path, Layer("platform", shown), shown)
    root = document.root
    problems = list(document.problems)
    file, found = validated(without(root, "defaults"), _PlatformFile, platform_schema)
    problems += found
    defaults = root.child("defaults")
    if defaults is not None and defaults.entries is None:
        message = "`defaults` must be a mapping of keys to values"
        problems.append(Diagnostic("E104", message, defaults.span, remedy="add sections of a spec to it, or remove it"))
    elif defaults is not None:
        problems += fixed_keys(defaults, "a platform's defaults")
        skeleton, _ = parse_tree(SourceText("", _SKELETON), SPEC)
        _, found = validated(overlaid(defaults, skeleton), ModelDeployment, json_schema)
        problems += [each for each in found if each.span is not None and each.span.file == shown]
    if problems or file is None:
        raise SpecInvalid(*in_order(problems))
    return Platform(Path(path).absolute(), shown, root, defaults, file.limits, file.rules)
