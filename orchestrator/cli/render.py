"""`mlo render`: the artifacts into a folder of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from orchestrator.cli import console
from orchestrator.cli.options import find_home, spec_options
from orchestrator.cli.progress import watch
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.apply import run_steps
from orchestrator.engine.planning import make_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import UsageError
from orchestrator.store.digest import StatCache, digest_tree
from orchestrator.store.trees import TreeStore

__all__ = ["render"]


@click.command(
    epilog="""\b
Examples:
  mlo render specs/digits/digits.yaml --output build/digits
  docker build -t digits build/digits/docker
  helm install digits build/digits/chart --values build/digits/values.yaml
"""
)
@click.argument("spec", metavar="SPEC", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder that is new or empty.",
)
@click.option("--force", is_flag=True, help="Replace what the folder holds.")
@spec_options
def render(spec: Path, output: Path, force: bool, platform: Path | None, environment: str | None) -> None:
    """Write the Docker context, the compose file, the chart and its values to a folder.

    Runs the steps that this needs and that are not cached; deploys nothing. The same decision gives the same bytes.
    """
    _check_output(output, force=force)
    home = find_home()
    cache = StatCache(home)
    planned = make_plan(spec, home, cache, platform=platform, environment=environment)
    with watch(show_cached=planned.preview.changes) as observer:
        outcomes = run_steps(planned, home, observer, Stop())
    cache.save()
    receipt = outcomes["render"].receipt
    if receipt is None or receipt.manifest is None:
        raise ValueError("render is not done")
    if output.exists():
        shutil.rmtree(output)
    _copy(TreeStore(home).path(receipt.manifest.digest), output)
    console.say(f"{output}: {len(receipt.manifest.files)} files, sha256 {digest_tree(output).digest[:12]}")


def _check_output(output: Path, *, force: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(Diagnostic("E216", f"{output} is not a folder", remedy="name a folder that is new or empty"))
    if output.is_dir() and any(output.iterdir()) and not force:
        raise UsageError(
            Diagnostic(
                "E216", f"{output} is not empty", remedy="name another folder, or add --force to replace what it holds"
            )
        )


def _copy(source: Path, target: Path) -> None:
    """Copy out of the store, where files are read-only; the copies can be written to, and programs stay programs."""
    for path in sorted(source.rglob("*")):
        copied = target / path.relative_to(source)
        if path.is_dir():
            copied.mkdir(parents=True, exist_ok=True)
        else:
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
            copied.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
