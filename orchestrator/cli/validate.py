"""`mlo validate`: report all problems of specs at once."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import console
from orchestrator.cli.options import spec_options
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import ExitCode, SpecInvalid
from orchestrator.spec.load import load_spec

__all__ = ["validate"]


@click.command(
    epilog="""\b
Examples:
  mlo validate specs/digits/digits.yaml
  mlo validate specs/*/*.yaml --format github     annotations in a pull request
  mlo validate spec.yaml --environment staging
"""
)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="Output format.",
)
@spec_options
@click.pass_context
def validate(
    ctx: click.Context, specs: tuple[Path, ...], form: str, platform: Path | None, environment: str | None
) -> None:
    """Check specs and show every problem with its line and how to fix it.

    Exits with 0 if all specs are valid (warnings do not count), with 65 otherwise.
    """
    results = [(path, *_check(path, platform, environment)) for path in specs]
    invalid = any(not valid for _, valid, _ in results)
    if form == "json":
        document = {
            "specs": [
                {"file": str(path), "valid": valid, "diagnostics": [d.as_json() for d in found]}
                for path, valid, found in results
            ]
        }
        console.print_json(document)
    elif form == "github":
        from orchestrator.cli.diagnostics_text import render_github  # noqa: PLC0415 - only for this form

        if text := render_github([d for _, _, found in results for d in found]):
            console.print_file(text)
    else:
        for path, valid, found in results:
            if found:
                console.show_diagnostics(found)
            if valid:
                console.print_result(f"{path}: valid")
    if invalid:
        ctx.exit(int(ExitCode.INVALID_SPEC))


def _check(path: Path, platform: Path | None, environment: str | None) -> tuple[bool, tuple[Diagnostic, ...]]:
    try:
        return True, load_spec(path, platform=platform, environment=environment).warnings
    except SpecInvalid as error:
        return False, tuple(error.diagnostics)
