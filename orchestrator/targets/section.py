"""The base of every target's section of the spec: what stands under `deploy:`, and what the target can take."""

from __future__ import annotations

from typing import ClassVar

from orchestrator.spec.strict import Strict

__all__ = ["DeploySection"]


class DeploySection(Strict):
    """The keys of one target. It is all that code outside of a target's folder may know of it.

    Attributes:
        target: the target's name, a literal in each target's own section.
        takes_unserved: whether models that no server takes can go there: whoever reads them brings the runtime.
    """

    takes_unserved: ClassVar[bool] = False

    target: str
