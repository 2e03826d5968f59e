"""Every diagnostic's code, explained. One table for the whole project; a test holds that no code lacks a row.

Numbers: 1xx spec, 2xx plan and command line, 3xx source model and samples, 4xx steps, 5xx selection, 6xx deployment,
7xx store and state, 8xx environment. To add a code, add a row to the file of its hundred.
"""

from __future__ import annotations

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.spec.catalogue_models import MODEL_CODES
from orchestrator.spec.catalogue_runs import RUN_CODES
from orchestrator.spec.catalogue_specs import SPEC_CODES
from orchestrator.spec.places import nearest

__all__ = ["CODES", "explain"]

CODES: dict[str, tuple[str, str]] = {**SPEC_CODES, **MODEL_CODES, **RUN_CODES}
"""Code → (title, paragraph)."""


def explain(code: str) -> str:
    """What a code means and what to do about it, for people: a title line, an empty line, a paragraph.

    Raises:
        UsageError: no diagnostic has this code.
    """
    if code not in CODES:
        near = nearest(code, CODES)
        remedy = f"did you mean {near}?" if near else "codes stand in brackets after `error` or `warning`"
        raise UsageError(Diagnostic("E199", f"there is no code {code}", remedy=remedy))
    title, paragraph = CODES[code]
    return f"{code}: {title}\n\n{paragraph}"
