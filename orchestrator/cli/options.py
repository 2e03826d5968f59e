"""Options shared by several commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from orchestrator.store.home import Home
    from orchestrator.store.store import Store

__all__ = [
    "find_store",
    "json_option",
    "locate_home",
    "lock_timeout_option",
    "open_store",
    "reason_option",
    "spec_options",
]

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(command: F) -> F:
    """`--platform FILE` and `--environment NAME`."""
    command = click.option(
        "--platform",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Platform file. Default: the nearest mlo-platform.yaml in the spec's folder or its parents.",
    )(command)
    return click.option(
        "--environment", "-e", metavar="NAME", help="Apply this environment from the spec's `environments:`."
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print a single JSON document.")(command)


def lock_timeout_option(command: F) -> F:
    """`--lock-timeout SECONDS`."""
    return click.option(
        "--lock-timeout",
        type=click.FloatRange(min=0),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait while another command deploys the same name.",
    )(command)


def reason_option(command: F) -> F:
    """`--reason TEXT`."""
    return click.option(
        "--reason", "why", default="", metavar="TEXT", help="Why, in a few words; `mlo history` shows it."
    )(command)


def locate_home(folder: Path | None = None) -> Home:
    """Where the store is or would be created: MLO_HOME, or .mlo at the root of the repository.

    Args:
        folder: of the spec; by default the working folder.
    """
    from orchestrator.store.home import Home  # noqa: PLC0415 - not needed for the help

    return Home.find(folder or Path.cwd(), os.environ)


def open_store(folder: Path | None = None) -> Store:
    """The store, created if it does not exist, which is then said.

    Args:
        folder: of the spec; by default the working folder.
    """
    from orchestrator.cli import console  # noqa: PLC0415 - not needed for the help
    from orchestrator.store.store import Store  # noqa: PLC0415 - not needed for the help

    home = locate_home(folder)
    is_new = not home.root.exists()
    store = Store.open(home)
    if is_new:
        console.print_note(f"store: {home.root} (new)")
    return store


def find_store() -> Store:
    """The store that belongs to the working folder, for commands that only look at it: it is not created."""
    from orchestrator.store.store import Store  # noqa: PLC0415 - not needed for the help

    home = locate_home()
    return Store.open(home) if home.root.exists() else Store.at(home)
