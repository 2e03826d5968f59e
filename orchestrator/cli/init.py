"""`mlo init`: a first spec for a model file or folder."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from orchestrator.cli import console
from orchestrator.cli.options import json_option, locate_home, open_store
from orchestrator.cli.progress import watch
from orchestrator.diagnostics import Diagnostic
from orchestrator.draft.detect import find_model
from orchestrator.draft.naming import deployment_name
from orchestrator.draft.text import SpecDraft, spec_text
from orchestrator.engine.checking import check_import
from orchestrator.engine.drafting import DraftRequest, draft_spec
from orchestrator.errors import SpecInvalid, StepFailed, UsageError
from orchestrator.events import Observer
from orchestrator.optimize.sources import SOURCES
from orchestrator.spec.load import load_spec
from orchestrator.spec.random_mark import is_random
from orchestrator.spec.source_models import SourceKind
from orchestrator.spec.types import EXPECTS, NAME
from orchestrator.store.atomic import write_atomic
from orchestrator.store.store import Store
from orchestrator.visible import shown_line

__all__ = ["init"]

_STANDARD_OUTPUT = Path("-")
_LIMITS_OF_RANDOM = (
    "verification is weaker than with real inputs, and int8 is not tried because it needs real inputs for calibration"
)


@click.command(
    epilog="""\b
Examples:
  mlo init digits.keras                          write digits.yaml and digits-samples.npz here
  mlo init models/resnet50 --output specs/       a SavedModel or Transformers folder
  mlo init model.onnx --name ranker --samples clicks.npz
  mlo init digits.safetensors --output -         to standard output, without samples
"""
)
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE|DIR|-",
    help="Where to write the spec. Default: NAME.yaml in the current directory.",
)  # fmt: skip
@click.option(
    "--name",
    metavar="NAME",
    help="Name of the deployment. Default: that of the file or folder, or of the folder around `model.*` and the like.",
)
@click.option("--kind", type=click.Choice(get_args(SourceKind)), help="The kind of model, if it is not recognized.")
@click.option(
    "--samples", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="An .npz file of real inputs. Default: generate random ones.",
)  # fmt: skip
@click.option("--signature", metavar="NAME", help="Signature of a SavedModel. Default: serving_default.")
@click.option(
    "--no-run", is_flag=True, help="Only read the model, do not call it; sizes and integers are then assumed."
)
@click.option("--force", is_flag=True, help="Overwrite the spec and random samples of an earlier init.")
@json_option
def init(
    path: Path,
    output: Path | None,
    name: str | None,
    kind: SourceKind | None,
    samples: Path | None,
    signature: str | None,
    no_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a first spec for a model: a file, a model folder, or a folder that contains a model.

    Reads the model's inputs and outputs, calls the model to find which sizes and integers it takes, generates random
    samples unless real ones are given, and marks in comments what you should decide. It ends with the checks that `mlo
    apply` begins with, so that the spec applies or you are told at once what is missing.
    """
    if as_json and output == _STANDARD_OUTPUT:
        raise click.UsageError("--json and --output - both write to standard output; use one of them")
    if name is not None and not re.fullmatch(NAME, name):
        raise click.BadParameter(f"use {EXPECTS[NAME]}", param_hint="--name")
    model = find_model(path, kind)
    if signature is not None and "signature" not in SOURCES[model.kind].options:
        raise click.UsageError(
            f"--signature: {model.path} is of kind {model.kind}, which has no signatures to choose from"
        )
    name = name or deployment_name(model.path)
    spec = None if output == _STANDARD_OUTPUT else _spec_file(output or Path(), name, force=force)
    folder = Path() if spec is None else spec.parent
    random_file = None if spec is None or samples is not None else _random_file(folder, name, force=force)
    home = locate_home(folder)
    elsewhere = "run the command in another folder, such as the parent" if output is None else "choose another --output"
    _refuse_inside(model.path, folder, elsewhere)
    _refuse_inside(model.path, home.root, "set MLO_HOME to a folder outside of the model's")
    if model.remark:
        console.print_note(f"using {model.path}: {model.remark}")
    began = time.monotonic()
    settings = {} if signature is None else {"signature": signature}
    wanted = DraftRequest(model, name, folder, samples, random_file, settings, run=not no_run)
    store = open_store(folder)
    with watch(show_cached=False) as observer:
        draft, made = draft_spec(wanted, store, observer)
    store.stat_cache.save()
    if spec is None:
        console.print_file(spec_text(draft).rstrip("\n"))
        return
    write_atomic(spec, spec_text(draft).encode())
    if made is not None and random_file is not None:
        write_atomic(random_file, made)
    valid, diagnostics = _check(spec)
    problems: Sequence[Diagnostic] = ()
    if valid and not no_run:
        with watch(show_cached=False) as observer:
            problems = _import_problems(spec, store, observer)
        store.stat_cache.save()
    written = _Written(spec, draft, random_file if made is not None else None, valid, diagnostics, problems,
                       not no_run and valid and not problems, time.monotonic() - began)  # fmt: skip
    _tell(written, as_json=as_json)


