"""A step gives the same result wherever it runs, since its request names contents and not places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from orchestrator.engine.executors.executor import StepEnd, StepRequest, StoredInput, UserInput
from orchestrator.engine.executors.job import WorkerJob
from orchestrator.engine.executors.local import LocalExecutor
from orchestrator.engine.stop import Stop
from orchestrator.errors import SpecInvalid, StepFailed, StoreFailed
from orchestrator.plan.step import FileInput, Plan, Step, StepOutput
from orchestrator.steps.context import Ending
from orchestrator.steps.parameters import CodeAccess
from orchestrator.store.home import Home
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from conftest import Project


class Elsewhere:
    """As another machine would do it: requests come over a wire, and store and project lie somewhere else."""

    def __init__(self, store: Store, plan: Plan, place: Path, *, knows_roots: bool = True) -> None:
        self.store = store
        self.folders = {"": plan.project, **plan.roots}
        self.own_store = Store.open(Home(place / "store"))
        self.own_folders = {name: place / f"folder of {name}" for name in self.folders}
        self.knows_roots = knows_roots
        self.wires: list[str] = []

    def run(self, request: StepRequest, stop: Stop, progress: Callable[[str, float | None], None]) -> StepEnd:
        wire = request.model_dump_json()
        self.wires.append(wire)
        request = StepRequest.model_validate_json(wire)
        for source in (*request.inputs.values(), *request.code):
            if isinstance(source, StoredInput):
                copy_tree(source.digest, self.store, self.own_store)
            elif isinstance(source, UserInput):
                copy = self.own_folders[source.root] / source.path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folders[source.root] / source.path, copy)
        roots = dict(self.own_folders)
        project = roots.pop("")
        project.mkdir(parents=True, exist_ok=True)
        executor = LocalExecutor(self.own_store, project, roots if self.knows_roots else {})
        end = executor.run(request, stop, progress)
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
        project.step(
            "code",
            "imports_user_code",
            code=(FileInput(blocks, ("model", "source", "factory")),),
            user_code=CodeAccess(),
        ),
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
    elsewhere = Elsewhere(project.store, project.plan(*steps(project)), tmp_path / "elsewhere")
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


def outside(project: Project, tmp_path: Path) -> Step:
    """A step whose files lie outside of the spec's folder, and are named in the two ways that a spec can."""
    shared, data = tmp_path / "shared", tmp_path / "data"
    (shared / "data").mkdir(parents=True)
    data.mkdir()
    (shared / "model.pt").write_text("model", encoding="utf-8")
    (shared / "data" / "part.bin").write_text("part", encoding="utf-8")
    (data / "samples.npz").write_text("samples", encoding="utf-8")
    at = ("model", "source", "weights")
    weights = FileInput.of(project.folder / "../shared/model.pt", at, project.folder, "weights")
    inputs = {
        "weights": weights,
        "file:data/part.bin": weights.beside("data/part.bin"),
        "samples": FileInput.of(data / "samples.npz", ("model", "samples"), project.folder, "samples"),
    }
    step: Step = project.step("import", "read_beside", inputs=inputs)
    return step


@pytest.mark.processes
def test_files_outside_of_the_specs_folder_are_found_on_another_machine_too(project: Project, tmp_path: Path) -> None:
    step = outside(project, tmp_path)
    here = project.run(step)
    assert project.text(here, "import") == "part+samples+model+part"
    project.home = Home(tmp_path / "other home")
    project.home.prepare()
    elsewhere = Elsewhere(project.store, project.plan(step), tmp_path / "elsewhere")
    there = project.run(step, executor=elsewhere)
    assert project.text(there, "import") == "part+samples+model+part"
    assert here["import"].receipt is not None
    assert there["import"].receipt is not None
    assert here["import"].receipt.key == there["import"].receipt.key
    assert not [wire for wire in elsewhere.wires if str(tmp_path) in wire or ".." in wire], "a path of this machine"


def test_a_file_that_cannot_be_found_where_a_step_runs_is_refused(project: Project, tmp_path: Path) -> None:
    step = outside(project, tmp_path)
    elsewhere = Elsewhere(project.store, project.plan(step), tmp_path / "elsewhere", knows_roots=False)
    with pytest.raises(StepFailed, match="cannot be found where the step should run") as caught:
        project.run(step, executor=elsewhere)
    assert caught.value.diagnostics[0].code == "E203"


def test_code_that_lies_outside_of_the_project_is_refused_and_not_named_by_its_last_part(
    project: Project, tmp_path: Path
) -> None:
    stray = tmp_path / "blocks.py"
    stray.write_text("", encoding="utf-8")
    step = project.step("code", "imports_user_code", code=(FileInput(stray, ("model", "source", "factory")),))
    with pytest.raises(SpecInvalid, match=r"blocks\.py cannot be named relative to"):
        project.run(step)


@pytest.mark.parametrize("path", ["../x.pt", "/x.pt", "a/../../x.pt"])
def test_a_path_that_leads_out_of_its_folder_is_no_part_of_a_request(path: str) -> None:
    with pytest.raises(ValidationError, match="leads out of its folder"):
        UserInput(path=path, sha256="00")


@pytest.mark.parametrize("change", [{"format": 2}, {"seed": 1}, {"network": "no"}, None])
def test_a_damaged_job_is_recognised(change: dict[str, object] | None, tmp_path: Path) -> None:
    job = WorkerJob(
        format=1, step="a", function="m:f", params={}, inputs={}, output="o", scratch="s", project="p", result="r",
        network=False, containers=False, accelerator="none", import_roots=("../src",), variables=(),
    )  # fmt: skip
    file = tmp_path / "job.json"
    job.write(file)
    assert WorkerJob.read(file) == job
    text = file.read_text(encoding="utf-8")
    file.write_text(text[:-20] if change is None else json.dumps(json.loads(text) | change), encoding="utf-8")
    with pytest.raises(StoreFailed, match="not a job of this version") as caught:
        WorkerJob.read(file)
    assert caught.value.diagnostics[0].code == "E714"


def test_a_request_with_an_unknown_key_is_refused() -> None:
    request = StepRequest(key="00", step="a", function="m:f", params={}, inputs={}, timeout=1.0)
    assert StepRequest.model_validate_json(request.model_dump_json()) == request
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        StepRequest.model_validate({**request.model_dump(), "output": "/tmp/x"})
