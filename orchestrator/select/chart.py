"""Draws the decision as an SVG chart: latency against throughput of every candidate.

There are two panels for the two benchmarks: runtimes with the baseline, and servers over the wire with the service level.
Colours follow the browser's light or dark setting; shapes carry the same information as colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from orchestrator.artifacts.decision import DecidedCandidate, Decision
from orchestrator.artifacts.runtime_report import RuntimeMeasurement

__all__ = ["chart"]

_WIDTH, _PANEL, _TOP = 860, 320, 34
_LEFT, _RIGHT, _BOTTOM = 70, 270, 46
_LINE = 15
"""Line height in pixels."""

_SMALLEST = 1e-9
"""Below it, a value counts as 0, which has no power of ten."""

_STYLE = """
svg { color-scheme: light dark; font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; } .text { fill: #1f2328; } .faint { fill: #59636e; }
.grid { stroke: #d1d9e0; } .limit { stroke: #b42318; stroke-dasharray: 6 4; } .over { fill: #b42318; }
.point { fill: #0b65c2; stroke: #0b65c2; } .won { fill: #1a7f37; stroke: #1a7f37; } .leader { stroke: #818b98; }
.given { fill: none; stroke: #59636e; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
.grid { stroke: #3d444d; } .limit { stroke: #ff7b72; } .over { fill: #ff7b72; }
.point { fill: #58a6ff; stroke: #58a6ff; } .won { fill: #3fb950; stroke: #3fb950; } .given { stroke: #9198a1; }
}"""


_Kind = Literal["won", "point", "given"]


@dataclass(frozen=True, slots=True)
class _Point:
    """Rows per second, milliseconds, label, and CSS class: `won`, `point` or `given` (the baseline)."""

    x: float
    y: float
    label: str
    kind: _Kind


def chart(decision: Decision) -> str:
    """The SVG of a decision, empty if nothing was measured; the same decision always gives the same text."""
    limit = decision.slo.p99_latency
    panels = [
        ("Runtimes without a server", "median call time with the smallest batch, ms", _runtimes(decision), None),
        ("Servers, over the wire", "p99 at the measured rate, ms", _servers(decision), limit and limit * 1e3),
    ]
    drawn = [
        (heading, axis, finite, line)
        for heading, axis, points, line in panels
        if (finite := [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)])
    ]
    if not drawn:
        return ""
    height = _PANEL * len(drawn)
    outcome = "nothing won" if decision.winner is None else f"{decision.winner.candidate} won"
    title = f"Candidates for {decision.objective}: {outcome}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}\n</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
    ]
    for number, (heading, axis, points, line) in enumerate(drawn):
        parts.append(f'<g transform="translate(0 {number * _PANEL})">')
        parts += _panel(heading, axis, points, line)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _runtimes(decision: Decision) -> list[_Point]:
    results: list[tuple[str, _Kind, RuntimeMeasurement | None]] = [
        (c.candidate, _kind(c), c.runtime) for c in decision.candidates
    ]
    results.append(("baseline", "given", None if decision.baseline is None else decision.baseline.measured))
    return [
        _Point(max(b.rows_per_second for b in measured.batches), measured.batches[0].p50 * 1e3, name, kind)
        for name, kind, measured in results
        if measured is not None
    ]


def _servers(decision: Decision) -> list[_Point]:
    return [
        _Point(
            c.server.saturated.at_least,
            c.server.on_schedule.p99 * 1e3,
            f"{c.candidate} ({c.backend}{', at least' if c.server.saturated.rows_per_second is None else ''})",
            _kind(c),
        )
        for c in decision.candidates
        # What was not measured has no place in a plane; the table says why.
        if c.server is not None and c.server.saturated is not None and c.server.on_schedule is not None
    ]


def _kind(candidate: DecidedCandidate) -> _Kind:
    return "won" if candidate.fate == "won" else "point"


def _panel(heading: str, axis: str, points: Sequence[_Point], limit: float | None) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _PANEL - _BOTTOM
    x_ticks = _ticks(max(point.x for point in points))
    y_ticks = _ticks(max([point.y for point in points] + ([limit] if limit else [])))

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * value / x_ticks[-1]

    def down(value: float) -> float:
        return bottom - (bottom - _TOP) * value / y_ticks[-1]

    parts = [f'<text class="text" x="{_LEFT}" y="18" font-weight="600">{escape(heading)}</text>']
    parts.append(f'<text class="faint" x="{right}" y="18" text-anchor="end">{escape(axis)}</text>')
    for tick in y_ticks:
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="faint" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    for tick in x_ticks:
        x = across(tick)
        parts.append(f'<text class="faint" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,.6g}</text>')
    parts.append(f'<text class="faint" x="{right}" y="{bottom + 36}" text-anchor="end">peak rows per second</text>')
    if limit:
        y = down(limit)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="over" x="{_LEFT + 6}" y="{y + 14:.1f}">SLO {limit:.4g} ms</text>')
    placed = [(across(point.x), down(point.y), point) for point in points]
    return parts + _marks(placed, right)


def _marks(placed: Sequence[tuple[float, float, _Point]], right: float) -> list[str]:
    """Points, and their labels in a column beside the panel, without overlaps."""
    parts: list[str] = []
    free = float(_TOP)
    ordered = sorted(placed, key=lambda mark: (mark[1], mark[0], mark[2].label))
    # If labels would extend below the panel, all of them move up.
    lowest = _PANEL - _BOTTOM - _LINE * (len(ordered) - 1)
    for number, (x, y, point) in enumerate(ordered):
        beside = min(max(y, free), lowest + _LINE * number)
        free = beside + _LINE
        parts.append(
            f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{right + 6}" y2="{beside:.1f}" opacity="0.5"/>'
        )
        parts.append(_mark(x, y, point.kind))
        weight = ' font-weight="700"' if point.kind == "won" else ""
        label = escape(point.label) + (" ★" if point.kind == "won" else "")
        parts.append(f'<text class="text" x="{right + 10}" y="{beside + 4:.1f}"{weight}>{label}</text>')
    return parts


def _mark(x: float, y: float, kind: _Kind) -> str:
    if kind == "won":
        corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in ((0, -7), (7, 0), (0, 7), (-7, 0)))
        return f'<polygon class="won" points="{corners}"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _ticks(largest: float) -> list[float]:
    """Four to eight round numbers, from 0 to at least the largest value; 0 and 1 if there is nothing to tell apart."""
    if largest < _SMALLEST:
        return [0.0, 1.0]
    rough = largest / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [step * number for number in range(math.ceil(largest / step) + 1)]
