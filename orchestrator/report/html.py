"""The report as one page that needs nothing else: data, script and style are inside, and nothing may be fetched.

Values are put in by Jinja with autoescape, and by JSON in which nothing can end its element. The Content-Security-Policy
allows the page's own script and style by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from orchestrator.artifacts.measurement import rate_text
from orchestrator.render.assets import REPORT_TEMPLATES, assets_dir
from orchestrator.report.distributions import LEVELS, MOST
from orchestrator.report.model import Distribution, Estimate, Plane, Report, Row
from orchestrator.report.tables import (
    batch_table,
    distribution_table,
    fate_table,
    gate_table,
    plane_table,
    search_table,
    size_table,
)
from orchestrator.report.words import time_text
from orchestrator.visible import visible

__all__ = ["MARK", "html"]

MARK = "<!doctype html><!-- mlo report -->"
"""How a report of this form begins; a file that begins otherwise is not replaced."""

_SCRIPTS = ("uPlot.iife.min.js", "report.js")
_STYLES = ("uPlot.min.css", "report.css")
_DIGITS = 4
"""Significant digits of numbers in charts."""


def html(report: Report) -> str:
    """The page."""
    folder = assets_dir("templates") / REPORT_TEMPLATES
    scripts = [(folder / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    styles = [(folder / name).read_text(encoding="utf-8") for name in _STYLES]
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["prose"] = _prose
    return environment.get_template("report.html.jinja").render(
        mark=Markup(MARK),  # noqa: S704 - our own constant
        policy=_policy(scripts, styles),
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own files
        styles=[Markup(style) for style in styles],  # noqa: S704 - likewise
        data=_embedded(_data(report)),
        report=report,
        fates=sorted({row.fate for row in report.rows}),
        planes=[(plane, plane_table(report, plane.kind)) for plane in report.planes],
        batches=batch_table(report),
        search=search_table(report),
        distributions=[
            (kind, table) for kind in ("server", "runtime") if (table := distribution_table(report, kind)) is not None
        ],
        levels=len(LEVELS),
        most=MOST,
        gates=gate_table(report),
        sizes=size_table(report),
        candidates=fate_table(report),
    )


def _shown(value: object) -> object:
    """Values as they are, with control characters and directional marks replaced by their codes."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _prose(text: str) -> Markup:
    """A sentence in which what is between backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))  # noqa: S704 - escaped before


def _policy(scripts: list[str], styles: list[str]) -> str:
    def hashes(texts: list[str]) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
        )

    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(document: dict[str, Any]) -> Markup:
    """JSON inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no character with a meaning in HTML is left


def _data(report: Report) -> dict[str, Any]:
    """What the script draws, and what it filters by."""
    return {
        "rows": [_row(row) for row in report.rows],
        "planes": [_plane(plane) for plane in report.planes],
        "batches": [
            {"row": number, "rows": [batch.rows for batch in row.batches]}
            | {name: [_short(getattr(batch, name)) for batch in row.batches] for name in ("p50", "p99", "rate")}
            for number, row in enumerate(report.rows)
            if row.batches
        ],
        "search": [
            {"row": each.row, "rounds": list(each.times), "times": [_short(time) for time in each.times.values()]}
            for each in report.tried
        ],
        "distributions": {
            kind: [_distribution(each) for each in report.distributions if each.kind == kind]
            for kind in ("server", "runtime")
        },
    }


def _row(row: Row) -> dict[str, str]:
    found = {
        "name": row.name,
        "backend": row.backend,
        "format": row.format,
        "precision": row.precision,
        "fate": row.fate,
    }
    return {key: visible(value) for key, value in found.items()}


def _plane(plane: Plane) -> dict[str, Any]:
    return {
        "kind": plane.kind,
        "latency": plane.latency,
        "limit": plane.limit,
        "points": [
            {
                "row": point.row,
                "x": _numbers(point.rate),
                "y": _numbers(point.latency),
                "front": point.on_front,
                "text": ", ".join(_words(point.rate, point.latency)),
            }
            for point in plane.points
        ],
    }


def _numbers(found: Estimate) -> list[float | None]:
    return [_short(found.value), _short(found.low), _short(found.high)]


def _words(rate: Estimate, latency: Estimate) -> Iterator[str]:
    yield f"{'at least ' if rate.at_least else ''}{rate_text(rate.value)} rows/s"
    interval = "" if latency.low is None or latency.high is None else " (95 %: {} to {})"
    yield time_text(latency.value) + interval.format(*map(time_text, (latency.low or 0.0, latency.high or 0.0)))


def _distribution(each: Distribution) -> dict[str, Any]:
    return {
        "row": each.row,
        "samples": each.samples,
        "levels": each.levels,
        **{name: [_short(value) for value in getattr(each, name)] for name in ("times", "low", "high")},
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
