"""A step gives the same result wherever it runs, since its request names contents and not places."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from orchestrator.engine.executors.executor import ProjectInput, StepEnd, StepRequest, StoredInput
from orchestrator.engine.executors.local import LocalExecutor
from orchestrator.engine.stop import Stop
from orchestrator.plan.step import FileInput, Step, StepOutput
from orchestrator.steps.context import Ending
from orchestrator.store.home import Home
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from conftest import Project


class Elsewhere:
    """As another machine would do it: requests come over a wire, and store and project lie somewhere else."""

    def __init__(self, store: Store, project: Path, place: Path) -> None:
        self.store, self.project = store, project
        self.own_store = Store.open(Home(place / "store"))
        self.own_project = place / "project"
        self.own_project.mkdir(parents=True)
        self.wires: list[str] = []

    def run(self, request: StepRequest, stop: Stop, progress: Callable[[str, float | None], None]) -> StepEnd:
        wire = request.model_dump_json()
        self.wires.append(wire)
        request = StepRequest.model_validate_json(wire)
        for source in (*request.inputs.values(), *request.code):
            if isinstance(source, StoredInput):
                copy_tree(source.digest, self.store, self.own_store)
            elif isinstance(source, ProjectInput):
                shutil.copy(self.project / source.path, self.own_project / source.path)
        end = LocalExecutor(self.own_store, self.own_project).run(request, stop, progress)
        if end.output is not None:
            copy_tree(end.output.digest, self.own_store, self.store)
        return end


def copy_tree(digest: str, source: Store, destination: Store) -> None:
    with destination.scratch_folder() as scratch:
        shutil.copytree(source.trees.path(digest), scratch / "tree")
        (scratch / "tree").chmod(0o755)
        assert destination.trees.commit(scratch / "tree").digest == digest


def steps(project: Project) -> tuple[Step, ...]:
    blocks = project.folder / "blocks.py"
    blocks.write_text("WORD = 'one'\n", encoding="utf-8")
    weights = FileInput(project.folder / "weights.pt", ("model", "source", "weights"))
    return (
        project.step("import", "read_weights", inputs={"weights": weights}),
        project.step("code", "imports_user_code", code=(FileInput(blocks, ("model", "source", "factory")),)),
        project.step("join", "join", inputs={"a": StepOutput("import"), "b": StepOutput("code")}),
        project.step("one", "read_text", inputs={"text": StepOutput("join", "text.txt")}),
        project.step("convert.a", "refuse", candidate="a"),
        project.step("select", "fates", gathers_fates=True),
    )


@pytest.mark.processes
def test_another_machine_gets_the_same_results_from_the_same_requests(project: Project, tmp_path: Path) -> None:
    here = project.run(*steps(project))
    project.home = Home(tmp_path / "other home")
    project.home.prepare()
    elsewhere = Elsewhere(project.store, project.folder, tmp_path / "elsewhere")
    there = project.run(*steps(project), executor=elsewhere)
    assert project.text(there, "one") == "weights+one"
    for step, outcome in here.items():
        other = there[step]
        assert (outcome.status, outcome.ending) == (other.status, other.ending)
        assert outcome.receipt is not None
        assert other.receipt is not None
        assert (outcome.receipt.key, outcome.receipt.found) == (other.receipt.key, other.receipt.found)
        assert outcome.receipt.manifest == other.receipt.manifest
    assert here["convert.a"].ending is Ending.REFUSED
    assert not [wire for wire in elsewhere.wires if str(tmp_path) in wire], "a path of this machine"


def test_a_request_with_an_unknown_key_is_refused() -> None:
    request = StepRequest(key="00", step="a", function="m:f", params={}, inputs={}, timeout=1.0)
    assert StepRequest.model_validate_json(request.model_dump_json()) == request
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        StepRequest.model_validate({**request.model_dump(), "output": "/tmp/x"})
