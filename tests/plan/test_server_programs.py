"""Servers that are not in a package, in a plan: their identity is part of the key, and a note mentions them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.observing import observe_here
from orchestrator.errors import SpecInvalid
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.found import planned_model
from orchestrator.plan.keys import key_parts
from orchestrator.plan.step import Plan
from orchestrator.spec.load import load_spec
from tests.artifacts.made import inspection
from tests.fake_engine import NO_ENGINE, fake_engine

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: keras, weights: model.keras}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
"""
FOUND = inspection(
    {
        "inputs": [{"tensor": "image", "dtype": "float32", "shape": [None, 8]}],
        "outputs": [{"tensor": "logits", "dtype": "float32", "shape": [None, 10]}],
    }
)
JAVA = "echo 'openjdk version \"17.0.15\"' >&2"
FOLDER = "deploy: {target: folder, path: out}\n"
SLO = "slo: {p99_latency: 50ms}\n"

PlannedWith = Callable[..., Plan]


@pytest.fixture
def planned_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlannedWith:
    """`planned_with(tensorflow_model_server="echo x", engine=an_engine)`: the plan on a PATH that holds these programs and nothing else."""
    (tmp_path / "model.keras").write_bytes(b"a model")
    monkeypatch.chdir(tmp_path)
    count = 0

    def planned(more: str = "", *, kind: str = "keras", engine: str = NO_ENGINE, **programs: str) -> Plan:
        nonlocal count
        count += 1
        folder = tmp_path / f"bin-{count}"
        folder.mkdir()
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("DOCKER_HOST", engine)
        Path("spec.yaml").write_text(SPEC.replace("kind: keras", f"kind: {kind}") + more, "utf-8")
        loaded = load_spec("spec.yaml")
        return compile_plan(loaded, planned_model(loaded, FOUND if kind == "keras" else None), observe_here(loaded))

    return planned


def measuring(plan: Plan) -> dict[str, Any]:
    return key_parts(plan.step("benchmark.server"), {}, {}, plan.here)


@contextmanager
def with_image(name: str, known: str) -> Iterator[str]:
    """The host of an engine that has one image."""
    with fake_engine() as engine:
        engine.images = {name: known}
        yield engine.host


@pytest.mark.processes
def test_each_image_and_each_version_of_the_program_is_measured_separately(planned_with: PlannedWith) -> None:
    with (
        with_image("tensorflow/serving:2.20.0", "sha256:12ab") as one,
        with_image("tensorflow/serving:2.20.0", "sha256:34cd") as other,
        with_image("tensorflow/serving:latest", "sha256:12ab") as latest,
    ):
        of_images = [measuring(planned_with(engine=host)) for host in (one, other, latest)]
    found = [
        measuring(planned_with()),
        *of_images,
        measuring(planned_with(tensorflow_model_server="echo TensorFlow ModelServer: 2.20.0")),
        measuring(planned_with(tensorflow_model_server="echo TensorFlow ModelServer: 2.19.1")),
    ]
    assert [parts for place, parts in enumerate(found) if parts in found[:place]] == []
    assert found[0] == measuring(planned_with()), "and nothing else makes them differ"


def test_an_engine_that_does_not_respond_is_noted_and_one_without_images_is_not(planned_with: PlannedWith) -> None:
    def of_engine(plan: Plan) -> list[str]:
        return [note for note in plan.notes if "Docker Engine" in note]

    assert of_engine(planned_with()) == []
    with fake_engine() as engine:
        assert of_engine(planned_with(engine=engine.host)) == []
    with fake_engine() as engine:
        engine.refuses = "it is shutting down"
        (note,) = of_engine(planned_with(FOLDER, engine=engine.host))
        reason = tried_and_refused(planned_with(engine=engine.host))[1]["tensorflow-serving"]
    assert note.endswith("TensorFlow Serving (it is shutting down), so saved-model is only measured without a server")
    assert "the Docker Engine did not list its images: it is shutting down; fix the Docker Engine" in reason


