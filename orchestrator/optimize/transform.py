"""How a conversion or a pass is made: a step function by name, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.steps.pass_options import AnyPassOptions

__all__ = ["Transform", "Unsupported"]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A combination that is not tried, and why, in one sentence without a full stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Transform:
    """How something is made: a step function by name, and the packages whose versions its result depends on.

    Attributes:
        function: `module:function`; takes a StepContext. None if the converted file is already the variant.
        tools: names of distributions.
        revision: increased when the function's results or refusals change, so that older results are computed again.
        from_source: the function starts from the source model (inputs `weights` and `import`), not from the converted
            variant (inputs `model` and `import`).
        needs_cpu_features: whether the result depends on the machine's instruction sets.
        as_given: whether the result is the original model, the baseline, which is served if no candidate is better. The
            format is the source's own, or replaces one that no server supports.
        not_from: kinds of sources that it is not made from, each with the reason.
        options: the class of what it can vary; None for one that has no options.
    """

    function: str | None
    tools: tuple[str, ...] = ()
    revision: int = 1
    from_source: bool = False
    needs_cpu_features: bool = False
    as_given: bool = False
    not_from: Mapping[str, str] = field(default_factory=dict)
    options: type[AnyPassOptions] | None = None
