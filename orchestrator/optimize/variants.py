"""What competes: variants (a format and the passes that made it) and candidates (a variant, a backend and its options)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.backends.table import backends_of
from orchestrator.optimize.formats import Transform
from orchestrator.spec.models import Precision
from orchestrator.steps.parameters import CandidateParameters
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, RuntimeOptions
from orchestrator.store.atomic import canonical_json
from orchestrator.store.digest import sha256_bytes

__all__ = ["Candidate", "Pass", "RefusedCandidate", "Variant"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One step that makes a variant from a converted model, or from an earlier pass's output.

    Attributes:
        name: such as `int8`.
        transform: what makes it.
        parameters: the pass's own, plain JSON.
    """

    name: str
    transform: Transform
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Its name, with the parameters where there are any: `int8:percentile=99.9`."""
        return self.name + "".join(f":{name}={value}" for name, value in sorted(self.parameters.items()))


@dataclass(frozen=True, slots=True)
class Variant:
    """A model file in one format, and how it is made.

    Attributes:
        conversion: how the format is made from the source.
        passes: in order; none for the converted file itself.
        precision: of the result's arithmetic.
    """

    format: str
    conversion: Transform
    passes: tuple[Pass, ...] = ()
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """Readable and unique in a plan: `onnx-fp32`, `onnx-int8`."""
        return "-".join((self.format, *map(str, self.passes))) if self.passes else f"{self.format}-{self.precision}"

    @property
    def as_given(self) -> bool:
        """Whether it is the model as given."""
        return self.conversion.as_given and not self.passes

    @property
    def steps(self) -> tuple[str, ...]:
        """The ids of the steps that make it; the last one's output is the variant."""
        optimized = (
            f"optimize.{'-'.join((self.format, *map(str, self.passes[:count])))}"
            for count in range(1, len(self.passes) + 1)
        )
        return (f"convert.{self.format}", *optimized)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that may be deployed: a variant, the backend that serves it, and how the backend runs it."""

    variant: Variant
    backend: str
    options: RuntimeOptions = DEFAULT_OPTIONS

    @property
    def name(self) -> str:
        """The variant's name, `@backend` where that is not the usual one, and the options that are not the defaults."""
        usual = backends_of(self.variant.format)[0]
        at = "" if self.backend == usual else f"@{self.backend}"
        return f"{self.variant.name}{at}{self.options.suffix()}"

    @property
    def identity(self) -> str:
        """The sha256 of its content, without its name: two candidates of one identity are the same."""
        variant = self.variant
        content = {
            "format": variant.format,
            "conversion": _made_by(variant.conversion),
            "passes": [{**_made_by(each.transform), "parameters": dict(each.parameters)} for each in variant.passes],
            "precision": variant.precision,
            "backend": self.backend,
            "options": self.parameters().as_json()["options"],
        }
        return sha256_bytes(canonical_json(content))

    @property
    def steps(self) -> tuple[str, ...]:
        """The ids of the steps that make and verify it."""
        return (*self.variant.steps, f"verify.{self.name}")

    def parameters(self) -> CandidateParameters:
        """What the steps that verify, measure and select get."""
        return CandidateParameters(
            candidate=self.name,
            variant=self.variant.name,
            format=self.variant.format,
            precision=self.variant.precision,
            backend=self.backend,
            options=self.options,
            as_given=self.variant.as_given,
        )


@dataclass(frozen=True, slots=True)
class RefusedCandidate:
    """A candidate that is not tried at all, and why."""

    candidate: str
    variant: str
    format: str
    precision: Precision
    backend: str
    reason: str


def _made_by(transform: Transform) -> dict[str, Any]:
    return {"function": transform.function, "revision": transform.revision}
