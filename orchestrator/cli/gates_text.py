"""What `verify` measured beside the limits, as tables: of all candidates, and of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli import console
from orchestrator.spec.gates import GATES
from orchestrator.verify.gates import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.artifacts.decision import DecidedCandidate
    from orchestrator.artifacts.verdict import Accuracy, GateResult

__all__ = ["gates_table", "verification_table"]


def verification_table(candidates: Sequence[DecidedCandidate]) -> list[str]:
    """A row for each candidate that was verified, with the gates that a spec can set; of several outputs the closest to the limit."""
    verified = [c for c in candidates if c.gates]
    named = [name for name in GATES if any(g.gate == name for c in verified for g in c.gates)]
    judged = any(c.accuracy for c in verified)
    if not named:
        return []
    rows = [
        (
            candidate.candidate,
            *(_closest(candidate.gates, name) for name in named),
            *([_accuracy(candidate.accuracy)] if judged else []),
        )
        for candidate in verified
    ]
    header = ("verified", *named, *(["accuracy (original)"] if judged else []))
    return ["", console.table(header, rows)]


def gates_table(gates: Sequence[GateResult], accuracy: Mapping[str, Accuracy]) -> list[str]:
    """A row for each gate and output of one candidate, and its accuracy."""
    rows = [(g.gate, g.output, g.comparison, "passed" if g.passed else "failed", g.case) for g in gates]
    lines = [console.table(("gate", "output", "value and limit", "", "closest in"), rows)]
    return lines + [
        f"accuracy of {output}: {_accuracy({output: each})} of the samples have their label as top class; not a gate"
        for output, each in accuracy.items()
    ]


def _closest(gates: Sequence[GateResult], name: str) -> str:
    found = nearest(gates, name)
    return "" if found is None else found.comparison


def _accuracy(accuracy: Mapping[str, Accuracy]) -> str:
    return ", ".join(f"{each.variant:.2%} ({each.baseline:.2%})" for each in accuracy.values())
