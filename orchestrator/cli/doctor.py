"""`mlo doctor`: what is available and what is missing on this machine, with the consequences."""

from __future__ import annotations

import textwrap
from collections import Counter

import click

from orchestrator import __version__
from orchestrator.cli import console
from orchestrator.cli.options import json_option, locate_home
from orchestrator.doctor.checkup import examine
from orchestrator.doctor.finding import Finding
from orchestrator.errors import ExitCode

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "limited": "yellow", "missing": "red"}


@click.command(
    epilog="""\b
Examples:
  mlo doctor
  mlo doctor --json
  mlo doctor && mlo apply specs/digits/digits.yaml
"""
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check what is available and what is missing on this machine, what is affected, and how to fix it.

    Changes nothing. Exits with 1 if something essential is broken: mlo's own packages, or the store.
    """
    groups = examine(locate_home)
    rows = [finding for findings in groups.values() for finding in findings]
    if as_json:
        console.print_json(
            {
                "mlo": __version__,
                "healthy": not any(row.broken for row in rows),
                "checks": [{"group": group, **row.as_json()} for group, found in groups.items() for row in found],
            }
        )
    else:
        names = max(len(row.name) for row in rows)
        console.print_result("\n\n".join(_group(name, findings, names) for name, findings in groups.items()))
        console.print_result(f"\n{_summary(rows)}")
    if any(row.broken for row in rows):
        ctx.exit(int(ExitCode.FAILED))


def _group(name: str, findings: list[Finding], names: int) -> str:
    lines = [click.style(name, bold=True)]
    indent = " " * (names + 13)
    for finding in findings:
        status = click.style(f"{finding.status:<7}", fg=_COLOURS[finding.status])
        found, *more = _wrapped(finding.found, indent)
        lines += [f"  {status}  {finding.name:<{names}}  {found.lstrip()}", *more]
        lines += _wrapped(f"affects: {finding.costs}", indent) if finding.costs else []
        lines += _wrapped(f"help: {finding.remedy}", indent) if finding.remedy else []
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> list[str]:
    columns = max(console.width(), len(indent) + 40)
    return textwrap.wrap(
        text, columns, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _summary(rows: list[Finding]) -> str:
    counts = Counter[str](row.status for row in rows)
    text = ", ".join(f"{counts[status]} {status}" for status in _COLOURS if counts[status])
    broken = [row.name for row in rows if row.broken]
    return f"{text}; mlo cannot work without: {', '.join(broken)}" if broken else text
