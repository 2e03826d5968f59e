"""`mlo gc`: delete stored results that no deployment needs any more."""

from __future__ import annotations

import click

from orchestrator.cli import console
from orchestrator.cli.options import find_store
from orchestrator.store.gc import collect

__all__ = ["gc"]


@click.command(
    epilog="""\b
Examples:
  mlo gc
"""
)
def gc() -> None:
    """Delete stored results that no deployment needs any more: results of earlier specs, remains of killed runs.

    Keeps the latest result of each step of a plan, and everything that is deployed or can be rolled back to. What was never
    deployed is kept for a month after its last use. Exits with 75 while another command is running.
    """
    store = find_store()
    if not store.home.root.exists():
        console.print_result(f"nothing to delete: there is no store {store.home.root}")
        return
    freed = collect(store)
    console.print_result(f"freed {freed / 2**20:.1f} MiB in {store.home.root}")
