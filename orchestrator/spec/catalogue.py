"""Explains the code of every diagnostic. One table for the whole project; a test checks that no code is missing.

Numbers: 1xx spec, 2xx plan and command line, 3xx source model and samples, 4xx steps, 5xx selection, 6xx deployment,
7xx store and state, 8xx environment. To add a code, add a line `CODE title` and an indented paragraph to the file for its
range.
"""

from __future__ import annotations

import re
from functools import cache

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.spec.catalogue_models import MODEL_CODES
from orchestrator.spec.catalogue_runs import RUN_CODES
from orchestrator.spec.catalogue_specs import SPEC_CODES
from orchestrator.spec.places import nearest

__all__ = ["codes", "explain"]

_ROW = re.compile(r"^([EW]\d{3}) (\S.*)\n((?:    .+\n)+)", re.MULTILINE)


@cache
def codes() -> dict[str, tuple[str, str]]:
    """Code → (title, paragraph), in order. Do not change the returned value."""
    rows = (match.groups() for text in (SPEC_CODES, RUN_CODES, MODEL_CODES) for match in _ROW.finditer(text))
    return {code: (title, " ".join(body.split())) for code, title, body in sorted(rows)}


def explain(code: str) -> str:
    """What a code means and what to do about it: a title line, an empty line, a paragraph.

    Raises:
        UsageError: no diagnostic has this code.
    """
    if code not in codes():
        near = nearest(code, codes())
        remedy = f"did you mean {near}?" if near else "a message shows its code in brackets, as in `error[E101]`"
        raise UsageError(Diagnostic("E199", f"unknown code {code}", remedy=remedy))
    title, paragraph = codes()[code]
    return f"{code}: {title}\n\n{paragraph}"
