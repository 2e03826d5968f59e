"""Who is left to be measured: a measurement that cannot change the outcome is not made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.verdict import Verdict
from orchestrator.measure.finalists import finalists
from orchestrator.plan.step import Step
from orchestrator.steps.roles import is_verdict

__all__ = ["nobody_to_measure"]


def nobody_to_measure(step: Step, inputs: Mapping[str, Path]) -> str:
    """Why nobody is left whom the step could measure; empty if somebody is, or if it measures nobody.

    Args:
        step: one with `contenders`.
        inputs: role → folder, of its inputs from steps that are done.

    Raises:
        DocumentRefused: a step left something else than its document.
    """
    if step.contenders == "verified":
        verdicts = (Verdict.read(folder) for role, folder in inputs.items() if is_verdict(role))
        if not any(verdict.passed for verdict in verdicts):
            return "no candidate passed verification, so there is nothing to measure"
    if step.contenders == "finalists":
        chosen, _ = finalists(RuntimeReport.read(inputs["runtime"]).candidates, step.params["objective"])
        if not chosen:
            return "no candidate can win after the runtime benchmark, so no server is measured"
    return ""