def _refuse_inside(model: Path, folder: Path, remedy: str) -> None:
    """Refuse to write into a model's folder: anything written there changes the model."""
    if model.is_dir() and folder.resolve().is_relative_to(model.resolve()):
        raise UsageError(
            Diagnostic(
                "E146",
                f"{folder.resolve()} is inside the model's folder",
                cause="all files in that folder belong to the model, so writing there would change it",
                remedy=remedy,
            )
        )


def _spec_file(output: Path, name: str, *, force: bool) -> Path:
    """Where the spec is written."""
    file = output / f"{name}.yaml" if output.is_dir() else output
    if not file.parent.is_dir():
        raise UsageError(
            Diagnostic(
                "E145",
                f"{file} cannot be written",
                cause=f"the folder {file.parent} does not exist",
                remedy="create it",
            )
        )
    if file.exists() and not force:
        remedy = "choose another file with --output, or overwrite it with --force"
        raise UsageError(Diagnostic("E145", f"{file} already exists", remedy=remedy))
    return file


def _random_file(folder: Path, name: str, *, force: bool) -> Path:
    """Where random samples are written; real ones are never overwritten."""
    file = folder / f"{name}-samples.npz"
    if not file.exists():
        return file
    if not is_random(file):
        remedy = f"use them with --samples {file}, or choose another --name"
        raise UsageError(Diagnostic("E145", f"{file} already exists and was not written by `mlo init`", remedy=remedy))
    if not force:
        raise UsageError(Diagnostic("E145", f"{file} already exists", remedy="overwrite it with --force"))
    return file


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written, and what was found out about it.

    Attributes:
        random_file: the random samples; None if there are none.
        valid: whether the spec is complete.
        diagnostics: why it is not, or what else `mlo validate` says.
        problems: why `import` refuses the model as the spec has it.
        imports: whether `import` was tried, and does not.
        seconds: that everything took.
    """

    spec: Path
    draft: SpecDraft
    random_file: Path | None
    valid: bool
    diagnostics: Sequence[Diagnostic]
    problems: Sequence[Diagnostic]
    imports: bool
    seconds: float


def _tell(written: _Written, *, as_json: bool) -> None:
    draft, spec = written.draft, written.spec
    if as_json:
        console.print_json(
            {
                "spec": str(spec),
                "name": draft.name,
                "kind": draft.kind,
                "samples": draft.samples,
                "random": draft.random,
                "valid": written.valid,
                "imports": written.imports,
                "seconds": round(written.seconds, 1),
                "diagnostics": [each.as_json() for each in (*written.diagnostics, *written.problems)],
                "notes": list(draft.model.notes),
                "questions": list(draft.model.questions),
            }
        )
        return
    tensors = ((draft.model.inputs, "input"), (draft.model.outputs, "output"))
    what = ", ".join(f"{len(each)} {word}{'' if len(each) == 1 else 's'}" for each, word in tensors if each)
    console.print_result(
        f"{spec}: written in {written.seconds:.1f} s "
        f"(kind {draft.kind}; {what or 'the file does not describe its inputs and outputs'})"
    )
    if written.random_file is not None:
        console.print_result(f"{written.random_file}: written, random inputs: {_LIMITS_OF_RANDOM}")
    for note in draft.model.notes:
        console.print_note(f"note: {shown_line(note)}")
    for question in draft.model.questions:
        console.print_note(f"question: {shown_line(question)}")
    if written.diagnostics:
        console.print_note("\n`mlo validate` reports:\n")
        console.show_diagnostics(written.diagnostics)
    if written.problems:
        console.print_note("\n`mlo apply` would stop at the step `import`:\n")
        console.show_diagnostics(written.problems)
    ready = written.valid and not written.problems
    if written.imports:
        console.print_result("the model was imported with this spec: `mlo apply` continues from there")
    steps = [f"{'review' if ready else 'edit'} {spec}"]
    steps += [f"mlo {command} {shlex.quote(str(spec))}" for command in ("validate", "plan", "apply")]
    console.print_result("\nNext:\n" + "\n".join(f"  {step}" for step in steps))


def _check(spec: Path) -> tuple[bool, Sequence[Diagnostic]]:
    """Whether the spec is valid as written; for a file with weights only, the user has to complete it."""
    try:
        return True, load_spec(spec).warnings
    except SpecInvalid as error:
        return False, error.diagnostics


def _import_problems(spec: Path, store: Store, observer: Observer) -> Sequence[Diagnostic]:
    """Why the model cannot be imported as the spec has it; nothing if it can."""
    try:
        check_import(spec, store, observer)
    except (SpecInvalid, StepFailed) as error:
        return error.diagnostics
    return ()
