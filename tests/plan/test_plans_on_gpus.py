"""Plans of specs that ask for GPUs, on machines that have them, have fewer, or have packages for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.diagnostics_text import render_text
from orchestrator.engine.observing import observe_here
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import Here
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.cuda import require_devices
from orchestrator.plan.found import planned_model
from orchestrator.plan.keys import key_parts
from orchestrator.plan.step import Plan, Step
from orchestrator.spec.load import LoadedSpec, load_spec
from tests.measure.fake_gpus import H100, write_gpus
from tests.plan.fake_site import install
from tests.plan.spec_text import DECLARED

SPEC = DECLARED + "hardware: {cpus: 4, accelerator: cuda, count: 2}\n"

Load = Callable[[str], LoadedSpec]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a spec from its text."""
    (tmp_path / "digits.pt").write_bytes(b"a model")
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> LoadedSpec:
        (tmp_path / "spec.yaml").write_text(text)
        return load_spec(Path("spec.yaml"), platform=None, environment=None)

    return load


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The files of a machine with two GPUs."""
    return write_gpus(tmp_path / "machine", (H100, H100))


def site(tmp_path: Path, *, torch: bool = True, onnxruntime: bool = True) -> list[str]:
    """A place of packages that are builds for CUDA, or for CPUs."""
    folder = tmp_path / "site"
    install(folder, "torch", cuda=torch)
    return [install(folder, "onnxruntime", cuda=onnxruntime)]


def planned(loaded: LoadedSpec, here: Here) -> Plan:
    return compile_plan(loaded, planned_model(loaded, None), here)


def required(loaded: LoadedSpec, root: Path) -> None:
    require_devices(loaded, observe_here(loaded, root))


def step(plan: Plan, step_id: str) -> Step:
    return next(step for step in plan.steps if step.id == step_id)


def reasons(plan: Plan) -> dict[str, str]:
    return {refused.candidate: refused.reason for refused in plan.refused}


def shown(call: Callable[[], Any]) -> str:
    with pytest.raises(SpecInvalid) as raised:
        call()
    return render_text(raised.value.diagnostics, color=False, width=200)


def test_a_machine_without_gpus_says_so_at_the_line_that_asks(load: Load, tmp_path: Path) -> None:
    assert shown(lambda: required(load(SPEC), tmp_path)) == (
        "error[E205]: the spec asks for 2 GPUs, which this machine lacks\n"
        " --> spec.yaml:9:34\n"
        "  |\n"
        "9 | hardware: {cpus: 4, accelerator: cuda, count: 2}\n"
        "  |                                  ^^^^ this machine has no NVIDIA GPU\n"
        "  = cause: candidates are verified and measured on the hardware that will serve them\n"
        "  = help: plan, apply or render on a machine that has them; what `mlo render` writes there runs on every machine "
        "with such GPUs"
    )


def test_a_machine_with_fewer_gpus_says_how_many_it_has(load: Load, tmp_path: Path) -> None:
    said = shown(lambda: required(load(SPEC), write_gpus(tmp_path / "machine")))
    assert said.startswith("error[E205]: the spec asks for 2 GPUs")
    assert "9 | hardware: {cpus: 4, accelerator: cuda, count: 2}\n" in said
    assert "                                              ^ this machine has 1 NVIDIA GPU\n" in said
    assert "or ask for 1 with `hardware.count`" in said
    required(load(SPEC.replace("count: 2", "count: 1")), tmp_path / "machine")
    required(load(SPEC), write_gpus(tmp_path / "another", (H100, H100)))


def test_gpus_do_not_matter_for_a_spec_for_cpus(load: Load, tmp_path: Path, machine: Path) -> None:
    loaded = load(SPEC.replace(", accelerator: cuda, count: 2", ""))
    for root in (tmp_path, machine):
        assert observe_here(loaded, root).cuda is None
        required(loaded, root)


def test_packages_for_cpus_refuse_what_they_would_run(load: Load, tmp_path: Path, machine: Path) -> None:
    loaded = load(SPEC)
    plan = planned(loaded, observe_here(loaded, machine, site(tmp_path, torch=False)))
    assert [step.id for step in plan.steps if step.kind == "verify"] == ["verify.onnx-fp32"]
    assert reasons(plan)["torchscript-fp32"].startswith("the installed torch is a CPU build: ")


def test_with_packages_for_cpus_only_no_candidate_is_left(load: Load, tmp_path: Path, machine: Path) -> None:
    loaded = load(SPEC)
    here = observe_here(loaded, machine, site(tmp_path, torch=False, onnxruntime=False))
    said = shown(lambda: planned(loaded, here))
    assert "error[E201]: no candidate can be tried" in said
    assert "onnx-fp32: the installed onnxruntime is a CPU build: pip uninstall onnxruntime" in said
    assert "help: install the build of torch for your CUDA version" in said


def test_every_step_that_runs_the_model_runs_it_on_the_gpu_and_what_is_served_has_all(
    load: Load, tmp_path: Path, machine: Path
) -> None:
    loaded = load(SPEC + "serving: {cuda_graphs: true}\n")
    plan = planned(loaded, observe_here(loaded, machine, site(tmp_path)))
    running = {s.id for s in plan.steps if s.accelerator == "cuda"}
    assert running == {"verify.onnx-fp32", "benchmark.runtime", "benchmark.server"}
    assert {s.id for s in plan.steps if s.params.get("accelerator") == "cuda"} == {*running, "select"}
    assert step(plan, "benchmark.server").params["devices"] == 2
    assert step(plan, "render").params["settings"]["devices"] == 2
    assert step(plan, "render").params["settings"]["cuda_graphs"] is True


def test_a_plan_for_cpus_has_the_same_keys_whatever_gpus_there_are(load: Load) -> None:
    loaded = load(SPEC.replace(", accelerator: cuda, count: 2", ""))
    plan = planned(loaded, observe_here(loaded))
    for each in plan.steps:
        assert {each.accelerator, each.params.get("accelerator", "none")} == {"none"}
        assert each.params.get("devices", 0) == 0
    assert "accelerators" not in key_parts(step(plan, "benchmark.runtime"), {}, {}, plan.here)["machine"]


def test_results_on_gpus_belong_to_these_gpus_and_their_driver(load: Load, tmp_path: Path, machine: Path) -> None:
    loaded = load(SPEC)
    plan = planned(loaded, observe_here(loaded, machine, site(tmp_path)))
    for name in ("verify.onnx-fp32", "benchmark.runtime", "benchmark.server"):
        assert set(key_parts(step(plan, name), {}, {}, plan.here)["machine"]["accelerators"]) == {"driver", "names"}
    assert "machine" not in key_parts(step(plan, "convert.onnx"), {}, {}, plan.here)


def test_the_plan_says_on_what_it_is_measured_and_what_does_not_fit(load: Load, tmp_path: Path, machine: Path) -> None:
    loaded = load(
        SPEC.replace("cpus: 4, ", "cpus: 1, ") + "serving: {replicas: {min: 1, max: 3}}\noptimize_for: cost\n"
    )
    notes = planned(loaded, observe_here(loaded, machine, site(tmp_path))).notes
    assert f"proven and measured on {H100}, {H100}; other GPUs have other latencies" in notes
    assert "`hardware.cpus: 1` feeds 2 GPUs, each from its own thread; set it to 2 or more" in notes
    assert any("counts CPU time" in note for note in notes)
    assert any("autoscaler scales on CPU use" in note for note in notes)


def test_variants_that_gpus_do_not_support_are_refused_with_the_reason(
    load: Load, tmp_path: Path, machine: Path
) -> None:
    loaded = load(SPEC + "serving: {cuda_graphs: true}\noptimize: {precisions: [fp32, int8, bf16]}\n")
    refused = reasons(planned(loaded, observe_here(loaded, machine, site(tmp_path))))
    assert "int8 is quantized for CPU kernels" in refused["onnx-int8"]
    assert (
        refused["torchscript-fp32"]
        == "`serving.cuda_graphs` is true, but torchserve does not support CUDA graphs; onnxruntime does"
    )
    assert refused["onnx-bf16"] == "ONNX Runtime has no bfloat16 kernels for CPUs, and few for GPUs"
