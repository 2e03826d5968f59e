"""The base of every target's section of the spec: its keys under `deploy:`, and what the target supports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from orchestrator.spec.strict import Strict

if TYPE_CHECKING:
    from orchestrator.diagnostics import Diagnostic, Span

__all__ = ["NO_CONTAINERS", "DeploySection", "SpanOf"]


class SpanOf(Protocol):
    """Finds the place in the spec of the value at a path, or of its key."""

    def __call__(self, path: tuple[str | int, ...], *, key: bool = False) -> Span:
        """The position of the deepest value on `path` that is there; of its key if `key` is set."""


NO_CONTAINERS = frozenset({"values.yaml", "compose.yaml", "container.json"})
"""What says how containers are run, for `ignores` of targets without any."""


class DeploySection(Strict):
    """The keys of one target: all that code outside the target's folder may know of it.

    Attributes:
        target: the target's name, a literal in each target's own section.
        takes_unserved: whether models without a server can be deployed there: their reader brings the runtime.
        starts_here: whether it starts the server on this machine, so that a backend whose server cannot be started here must
            not win.
        takes_image: whether it starts images: as `built`, by the engine that built them, or as `pushed` to `image.registry`, if the
            spec names one.
        takes_tls: whether a server with a certificate (`serving.tls`) can be deployed there.
        replicated: whether it can run several replicas.
        ignores: files and folders at the top of the rendered tree that it does not use: only with them changed, it is the same
            release.
        extra: the extra of mlo that it needs; empty for none.
        checks_here: whether the target's `check` looks at this machine alone, in milliseconds, so that `mlo plan` does it too.
        needs_registry: whether images must be pushed, so that the spec must name `image.registry`.
    """

    takes_unserved: ClassVar[bool] = False
    starts_here: ClassVar[bool] = False
    takes_tls: ClassVar[bool] = False
    takes_image: ClassVar[Literal["no", "built", "pushed"]] = "no"
    replicated: ClassVar[bool] = True
    ignores: ClassVar[frozenset[str]] = frozenset()
    extra: ClassVar[str] = ""
    checks_here: ClassVar[bool] = False
    needs_registry: ClassVar[bool] = False

    target: str

    def problems(self, span_of: SpanOf) -> Iterator[Diagnostic]:  # noqa: ARG002
        """Errors and warnings that types cannot express, with their places in the spec."""
        yield from ()

    def among(self, spec: Any, environments: Mapping[str, Any]) -> Self:  # noqa: ARG002 - specs are made of sections
        """The same section, for a target that deploys several environments at once.

        Args:
            spec: the ModelDeployment that the section is of.
            environments: the spec of every environment; none if `spec` is that of one.
        """
        return self
