"""`mlo schema`: the JSON Schema of specs."""

from __future__ import annotations

import click

from orchestrator.cli import console
from orchestrator.spec.schema import json_schema

__all__ = ["schema"]


@click.command(
    epilog="""\b
Examples:
  mlo schema > spec.schema.json
\b
For completion in your editor, make this the first line of a spec:
  # yaml-language-server: $schema=spec.schema.json
"""
)
def schema() -> None:
    """Print the JSON Schema of specs, for editors and other tools."""
    console.print_json(json_schema())
