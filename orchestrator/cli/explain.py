"""`mlo explain`: an error code, a decision, a step, a candidate, or a value of the spec; a decision by its deployment's name too."""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import console
from orchestrator.cli.decision_text import candidate_text, decision_text, refusal_text
from orchestrator.cli.deployments import is_name, latest_decision
from orchestrator.cli.options import find_store, open_store, spec_options
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError

_STATES = {"cached": "has ended", "run": "is to run", "forced": "is to run", "known after run": "follows"}

if TYPE_CHECKING:
    from orchestrator.artifacts.decision import Decision
    from orchestrator.engine.planning import Planned
    from orchestrator.store.store import Store

__all__ = ["explain"]


@click.command(
    epilog="""\b
Examples:
  mlo explain E101                                     what an error code means
  mlo explain specs/digits/digits.yaml                 why the winner won
  mlo explain digits                                   the same, of the latest run under that name
  mlo explain digits memory                            why a value that it was deployed with is what it is
  mlo explain specs/digits/digits.yaml onnx-int8       why a candidate won or lost
  mlo explain specs/digits/digits.yaml convert.onnx    why a step ran, and with which inputs
  mlo explain specs/digits/digits.yaml hardware.cpus   where a value comes from
  mlo explain specs/digits/digits.yaml startupSeconds  why a value of the rendered files is what it is
"""
)
@click.argument("what", metavar="CODE|SPEC|NAME")
@click.argument("part", required=False, metavar="[STEP|CANDIDATE|KEY|VALUE]")
@spec_options
def explain(what: str, part: str | None, platform: Path | None, environment: str | None) -> None:
    """Explain what an error code means, why the winner won, why a step ran, or where a value comes from."""
    if re.fullmatch(r"[EeWw]\d{3}", what):
        from orchestrator.spec.catalogue import explain as explain_code  # noqa: PLC0415 - only for codes

        console.print_result(explain_code(what.upper()))
        return
    if is_name(what, found := find_store()):
        _explain_latest(found, what, part, platform, environment)
        return
    from orchestrator.engine.planning import make_plan  # noqa: PLC0415 - not needed for codes

    store = open_store(Path(what).parent)
    _explain_planned(make_plan(Path(what), store, platform=platform, environment=environment), store, what, part)


def _explain_planned(planned: Planned, store: Store, spec: str, part: str | None) -> None:
    """Explain the decision about a spec in its present form, or a part of its plan.

    Raises:
        UsageError: E217 it has no such part.
    """
    from orchestrator.cli.rendered_text import RENDERED, rendered_values  # noqa: PLC0415 - not needed for codes

    steps = {step.id: step for step in planned.preview.steps}
    decision = planned.decision(store)
    candidates = {} if decision is None else {c.candidate: c for c in decision.candidates}
    undecided = {} if decision is not None else _undecided(planned)
    if part is None:
        console.print_result(
            _no_decision(spec, undecided)
            if decision is None
            else _decision(decision, store, planned.output(store, "select"))
        )
    elif part in steps:
        console.print_result(_step_text(planned.explain_step(store, part)))
        if part == "render" and (values := rendered_values(planned, store)):
            console.print_result(
                "\n".join(["  rendered:", *(textwrap.indent(text, "    ") for text in values.values())])
            )
    elif part in RENDERED:
        known = rendered_values(planned, store)
        console.print_result(known.get(part, f"{part}: {_not_rendered(decision, known)}"))
    elif decision is not None and part in candidates:
        console.print_result(candidate_text(candidates[part], decision))
    elif part in undecided:
        console.print_result(undecided[part])
    elif (origin := planned.value_and_origin(part)) is not None:
        value = origin[0] if isinstance(origin[0], str) else json.dumps(origin[0], default=str)
        console.print_result(f"{part} = {value}\nfrom {origin[1]}")
    else:
        raise _unknown(part, [*steps, *candidates, *undecided, *RENDERED])


