"""What is rendered for GPUs, as Docker's, Helm's and Kubernetes' own tools see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.server.config import load_config

Render = Callable[..., Path]
Run = Callable[..., str]

each = pytest.mark.parametrize(
    ("backend", "devices"), [("onnxruntime", 2), ("torchserve", 2), ("tensorflow-serving", 1)]
)


def deployment(run_tool: Run, folder: Path, *more: str, kubernetes: str = "1.35") -> dict[str, Any]:
    """The Deployment that Helm would send."""
    text = run_tool(
        "helm", "template", "prod", str(folder / "chart"), "--values", str(folder / "values.yaml"),
        "--kube-version", f"{kubernetes}.0", *more,
    )  # fmt: skip
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        kubernetes_validate.validate(document, kubernetes, strict=True)
    (found,) = (document for document in documents if document["kind"] == "Deployment")
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.mark.processes
@each
def test_linters_pass(render_to: Render, run_tool: Run, backend: str, devices: int) -> None:
    folder = render_to(backend, devices=devices)
    run_tool("helm", "lint", "--strict", str(folder / "chart"), "--values", str(folder / "values.yaml"))
    dockerfile = folder / "docker" / "Dockerfile"
    assert run_tool("hadolint", "--failure-threshold", "style", "--no-color", str(dockerfile)) == ""


@pytest.mark.processes
@each
@pytest.mark.parametrize("kubernetes", ["1.25", "1.37"])
def test_a_pod_asks_for_its_gpus_and_tolerates_their_nodes(
    render_to: Render, run_tool: Run, backend: str, devices: int, kubernetes: str
) -> None:
    pod = deployment(run_tool, render_to(backend, devices=devices), kubernetes=kubernetes)["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": devices}
    assert "nvidia.com/gpu" not in resources["requests"]  # which Kubernetes makes equal to the limit
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "runtimeClassName" not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.processes
def test_without_spare_gpus_a_pod_is_stopped_before_the_next_one_starts(render_to: Render, run_tool: Run) -> None:
    folder = render_to("onnxruntime", devices=2)
    assert deployment(run_tool, folder)["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    scarce = ("--set", "rollout.maxSurge=0", "--set", "rollout.maxUnavailable=1")
    assert deployment(run_tool, folder, *scarce)["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    with pytest.raises(AssertionError, match="maxSurge and maxUnavailable are 0"):
        deployment(run_tool, folder, "--set", "rollout.maxSurge=0")


@pytest.mark.processes
def test_a_cluster_names_its_kind_of_device_and_its_runtime(render_to: Render, run_tool: Run) -> None:
    more = ("--set", "accelerators.resource=nvidia.com/mig-1g.10gb", "--set", "runtimeClassName=nvidia")
    pod = deployment(run_tool, render_to("onnxruntime", devices=1), *more)["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert pod["runtimeClassName"] == "nvidia"


@pytest.mark.processes
@pytest.mark.parametrize("wrong", ["accelerators.count=-1", "accelerators.resource=gpu", "runtimeClassName=A B"])
def test_values_that_are_wrong_are_refused(render_to: Render, run_tool: Run, wrong: str) -> None:
    with pytest.raises(AssertionError, match="values don't meet the specifications"):
        deployment(run_tool, render_to("onnxruntime", devices=1), "--set", wrong)


@each
def test_compose_reserves_them_for_the_one_service(render_to: Render, backend: str, devices: int) -> None:
    compose = yaml.safe_load((render_to(backend, devices=devices) / "compose.yaml").read_text())
    (reserved,) = compose["services"]["model"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == {"driver": "nvidia", "count": devices, "capabilities": ["gpu"]}


@pytest.mark.processes
@each
def test_without_gpus_no_file_mentions_them(render_to: Render, run_tool: Run, backend: str, devices: int) -> None:
    folder = render_to(backend)
    for name in ("compose.yaml", "values.yaml", "README.md", "docker/Dockerfile"):
        text = (folder / name).read_text().lower()
        assert "nvidia" not in text, name
    pod = deployment(run_tool, folder)["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert "tolerations" not in pod


@each
def test_the_image_takes_the_driver_from_outside_and_names_no_gpu(
    render_to: Render, backend: str, devices: int
) -> None:
    text = (render_to(backend, devices=devices) / "docker" / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in final
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in final, "device 0 is the one that was measured"
    # Set in an image, it would give every pod on the node all GPUs, whatever the pod asks for.
    assert "NVIDIA_VISIBLE_DEVICES" not in text


def test_onnx_runtime_comes_as_its_build_for_cuda_with_cuda(render_to: Render) -> None:
    lines = (render_to("onnxruntime", devices=2) / "docker" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("onnxruntime")] == ["onnxruntime-gpu[cuda,cudnn]==1.31.1"]


def test_the_build_that_was_measured_is_the_one_that_is_installed(render_to: Render) -> None:
    tools = {"onnxruntime-gpu": "1.30.0", "nvidia-cudnn-cu12": "9.8.0.87"}
    lines = (render_to("onnxruntime", devices=1, tools=tools) / "docker" / "requirements.txt").read_text().splitlines()
    assert {"onnxruntime-gpu[cuda,cudnn]==1.30.0", "nvidia-cudnn-cu12==9.8.0.87"} <= set(lines)
    assert not [line for line in lines if line.startswith("onnxruntime=")]


@pytest.mark.parametrize("graphs", [False, True])
def test_the_server_reads_its_devices_from_its_configuration(render_to: Render, graphs: bool) -> None:
    config = load_config(render_to("onnxruntime", devices=3, cuda_graphs=graphs) / "serving" / "server.json")
    assert (config.provider, config.devices, config.cuda_graphs) == ("CUDAExecutionProvider", (0, 1, 2), graphs)
    assert config.sessions == (0, 1, 2)
    assert config.threads == 3  # of 2 CPUs, since each device has a thread of its own


def test_torchserve_has_a_worker_for_each_device_in_their_order(render_to: Render) -> None:
    serving = render_to("torchserve", devices=2) / "serving"
    assert "\nnumber_of_gpu=2\n" in (serving / "config.properties").read_text()
    config = yaml.safe_load((serving / "model-store" / "digits" / "model-config.yaml").read_text())
    assert {name: config[name] for name in ("minWorkers", "maxWorkers", "deviceType", "deviceIds")} == {
        "minWorkers": 2, "maxWorkers": 2, "deviceType": "gpu", "deviceIds": [0, 1]
    }  # fmt: skip
    assert config["mlo"]["accelerator"] == "cuda"


def test_tensorflow_serving_is_built_on_its_image_for_gpus_and_takes_memory_as_it_needs_it(render_to: Render) -> None:
    folder = render_to("tensorflow-serving", devices=1)
    text = (folder / "docker" / "Dockerfile").read_text()
    assert "\nFROM tensorflow/serving:2.20.0-gpu\n" in text
    assert "TF_FORCE_GPU_ALLOW_GROWTH=true" in text
    assert json.loads((folder / "serving" / "server.json").read_text())["devices"] == 1


def test_the_readme_says_what_a_machine_needs(render_to: Render) -> None:
    text = (render_to("torchserve", devices=2) / "README.md").read_text()
    assert "2 NVIDIA GPUs" in text
    assert "Container Toolkit" in text
    assert "nothing here uses" not in text
