"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from orchestrator.store.home import Home
    from orchestrator.store.store import Store

__all__ = ["json_option", "locate_home", "lock_timeout_option", "open_store", "spec_options"]

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(command: F) -> F:
    """`--platform FILE` and `--environment NAME`."""
    command = click.option(
        "--platform",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The platform file; by default mlo-platform.yaml, looked for upwards from the spec.",
    )(command)
    return click.option(
        "--environment", "-e", metavar="NAME", help="Overlay the values of this entry of `environments:`."
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(command)


def lock_timeout_option(command: F) -> F:
    """`--lock-timeout SECONDS`."""
    return click.option(
        "--lock-timeout",
        type=click.FloatRange(min=0),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait when somebody else deploys the same name.",
    )(command)


def locate_home() -> Home:
    """Where the store is, or would be: MLO_HOME, or .mlo beside where the command runs."""
    from orchestrator.store.home import Home  # noqa: PLC0415 - not needed for the help

    return Home.find(Path.cwd(), os.environ)


def open_store() -> Store:
    """The store, made if it is not there."""
    from orchestrator.store.store import Store  # noqa: PLC0415 - not needed for the help

    return Store.open(locate_home())