def _explain_latest(store: Store, name: str, part: str | None, platform: Path | None, environment: str | None) -> None:
    """Explain the decision of the latest run under a name, whether it was deployed or nothing won.

    All that a spec's plan has can be explained as well while the spec of what is deployed is as it was applied.

    Raises:
        UsageError: E602 there was no decision in this store; E217 it has no such candidate, nor the spec such a part.
    """
    from orchestrator.artifacts.decision import Decision  # noqa: PLC0415 - not needed for codes

    receipt = latest_decision(store, name, "explain")
    assert receipt.manifest is not None, "a decision has files"
    selected = store.trees.path(receipt.manifest.digest)
    decision = Decision.read(selected)
    candidates = {each.candidate: each for each in decision.candidates}
    if part is None:
        console.print_result(_decision(decision, store, selected))
    elif part in candidates:
        console.print_result(candidate_text(candidates[part], decision))
    elif (planned := _as_applied(store, name, platform, environment)) is not None:
        _explain_planned(planned, store, planned.loaded.document.file, part)
    else:
        close = difflib.get_close_matches(part, candidates, 1)
        near = f"did you mean `{close[0]}`?" if close else f"name one of {', '.join(candidates)}"
        raise UsageError(
            Diagnostic(
                "E217",
                f"the decision about {name} has no candidate `{part}`",
                cause="steps, keys and rendered values are explained from the spec, and there is none as it was applied",
                remedy=f"{near.removesuffix('?')}; or give the spec: mlo explain SPEC {part}",
            )
        )


def _as_applied(store: Store, name: str, platform: Path | None, environment: str | None) -> Planned | None:
    """The plan of the spec that a deployment was made of; None if it has changed since, is gone, or was never deployed."""
    from orchestrator.engine.planning import make_plan  # noqa: PLC0415 - not needed for codes

    deployment = store.state.read().deployments.get(name)
    if deployment is None or not (file := Path(deployment.spec_file)).is_file():
        return None
    planned = make_plan(file, store, platform=platform, environment=environment)
    return planned if planned.loaded.digest == deployment.spec_digest else None


def _not_rendered(decision: Decision | None, known: dict[str, str]) -> str:
    if decision is not None and decision.winner is None:
        return "nothing is rendered, because nothing won"
    if decision is None or not known:
        return "known once `mlo apply` or `mlo render` has measured and rendered for a server"
    return "nothing of that is rendered for this backend"


def _no_decision(spec: str, undecided: dict[str, str]) -> str:
    return "\n".join(
        [f"there is no decision yet for {spec} in its current form; run: mlo apply {spec}", "", *undecided.values()]
    )


def _undecided(planned: Planned) -> dict[str, str]:
    """Candidate → what is known of it before a decision: why it is not tried, or how far its steps are."""
    parameters = planned.plan.step("select").params
    lines = {step.id: step for step in planned.preview.steps}
    texts = {}
    for each in parameters["candidates"]:
        own = (lines[name] for name in parameters["steps"][each["candidate"]])
        states = [f"{line.id} {_STATES.get(line.status, line.status)}" for line in own]
        texts[each["candidate"]] = f"{each['candidate']} on {each['backend']}: to be tried: {', '.join(states)}"
    for refused in planned.plan.refused:
        texts[refused.candidate] = f"{refused.candidate} on {refused.backend}: not tried: {refused.reason}"
    return texts


def _decision(decision: Decision, store: Store, selected: Path | None) -> str:
    from orchestrator.cli.image_text import decided_image  # noqa: PLC0415 - not needed for codes

    text = decision_text(decision, None if selected is None else decided_image(store, selected))
    return text if decision.refusal is None else f"{text}\n{refusal_text(decision.refusal)}"


def _unknown(part: str, known: list[str]) -> UsageError:
    close = difflib.get_close_matches(part, known, 1)
    remedy = f"did you mean `{close[0]}`?" if close else f"use a key of the spec, or one of {', '.join(known)}"
    return UsageError(Diagnostic("E217", f"there is no step, candidate or key `{part}`", remedy=remedy))


def _step_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['id']}: {facts['status']} ({facts['reason']})"]
    named = ("key", "started", "seconds", "peak memory", "log", "reproduce")
    lines += [f"  {name}: {facts[name]}" for name in named if facts.get(name)]
    if facts.get("parts"):
        lines.append("  depends on:")
        lines += [f"    {line}" for line in facts["parts"]]
    if facts.get("summary"):
        lines.append("  result:")
        lines += [f"    {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts["summary"].items()]
    if facts.get("changed"):
        lines.append("  changed since it last ran:")
        lines += [f"    {line}" for line in facts["changed"]]
    return "\n".join(lines)
