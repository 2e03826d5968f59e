"""`mlo gc`: free what no deployment needs any more."""

from __future__ import annotations

import click

from orchestrator.cli import console
from orchestrator.cli.options import open_store
from orchestrator.store.gc import collect

__all__ = ["gc"]


@click.command(
    epilog="""\b
Examples:
  mlo gc
"""
)
def gc() -> None:
    """Free what no deployment needs any more: results of former specs, leftovers of killed runs.

    What the latest run of each step and what is deployed refer to stays. Exits with 75 while something is running.
    """
    store = open_store()
    freed = collect(store)
    console.say(f"freed {freed / 2**20:.1f} MiB in {store.home.root}")
