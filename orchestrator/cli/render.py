"""`mlo render`: write the artifacts to a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import click

from orchestrator.cli import console
from orchestrator.cli.options import open_store, spec_options
from orchestrator.cli.progress import lines, watch
from orchestrator.cli.refused import refused_decisions
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.apply import run_steps
from orchestrator.engine.planning import make_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import UsageError
from orchestrator.store.atomic import write_atomic
from orchestrator.store.failures import store_errors

__all__ = ["render"]

_MARK = ".mlo-rendered"
"""Lists the files that render wrote, or was about to write, so that a later render replaces exactly these."""

_WITH_MODEL = ("serving/", "docker/", ".dockerignore")
"""Where the model lies in what is rendered."""


@click.command(
    epilog="""\b
Examples:
  mlo render specs/digits/digits.yaml --output build/digits
  docker build --file build/digits/docker/Dockerfile build/digits
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
    help="A new or empty folder.",
)
@click.option("--force", is_flag=True, help="Replace the files of an earlier render.")
@click.option(
    "--without-model",
    is_flag=True,
    help="Leave out the model and the build context, so that the rest can be committed.",
)
@spec_options
def render(
    spec: Path, output: Path, force: bool, without_model: bool, platform: Path | None, environment: str | None
) -> None:
    """Write the Docker context, the compose file, the Helm chart and its values to a folder.

    Runs the required steps that are not cached; deploys nothing. The output is reproducible for the same winner and spec.
    """
    _check_output(output, force=force)
    store = open_store(spec.parent)
    planned = make_plan(spec, store, platform=platform, environment=environment, observer=lines(), image=True)
    with refused_decisions(), watch(show_cached=planned.preview.changes) as observer:
        outcomes = run_steps(planned, store, observer, Stop())
    store.stat_cache.save()
    receipt = outcomes["render"].receipt
    if receipt is None or receipt.manifest is None:
        raise ValueError("the step render did not finish")
    with store.in_use("copying rendered files"), store_errors("write", output):
        written = _replace(
            store.trees.path(receipt.manifest.digest), output, without=_WITH_MODEL if without_model else ()
        )
    left_out = ", without the model and its build context" if without_model else ""
    console.print_result(f"{output}: {written} files{left_out}, sha256 {receipt.manifest.digest[:12]}")


def _check_output(output: Path, *, force: bool) -> None:
    """Refuse a folder with files that an earlier render did not write; they are never replaced."""
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(
            Diagnostic("E216", f"{output} cannot be created", cause=f"{above} is not a folder that you can write to",
                       remedy="choose a folder that you can write to")
        )  # fmt: skip
    if not output.exists() and not output.is_symlink():
        return
    if output.is_symlink() or not output.is_dir():
        raise UsageError(Diagnostic("E216", f"{output} is not a folder", remedy="choose a new or empty folder"))
    found = sorted(path.name for path in output.iterdir())
    if not found:
        return
    if not force:
        raise UsageError(
            Diagnostic(
                "E216",
                f"{output} is not empty",
                remedy="choose another folder, or add --force to replace an earlier render",
            )
        )
    mark = output / _MARK
    if mark.is_symlink() or not mark.is_file():
        raise UsageError(
            Diagnostic(
                "E218",
                f"{output} was not written by `mlo render`",
                cause=f"it contains {', '.join(found[:4])}{' and more' if len(found) > 4 else ''}, but no {_MARK}",
                remedy="choose a new or empty folder; --force only replaces an earlier render",
            )
        )


def _replace(source: Path, output: Path, without: tuple[str, ...] = ()) -> int:
    """Copy the rendered files to the folder, except for those that begin with one of `without`; returns how many.

    Files of an earlier render are removed if its mark lists them; all other files stay.

    Raises:
        UsageError: E218, a rendered file would replace another one, or would be written through a link.
    """
    mark = output / _MARK
    former = mark.read_text(encoding="utf-8").splitlines() if mark.is_file() else []
    found = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if not path.is_dir())
    names = [name for name in found if not name.startswith(without)]
    for name in names:
        _refuse_foreign(output, name, frozenset(former))
    output.mkdir(parents=True, exist_ok=True)
    # Before any file, so that a render that is interrupted can be done again.
    write_atomic(mark, _listing({*former, *names}))
    for name in former:
        _remove_listed(output, name)
    for name in names:
        _copy(source / name, output / name)
    write_atomic(mark, _listing(names))
    return len(names)


def _listing(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in sorted(names)).encode()


def _refuse_foreign(output: Path, name: str, former: frozenset[str]) -> None:
    """Refuse to write `name` where something lies that no earlier render wrote: a file, a folder, or a link on the way."""
    for above in PurePosixPath(name).parents:
        folder = output / above
        if (
            above.name
            and (folder.is_symlink() or (folder.exists() and not folder.is_dir()))
            and str(above) not in former
        ):
            raise _foreign(folder)
    path = output / name
    if (path.is_dir() and not path.is_symlink()) or (os.path.lexists(path) and name not in former):
        raise _foreign(path)


def _foreign(path: Path) -> UsageError:
    kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
    return UsageError(
        Diagnostic(
            "E218",
            f"{path} was not written by `mlo render`",
            cause=f"a rendered file would replace this {kind}, which the folder's {_MARK} does not list",
            remedy="move it elsewhere, or choose another folder",
        )
    )


def _remove_listed(output: Path, relative: str) -> None:
    """Remove a file of an earlier render, and folders that become empty; never outside `output`."""
    path = output / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts or path.is_dir():
        return
    if path.parent.resolve() != output.resolve() / Path(relative).parent:  # a link is on the way
        return
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == output or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _copy(source: Path, target: Path) -> None:
    """Copy from the store, where files are read-only; the copy is writable and stays executable."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