def test_without_java_the_plan_says_that_torchserve_proves_no_service_level(planned_with: PlannedWith) -> None:
    def told(**programs: str) -> bool:
        plan = planned_with(FOLDER + SLO + "optimize: {formats: [torchscript]}\n", kind="torchscript", **programs)
        return any("no server can be measured" in note for note in plan.notes)

    assert told()
    assert not told(java=JAVA)


def tried_and_refused(plan: Plan) -> tuple[set[str], dict[str, str]]:
    tried = {row["backend"] for row in plan.step("benchmark.server").params["candidates"]}
    return tried, {each.backend: each.reason for each in plan.refused}


def test_what_cannot_be_started_here_is_not_tried_for_a_server_on_this_machine(planned_with: PlannedWith) -> None:
    tried, refused = tried_and_refused(planned_with())
    assert "tensorflow-serving" not in tried
    told = "`deploy.target: local` cannot start tensorflow-serving on this machine: tensorflow_model_server is not on the PATH"
    assert refused["tensorflow-serving"].startswith(told)
    assert refused["tensorflow-serving"].endswith("; install one of them")

    tried, refused = tried_and_refused(planned_with(kind="torchscript"))
    assert "torchserve" not in tried
    told = "`deploy.target: local` cannot start torchserve on this machine: java is not on the PATH; install a Java runtime"
    assert refused["torchserve"].startswith(told)

    old = planned_with(kind="torchscript", java="echo 'openjdk version \"11.0.2\"' >&2")
    assert "is Java 11; install a Java runtime, version 17 or later" in tried_and_refused(old)[1]["torchserve"]


def test_what_can_be_started_here_and_what_is_for_a_folder_is_tried(planned_with: PlannedWith) -> None:
    here = planned_with(tensorflow_model_server="echo TensorFlow ModelServer: 2.20.0")
    assert "tensorflow-serving" in tried_and_refused(here)[0]
    assert "torchserve" in tried_and_refused(planned_with(kind="torchscript", java=JAVA))[0]
    assert "tensorflow-serving" in tried_and_refused(planned_with(FOLDER))[0], "its reader brings the server"
    assert "torchserve" in tried_and_refused(planned_with(FOLDER, kind="torchscript"))[0]


def test_if_no_server_can_be_started_here_the_plan_says_so_with_the_ways_out(planned_with: PlannedWith) -> None:
    with pytest.raises(SpecInvalid) as caught:
        planned_with("optimize: {formats: [saved-model]}\nserving: {backend: tensorflow-serving}\n")

    (told,) = caught.value.diagnostics
    assert (told.code, told.message) == ("E201", "no candidate can be tried")
    assert any("cannot start tensorflow-serving on this machine" in note for note in told.notes)
    assert told.remedy == (
        "install what is missing, allow onnx in `optimize.formats`, set `serving.backend: auto`, or start the server elsewhere: "
        "`deploy.target` may be `folder`, `gitops`, `kubernetes` or `docker`"
    )


def test_a_plan_says_where_a_server_listens_on_all_interfaces(planned_with: PlannedWith) -> None:
    plan = planned_with(tensorflow_model_server="echo TensorFlow ModelServer: 2.20.0")
    assert any("listens on all interfaces" in note for note in plan.notes)
    assert not any("listens on" in note for note in planned_with().notes)


def test_for_a_folder_auto_tries_models_for_devices_unless_a_service_level_has_to_be_proven(
    planned_with: PlannedWith,
) -> None:
    def tried(more: str) -> set[str]:
        plan = planned_with(more)
        return {row["format"] for row in plan.step("benchmark.server").params["candidates"]}

    assert "tflite" in tried(FOLDER)
    assert "tflite" in tried(FOLDER + "slo: {p99_latency: 50ms, enforce: false}\n")
    assert "tflite" in tried(FOLDER + SLO + "optimize: {formats: [onnx, tflite]}\n"), "who names it gets it"
    assert "tflite" not in tried(FOLDER + SLO)
    reasons = {refused.candidate: refused.reason for refused in planned_with(FOLDER + SLO).refused}
    assert "`slo` is enforced, and no server can prove it" in reasons["tflite-fp32"]
