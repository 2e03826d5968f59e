"""A decision in which nothing won: the failing command shows it like any other, before its error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from orchestrator.cli import console
from orchestrator.cli.decision_text import decision_text
from orchestrator.errors import StepFailed

__all__ = ["refused_decisions"]


@contextmanager
def refused_decisions(*, as_json: bool = False) -> Iterator[None]:
    """Show the decision that `select` left if it fails in this block; with `as_json`, add it to the document of errors."""
    try:
        yield
    except StepFailed as error:
        if error.explained_in is not None:
            _show(error, as_json=as_json)
        raise


def _show(error: StepFailed, *, as_json: bool) -> None:
    from orchestrator.artifacts.decision import Decision  # noqa: PLC0415 - only if nothing won

    assert error.explained_in is not None, "it has documents"
    decision = Decision.read(error.explained_in)
    if as_json:
        error.also["refused"] = {"decision": decision.as_json(), "evidence": str(error.explained_in)}
        return
    kept = ", ".join(sorted(path.name for path in error.explained_in.iterdir()))
    console.print_result(f"\n{decision_text(decision)}\n\ndecision: {error.explained_in} ({kept})\n")
    first, *others = error.diagnostics
    # Its notes are the reasons that the decision has just shown, and the places of log and script.
    told = decision.refusal.notes if decision.refusal is not None else ()
    error.diagnostics = (replace(first, notes=tuple(note for note in first.notes if note not in told)), *others)
