"""The base of every target's section of the spec: its keys under `deploy:`, and what the target supports."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.spec.strict import Strict

__all__ = ["DeploySection"]


class DeploySection(Strict):
    """The keys of one target: all that code outside the target's folder may know of it.

    Attributes:
        target: the target's name, a literal in each target's own section.
        takes_unserved: whether models without a server can be deployed there: their reader brings the runtime.
        starts_here: whether it starts the server on this machine, so that a backend whose server cannot be started here must
            not win.
        takes_image: whether it starts images: as `built`, by the engine that built them, or as `pushed` to `image.registry`, if the
            spec names one.
    """

    takes_unserved: ClassVar[bool] = False
    starts_here: ClassVar[bool] = False
    takes_image: ClassVar[Literal["no", "built", "pushed"]] = "no"

    target: str
