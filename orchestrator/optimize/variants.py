"""Variants (a format and the passes that make it) and candidates (a variant, a backend and its options)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.backends.table import backends_of
from orchestrator.optimize.transform import Transform
from orchestrator.spec.gates import Precision
from orchestrator.steps.parameters import CandidateParameters
from orchestrator.steps.pass_options import AnyPassOptions
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, RuntimeOptions
from orchestrator.store.atomic import canonical_json
from orchestrator.store.digest import sha256_bytes

__all__ = ["Candidate", "Pass", "RefusedCandidate", "Variant", "distinct"]

_PASS_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
_LONGEST_NAME = 120
"""Characters; a file's name may have 255 bytes, and names of steps and logs have some more."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A step that makes a variant from a converted model, or from the output of an earlier pass.

    Attributes:
        name: such as `int8`: lower-case letters, digits and hyphens, at most 24.
        transform: what makes it.
        options: of the class that the transform names; without them its defaults, and None where it has none.

    Raises:
        ValueError: the name has other characters, or the options are not those of the transform.
    """

    name: str
    transform: Transform
    options: AnyPassOptions | None = None

    def __post_init__(self) -> None:
        """Complete and check the options."""
        if not _PASS_NAME.fullmatch(self.name):
            raise ValueError(f"a pass cannot be called {self.name!r}: use a-z, 0-9 and hyphens, at most 24")
        wanted = self.transform.options
        if self.options is None and wanted is not None:
            object.__setattr__(self, "options", wanted())
        if type(self.options) is not (wanted or type(None)):
            takes = "has no options" if wanted is None else f"takes {wanted.__name__}"
            raise ValueError(f"the pass {self.name} {takes}, not {type(self.options).__name__}")

    def __str__(self) -> str:
        """Its name, with the options that are not the defaults: `int8:percentile=99.9`."""
        return self.name + ("" if self.options is None else self.options.suffix())


@dataclass(frozen=True, slots=True)
class Variant:
    """A model file in one format, made by a conversion and passes.

    Attributes:
        conversion: the conversion of the source to the format.
        passes: in order; none for the converted file itself.
        precision: of the result's arithmetic.
        stages: the names of what its passes make one after the other, `onnx-int8`; the last is its own.
        name: readable and unique in a plan: `onnx-fp32`, `onnx-int8`, `onnx-int8:percentile=99.9`.
    """

    format: str
    conversion: Transform
    passes: tuple[Pass, ...] = ()
    precision: Precision = "fp32"
    stages: tuple[str, ...] = field(init=False, compare=False, repr=False)
    name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Make the names once, since planning asks for them a hundred times."""
        stages = tuple(_made_name(self.format, self.passes[:end]) for end in range(1, len(self.passes) + 1))
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "name", stages[-1] if stages else f"{self.format}-{self.precision}")

    @property
    def identity(self) -> str:
        """The sha256 of its conversion and passes, without its name."""
        return sha256_bytes(canonical_json(self._content()))

    @property
    def as_given(self) -> bool:
        """Whether it is the model as given."""
        return self.conversion.as_given and not self.passes

    @property
    def steps(self) -> tuple[str, ...]:
        """The ids of the steps that make it; the last one's output is the variant."""
        return (f"convert.{self.format}", *(f"optimize.{stage}" for stage in self.stages))

    def _content(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "conversion": _made_by(self.conversion),
            "passes": [
                {**_made_by(each.transform), "options": None if each.options is None else each.options.as_json()}
                for each in self.passes
            ],
            "precision": self.precision,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible deployment: a variant, the backend that serves it, and the backend's runtime options.

    Attributes:
        name: the variant's name, `@backend` where that is not the usual one, and the options that are not the defaults.
    """

    variant: Variant
    backend: str
    options: RuntimeOptions = DEFAULT_OPTIONS
    name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Make the name once, as that of a variant."""
        usual = backends_of(self.variant.format)[0]
        at = "" if self.backend == usual else f"@{self.backend}"
        object.__setattr__(self, "name", _bounded(f"{self.variant.name}{at}{self.options.suffix()}"))

    @property
    def identity(self) -> str:
        """The sha256 of its content, without its name: two candidates of one identity are the same."""
        options = self.parameters().as_json()["options"]
        content = {"variant": self.variant.identity, "backend": self.backend, "options": options}
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
    """A candidate that is not tried, and the reason."""

    candidate: str
    variant: str
    format: str
    precision: Precision
    backend: str
    reason: str


def distinct(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates in their order, equal ones once.

    Raises:
        ValueError: two that differ, or two variants that differ, have one name. Their steps and rows could not be told apart.
    """
    found: dict[str, Candidate] = {}
    variants: dict[str, Variant] = {}
    for each in candidates:
        known, variant = found.setdefault(each.name, each), variants.setdefault(each.variant.name, each.variant)
        # Equal values have equal identities, which are digests and cost more.
        if known == each and variant == each.variant:
            continue
        if known.identity != each.identity or variant.identity != each.variant.identity:
            other = known if known.identity != each.identity else variant
            raise ValueError(f"two different candidates have the name {each.name}: {other} and {each}")
    return tuple(found.values())


def _made_name(format_name: str, passes: Iterable[Pass]) -> str:
    return _bounded("-".join((format_name, *map(str, passes))))


def _bounded(name: str) -> str:
    """The name; a long one ends in a digest of the whole, since names become those of files."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 13]}-{sha256_bytes(name.encode())[:12]}"


def _made_by(transform: Transform) -> dict[str, Any]:
    return {"function": transform.function, "revision": transform.revision}
