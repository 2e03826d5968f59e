"""The base of every target's section of the spec: its keys under `deploy:`, and what the target supports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import AfterValidator, Field

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import Duration, Percent

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.diagnostics import Span

__all__ = ["NO_CONTAINERS", "Canary", "DeploySection", "SpanOf", "Strategy"]


class SpanOf(Protocol):
    """Finds the place in the spec of the value at a path, or of its key."""

    def __call__(self, path: tuple[str | int, ...], *, key: bool = False) -> Span:
        """The position of the deepest value on `path` that is there; of its key if `key` is set."""


NO_CONTAINERS = frozenset({"values.yaml", "compose.yaml", "container.json"})
"""What says how containers are run, for `ignores` of targets without any."""


def _ascending(steps: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError("expected ascending percentages, such as [10%, 50%]")
    return steps


class Canary(Strict):
    """A new revision takes a growing share of the traffic beside the one that serves, and is compared with it at each step."""

    steps: Annotated[list[Percent], Field(min_length=1, max_length=10), AfterValidator(_ascending)] = Field(
        description="The shares, ascending; after the last one, it takes over.", examples=[["10%", "50%"]]
    )
    hold: Duration = Field(default=60.0, description="How long each step lasts at least.", examples=["5m"])


class Strategy(Strict):
    """How a new revision takes over from the one that serves."""

    canary: Canary = Field(description="By steps; a rollback and a first release are made without.")


class DeploySection(Strict):
    """The keys of one target: all that code outside the target's folder may know of it.

    Attributes:
        target: the target's name, a literal in each target's own section.
        takes_unserved: whether models without a server can be deployed there: their reader brings the runtime.
        starts_here: whether it starts the server on this machine, so that a backend whose server cannot be started here must
            not win.
        takes_image: whether it starts images: as `built`, by the engine that built them, or as `pushed` to `image.registry`, if the
            spec names one.
        takes_shares: whether it can split the traffic between two revisions, so that `strategy` can have steps.
        replicated: whether it can run several replicas.
        ignores: files and folders at the top of the rendered tree that it does not use: only with them changed, it is the same
            release.
        extra: the extra of mlo that it needs; empty for none.
        checks_here: whether the target's `check` looks at this machine alone, in milliseconds, so that `mlo plan` does it too.
        needs_registry: whether images must be pushed, so that the spec must name `image.registry`.
    """

    takes_unserved: ClassVar[bool] = False
    starts_here: ClassVar[bool] = False
    takes_shares: ClassVar[bool] = False
    takes_image: ClassVar[Literal["no", "built", "pushed"]] = "no"
    replicated: ClassVar[bool] = True
    ignores: ClassVar[frozenset[str]] = frozenset()
    extra: ClassVar[str] = ""
    checks_here: ClassVar[bool] = False
    needs_registry: ClassVar[bool] = False

    target: str
    strategy: Strategy | None = Field(
        default=None,
        description="How a new revision takes over; by default at once, when it is proven.",
    )

    def problems(self, span_of: SpanOf) -> Iterator[Diagnostic]:
        """Errors and warnings that types cannot express, with their places in the spec."""
        if self.strategy is not None and not self.takes_shares:
            yield Diagnostic(
                "E623",
                f"the target `{self.target}` cannot split the traffic",
                span_of(("deploy", "strategy"), key=True),
                label="would send a share of the requests to a new revision",
                cause="the target sends all requests to one revision, which is proven by golden requests before",
                remedy="remove it, or deploy with `target: kubernetes`",
                at=("deploy", "strategy"),
            )

    def claims(self, base: Path) -> Mapping[str, str]:  # noqa: ARG002 - of the section itself
        """What no other deployment can have as well, by its key: `{"path": "the folder /srv/digits"}`; nothing by default.

        Args:
            base: the spec's folder.
        """
        return {}

    @property
    def weighs_requests(self) -> bool:
        """Whether shares of the traffic are exact, and not as many pods as come nearest to them."""
        return False

    @property
    def passes_tls(self) -> bool:
        """Whether what is before the server lets clients, and itself, speak TLS with it."""
        return True

    def among(self, spec: Any, environments: Mapping[str, Any]) -> Self:  # noqa: ARG002 - specs are made of sections
        """The same section, for a target that deploys several environments at once.

        Args:
            spec: the ModelDeployment that the section is of.
            environments: the spec of every environment; none if `spec` is that of one.
        """
        return self
