"""`sha256` pins everything that a model is made of, and what is pinned can be read from the refusal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.observing import observe_here
from orchestrator.errors import SpecInvalid
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.step import Plan, Step
from orchestrator.plan.steps.source import import_step, inspect_step
from orchestrator.spec.load import load_spec
from orchestrator.spec.signature import Signature
from orchestrator.store.digest import digest_tree
from orchestrator.store.home import Home
from orchestrator.store.store import Store

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: pinned}
model:
  source: {kind: %s, weights: %s, sha256: %s}
"""
ZEROS = "0" * 64
NOTHING = Signature((), (), {}, None)

Look = Callable[..., None]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Look at a model as planning does: at its file or folder before it is read, and at all of it afterwards."""
    home = Home(tmp_path / ".mlo")
    home.prepare()
    project = tmp_path / "project"
    project.mkdir()

    def look(kind: str, weights: str, pin: str, further: Sequence[str] = ()) -> None:
        (project / "spec.yaml").write_text(SPEC % (kind, weights, pin), "utf-8")
        loaded = load_spec(project / "spec.yaml")
        model = PlannedModel(NOTHING, files=tuple(further))
        here = observe_here(loaded)
        inspected = inspect_step(loaded, here)
        assert inspected is not None
        plans: list[tuple[Step, PlannedModel | None]] = [(inspected, None), (import_step(loaded, model, here), model)]
        for step, known in plans:
            plan = replace(Plan("pinned", (step,), (), project, here), model=known)
            assert Resolver(loaded, plan, Store.at(home)).resolve(step, {}) is not None

    return look


def refused(look: Look, *arguments: object) -> Diagnostic:
    with pytest.raises(SpecInvalid) as caught:
        look(*arguments)
    (told,) = caught.value.diagnostics
    assert told.code == "E204"
    assert told.span is not None
    assert told.span.text[told.span.column - 1 :].startswith(str(arguments[2]))
    return told


@pytest.mark.parametrize(("kind", "file"), [("saved-model", "saved_model.pb"), ("transformers", "config.json")])
def test_a_folder_is_pinned_by_its_digest(look: Look, tmp_path: Path, kind: str, file: str) -> None:
    folder = tmp_path / "project" / "model"
    folder.mkdir()
    (folder / file).write_bytes(b"a model")
    (folder / "weights").write_bytes(b"its weights")
    told = refused(look, kind, "model", ZEROS)
    assert told.message == "model is not the folder that `sha256` pins"
    pin = told.cause.rpartition(" ")[2]
    assert pin == digest_tree(folder).digest

    look(kind, "model", pin)
    (folder / "weights").write_bytes(b"other weights")
    refused(look, kind, "model", pin)


def test_an_onnx_model_is_pinned_with_the_weights_beside_it(look: Look, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "b.bin").write_bytes(b"weights")
    (folder / "a.bin").write_bytes(b"more weights")
    further = ["b.bin", "a.bin"]
    pin = refused(look, "onnx", "model.onnx", ZEROS, further).cause.rpartition(" ")[2]
    command = "sha256sum model.onnx a.bin b.bin | sha256sum"
    assert subprocess.check_output(["bash", "-c", command], cwd=folder, text=True).split()[0] == pin

    look("onnx", "model.onnx", pin, further)
    (folder / "a.bin").write_bytes(b"other weights")
    refused(look, "onnx", "model.onnx", pin, further)


def test_an_onnx_model_of_one_file_is_pinned_by_that_file(look: Look, tmp_path: Path) -> None:
    (tmp_path / "project" / "model.onnx").write_bytes(b"a graph")
    output = subprocess.check_output(["sha256sum", str(tmp_path / "project" / "model.onnx")], text=True)

    look("onnx", "model.onnx", output.split()[0])
    refused(look, "onnx", "model.onnx", ZEROS)
