"""What the render step leaves."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from orchestrator.artifacts.container import ContainerSettings
from orchestrator.artifacts.variant_facts import OwnNames
from orchestrator.backends.table import SERVERS, serving_backend
from orchestrator.server.config import load_config
from orchestrator.steps.context import StepError
from tests.artifacts.made import winner

Render = Callable[..., Path]

each = pytest.mark.parametrize("backend", ["onnxruntime", "torchserve", "tensorflow-serving"])


def _tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o7777, path.read_bytes() if path.is_file() else b"")
        for path in paths
    }


@each
def test_two_renders_give_the_same_bytes_and_modes(render_to: Render, backend: str) -> None:
    first = _tree(render_to(backend, "first"))
    mask = os.umask(0o077)
    try:
        time.sleep(1.1)  # a time in a file would differ now
        second = _tree(render_to(backend, "second"))
    finally:
        os.umask(mask)
    assert first == second
    assert {mode for mode, _ in first.values()} == {0o644, 0o755}


@each
def test_everything_that_a_release_needs_is_there(render_to: Render, backend: str) -> None:
    folder = render_to(backend)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".dockerignore", "README.md", "chart", "compose.yaml", "container.json", "docker", "serving", "values.yaml", "winner.json",
    ]  # fmt: skip


@each
def test_the_model_is_there_once(render_to: Render, backend: str) -> None:
    folder = render_to(backend, model=b"the weights of this test")
    having = [path for path in folder.rglob("*") if path.is_file() and b"the weights of" in path.read_bytes()]
    assert len(having) == 1
    assert having[0].is_relative_to(folder / "serving")


def test_a_device_gets_the_model_and_its_signature(render_to: Render) -> None:
    names = OwnNames(inputs={"x": "serving_default_x:0"}, outputs={"y": "y"})
    folder = render_to("litert", facts={"names": names})
    assert sorted(path.name for path in folder.iterdir()) == ["serving", "winner.json"]
    assert (folder / "serving" / "model.tflite").read_bytes() == b"a model"
    described = json.loads((folder / "serving" / "model.json").read_text())
    assert described["names"] == {"inputs": {"x": "serving_default_x:0"}, "outputs": {}}
    assert described["signature"]["inputs"][0]["name"] == "x"


@each
def test_no_path_of_this_machine_gets_in(render_to: Render, backend: str, tmp_path: Path) -> None:
    folder = render_to(backend)
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content, path
            assert str(Path.home()).encode() + b"/" not in content, path


@each
def test_the_digests_are_in_image_and_chart(render_to: Render, backend: str, tmp_path: Path) -> None:
    folder = render_to(backend)
    assert (folder / "winner.json").read_bytes() == (tmp_path / "work-rendered" / "winner.json").read_bytes()
    decision = hashlib.sha256((folder / "winner.json").read_bytes()).hexdigest()
    model = hashlib.sha256(b"a model").hexdigest()
    dockerfile = (folder / "docker" / "Dockerfile").read_text()
    assert f'mlo.decision-digest="sha256:{decision}"' in dockerfile
    assert f'mlo.model-digest="sha256:{model}"' in dockerfile
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert values["model"]["decisionDigest"] == decision
    assert f'echo "{decision}  winner.json" | sha256sum --check' in (folder / "README.md").read_text()


def _tags(folder: Path) -> set[str]:
    """Each tag that the files beside the build context name."""
    values = yaml.safe_load((folder / "values.yaml").read_text())
    image = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]["image"]
    built = re.findall(r"docker build.* --tag \S+:(\S+) \.", (folder / "README.md").read_text())
    return {values["image"]["tag"], image.rpartition(":")[2], *built}


@each
@pytest.mark.parametrize(
    "change",
    [
        {"base": "python:3.12-slim-bookworm"},
        {"cpus": 4.0},
        {"model": b"another model"},
    ],
)
def test_a_different_image_has_a_different_tag(render_to: Render, backend: str, change: dict[str, object]) -> None:
    (tag,) = _tags(render_to(backend, "before"))
    (again,) = _tags(render_to(backend, "again"))
    (other,) = _tags(render_to(backend, "after", **change))
    assert re.fullmatch(r"[0-9a-f]{16}", tag)
    assert tag == again
    assert other != tag


def test_values_of_the_chart_do_not_change_the_image(render_to: Render) -> None:
    before, after = (
        render_to("onnxruntime", "before"),
        render_to("onnxruntime", "after", min_replicas=2, max_replicas=4),
    )
    assert _tags(before) == _tags(after)


def test_packages_are_pinned_to_what_was_measured(render_to: Render) -> None:
    onnx = (render_to("onnxruntime", "a") / "docker" / "requirements.txt").read_text().splitlines()
    assert {"onnxruntime==1.31.1", "uvicorn==0.40.0", "prometheus-client==0.23.1"} <= set(onnx)
    assert onnx == sorted(onnx)
    torch = (render_to("torchserve", "b") / "docker" / "requirements.txt").read_text().splitlines()
    assert {"torch==2.13.0+cpu", "torchserve==0.12.0", "pyyaml"} <= set(torch)


def test_the_server_travels_with_the_onnx_image_alone(render_to: Render) -> None:
    docker = render_to("onnxruntime", "a") / "docker"
    assert (docker / "mlo_server" / "__main__.py").is_file()
    assert not [path for path in (docker / "mlo_server").rglob("*") if path.is_file() and path.suffix != ".py"]
    assert not [p for p in (docker / "mlo_server").rglob("*.py") if "from orchestrator" in p.read_text()]
    assert not (render_to("torchserve", "b") / "docker" / "mlo_server").exists()
    assert sorted(path.name for path in (render_to("tensorflow-serving", "c") / "docker").iterdir()) == ["Dockerfile"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_grpc_is_in_configuration_image_compose_file_values_and_readme(render_to: Render, backend: str) -> None:
    folder = render_to(backend, grpc=True)
    assert load_config(folder / "serving" / "server.json").grpc_port == 8081
    assert "\nEXPOSE 8080 8081\n" in (folder / "docker" / "Dockerfile").read_text()
    pins = (folder / "docker" / "requirements.txt").read_text().splitlines()
    assert {f"{name}=={metadata.version(name)}" for name in ("grpcio", "protobuf")} <= set(pins)
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    assert service["ports"] == ["127.0.0.1:${PORT:-8080}:8080", "127.0.0.1:${GRPC_PORT:-8081}:8081"]
    assert yaml.safe_load((folder / "values.yaml").read_text())["image"]["server"]["grpcPort"] == 8081
    assert "Port 8081 takes them over gRPC" in (folder / "README.md").read_text()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_traces_are_in_configuration_packages_and_values(render_to: Render, backend: str) -> None:
    folder = render_to(backend, traces={"endpoint": "http://collector.observability:4318", "sample": 0.25})
    traces = load_config(folder / "serving" / "server.json").traces
    assert traces is not None
    assert (traces.endpoint, traces.sample) == ("http://collector.observability:4318", 0.25)
    pins = (folder / "docker" / "requirements.txt").read_text().splitlines()
    packages = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
    assert {f"{name}=={metadata.version(name)}" for name in packages} <= set(pins)
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert values["traces"] == {"endpoint": "http://collector.observability:4318"}
    assert "opentelemetry" not in (render_to(backend, "without") / "docker" / "requirements.txt").read_text()


def test_without_grpc_nothing_speaks_of_it(render_to: Render) -> None:
    folder = render_to("onnxruntime")
    assert load_config(folder / "serving" / "server.json").grpc_port is None
    for file in ("docker/Dockerfile", "docker/requirements.txt", "compose.yaml", "values.yaml", "README.md"):
        assert "grpc" not in (folder / file).read_text().lower(), file


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_limits_are_in_the_configuration_and_a_stopping_pod_is_given_the_time(render_to: Render, backend: str) -> None:
    limits = {"max_body": 2**24, "max_connections": 64, "request_timeout": 90.5, "queue": 100}
    folder = render_to(backend, limits=limits)
    config = load_config(folder / "serving" / "server.json")
    assert (config.max_body_bytes, config.max_connections) == (2**24, 64)
    assert (config.request_timeout_s, config.queue_rows) == (90.5, 100)
    assert yaml.safe_load((folder / "values.yaml").read_text())["shutdown"]["requestSeconds"] == 91
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    assert service["stop_grace_period"] == "101s"


_AUTH = {"token_file": "/run/secrets/digits/token", "secret": "digits-token"}


@each
def test_the_compose_file_and_the_document_for_containers_say_the_same(render_to: Render, backend: str) -> None:
    takes_tokens = backend == "onnxruntime"
    folder = render_to(backend, **({"auth": _AUTH} if takes_tokens else {}))
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    settings = ContainerSettings.read(folder)
    assert service["ports"] == [f"127.0.0.1:${{PORT:-{settings.port}}}:{settings.port}"]
    assert service["read_only"] is settings.read_only is True
    assert service["tmpfs"] == [f"{path}:{options}" for path, options in settings.tmpfs.items()]
    assert service["cap_drop"] == list(settings.cap_drop) == ["ALL"]
    assert service["security_opt"] == [f"no-new-privileges:{str(settings.no_new_privileges).lower()}"]
    limits = service["mem_limit"], service["mem_reservation"], service["cpus"], service["pids_limit"]
    assert limits == (settings.memory, settings.memory_request, settings.cpus, settings.processes)
    assert service["stop_grace_period"] == f"{settings.stop_seconds}s"
    assert [each["source"] for each in service.get("volumes", ())] == ([settings.token_file] if takes_tokens else [])
    assert f"USER {settings.user}" in (folder / "docker" / "Dockerfile").read_text()
    # Compose routes nothing away before it stops a container; a target that does adds what the server's command line takes.
    assert settings.at_once == (("--drain-seconds", "0") if backend in ("onnxruntime", "openvino") else ())
    assert "drain-seconds" not in (folder / "docker" / "Dockerfile").read_text()
    assert settings.ready_path in (folder / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_place_of_the_tokens_is_in_configuration_compose_file_values_and_readme(
    render_to: Render, backend: str
) -> None:
    folder = render_to(backend, auth=_AUTH)
    assert str(load_config(folder / "serving" / "server.json").token_file) == _AUTH["token_file"]
    (mounted,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]["volumes"]
    assert (mounted["source"], mounted["target"], mounted["read_only"]) == (*[_AUTH["token_file"]] * 2, True)
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert values["auth"] == {"tokenFile": _AUTH["token_file"], "secret": "digits-token"}
    assert (
        "kubectl create secret generic digits-token --from-file=/run/secrets/digits/token"
        in (folder / "README.md").read_text()
    )


def test_without_tokens_nothing_speaks_of_them(render_to: Render) -> None:
    folder = render_to("onnxruntime")
    for file in ("docker/Dockerfile", "serving/server.json", "compose.yaml", "values.yaml", "README.md"):
        assert "token" not in (folder / file).read_text().lower(), file


@pytest.mark.parametrize(
    "auth",
    [
        {"token_file": '/run/secrets/x"', "secret": "s"},
        {"token_file": "/run/secrets/../../etc/token", "secret": "s"},
        {"token_file": "/run/secrets/token\nUSER root", "secret": "s"},
        {"token_file": "/run/secrets/token", "secret": "s --from-literal=a=b"},
    ],
)
def test_places_that_would_break_a_file_are_refused(render_to: Render, auth: dict[str, str]) -> None:
    with pytest.raises(StepError) as refused:
        render_to("onnxruntime", auth=auth)
    assert refused.value.diagnostic.code == "E452"


def test_origins_are_in_the_configuration_alone(render_to: Render) -> None:
    folder = render_to("onnxruntime", cors_origins=["https://app.example.com"])
    assert load_config(folder / "serving" / "server.json").cors_origins == ("https://app.example.com",)
    assert load_config(render_to("onnxruntime", "usual") / "serving" / "server.json").cors_origins is None
    with pytest.raises(StepError) as refused:
        render_to("onnxruntime", "wrong", cors_origins=["https://a.example\r\nset-cookie: a=b"])
    assert refused.value.diagnostic.code == "E452"


def test_one_limit_leaves_the_others_to_the_server(render_to: Render) -> None:
    usual = load_config(render_to("onnxruntime", "usual") / "serving" / "server.json")
    one = load_config(render_to("onnxruntime", "one", limits={"queue": 7}) / "serving" / "server.json")
    assert (usual.request_timeout_s, usual.max_connections) == (30, 16384)
    assert (one.request_timeout_s, one.max_connections, one.queue_rows) == (30, 16384, 7)
    assert one.max_body_bytes == usual.max_body_bytes


@each
def test_compose_grants_no_privileges(render_to: Render, backend: str) -> None:
    service = yaml.safe_load((render_to(backend) / "compose.yaml").read_text())["services"]["model"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    port = 8501 if backend == "tensorflow-serving" else 8080
    assert service["ports"] == [f"127.0.0.1:${{PORT:-{port}}}:{port}"]
    assert (service["mem_limit"], service["cpus"]) == (2**31, 2)
    assert service["stop_grace_period"] == ("10s" if backend == "tensorflow-serving" else "40s")
    (tmpfs,) = service["tmpfs"]
    assert tmpfs.startswith("/tmp:size=")
    assert ("exec" in tmpfs) == (backend == "torchserve"), "only TorchServe loads libraries from there"


def test_another_base_and_no_registry(render_to: Render) -> None:
    base = "mirror.example.com:5000/python@sha256:" + "d" * 64
    folder = render_to("onnxruntime", base=base, registry=None)
    assert (folder / "docker" / "Dockerfile").read_text().count(f"FROM {base}") == 2
    assert yaml.safe_load((folder / "values.yaml").read_text())["image"]["repository"] == "digits"
    assert "docker push digits" not in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "python:3.11\nRUN curl evil"},
        {"base": "python:3.11 AS x"},
        {"registry": "example.com/$(id)"},
        {"registry": "example.com\n"},
        {"labels": {"team": "a\nb: c"}},
        {"labels": {"team\n": "a"}},
        {"labels": {"team": 'a"b'}},
        {"name": "digits\nUSER root"},
        {"name": "../digits"},
        {"min_replicas": 3, "max_replicas": 2},
        {"min_replicas": "1; x"},
    ],
)
def test_a_value_that_could_inject_text_is_refused(render_to: Render, changes: dict[str, object]) -> None:
    with pytest.raises(StepError) as caught:
        render_to("onnxruntime", **changes)
    assert caught.value.code == "E452"


def test_the_readme_names_what_is_served(render_to: Render) -> None:
    readme = (render_to("torchserve") / "README.md").read_text()
    assert "/v2/models/digits/infer" in readme
    assert "no more security fixes" in readme
    assert "for 2 CPUs and 2Gi of memory" in readme


@pytest.mark.parametrize(
    ("facts", "needed"),
    [
        ({"precision": "int8", "reduce_range": False}, True),
        ({"precision": "int8", "reduce_range": True}, False),
        ({"precision": "fp32"}, False),
    ],
)
def test_int8_weights_of_all_8_bits_say_which_cpus_they_need(
    render_to: Render, facts: dict[str, object], needed: bool
) -> None:
    folder = render_to("onnxruntime", facts=facts)
    for file in ("README.md", "values.yaml"):
        assert ("CPU with VNNI" in (text := (folder / file).read_text()) or "CPUs with VNNI" in text) is needed, file
    assert ("nodeSelector" in yaml.safe_load((folder / "values.yaml").read_text())) is needed


def test_without_a_registry_the_readme_does_not_refer_to_a_public_one(render_to: Render) -> None:
    readme = (render_to("onnxruntime", registry=None) / "README.md").read_text()
    assert "helm upgrade" not in readme
    assert "image: {registry: ...}" in readme
    assert "helm upgrade" in (render_to("onnxruntime", "pushed") / "README.md").read_text()


def test_an_image_for_cpus_gets_pytorch_without_cuda(render_to: Render) -> None:
    tools = {"torch": "2.13.0+cu130", "torchserve": "0.12.0", "nvidia-cublas": "13.0", "triton": "3.6.0"}
    docker = render_to("torchserve", tools=tools) / "docker"
    pins = (docker / "requirements.txt").read_text().split()
    assert "torch==2.13.0+cpu" in pins
    assert not [pin for pin in pins if pin.startswith(("nvidia", "triton"))]
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in (docker / "Dockerfile").read_text()
    on_gpus = render_to("torchserve", "gpus", tools=tools, devices=1) / "docker"
    pins = (on_gpus / "requirements.txt").read_text().split()
    assert {"torch==2.13.0", "nvidia-cublas==13.0", "triton==3.6.0"} <= set(pins)
    assert "index" not in (on_gpus / "Dockerfile").read_text()


_HASHES = {"numpy==2.4.6": ("a" * 64, "b" * 64), "onnxruntime==1.31.1": ("c" * 64,)}


def test_hashes_of_all_packages_are_required_where_they_are_known(render_to: Render) -> None:
    tools = {"numpy": "2.4.6", **{name: "1.0" for name in serving_backend("onnxruntime").tools if name != "numpy"}}
    hashes = {f"{name}=={version}": ("c" * 64,) for name, version in tools.items()} | _HASHES
    folder = render_to("onnxruntime", tools=tools, hashes=hashes)
    listed = (folder / "docker" / "requirements.txt").read_text()
    assert f"numpy==2.4.6 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n" in listed
    assert listed.count("--hash") == len(tools) + 1
    assert "--require-hashes" in (folder / "docker" / "Dockerfile").read_text()
    assert "no hashes" not in (folder / "README.md").read_text()


def test_without_all_hashes_there_are_none_and_the_readme_says_why(render_to: Render) -> None:
    some = render_to("onnxruntime", "some", hashes=_HASHES)
    none = render_to("onnxruntime", "none", unlocked="the package index could not be asked: no route")
    for folder in (some, none):
        assert "hash" not in (folder / "docker" / "requirements.txt").read_text()
        assert "--require-hashes" not in (folder / "docker" / "Dockerfile").read_text()
    assert "no hashes: no file of httptools, numpy, orjson and others was found" in (some / "README.md").read_text()
    assert "no hashes: the package index could not be asked: no route." in (none / "README.md").read_text()


def test_wheels_of_a_folder_need_no_index(render_to: Render) -> None:
    folder = render_to("torchserve", wheels=True)
    dockerfile = (folder / "docker" / "Dockerfile").read_text()
    assert "--no-index --find-links /opt/wheelhouse" in dockerfile
    assert "https://" not in dockerfile
    assert "!wheelhouse" in (folder / ".dockerignore").read_text().splitlines()


@each
def test_a_new_model_only_makes_the_last_layer(render_to: Render, backend: str) -> None:
    """What an engine finds in its cache: all instructions before the one that copies the model."""
    changed = {"model": b"another model", "drain_seconds": 7}
    before, after = render_to(backend, "before"), render_to(backend, "after", **changed)
    texts = [(folder / "docker" / "Dockerfile").read_text().partition("FROM ")[2] for folder in (before, after)]
    heads = [text.partition("COPY serving ") for text in texts]
    assert heads[0][0] == heads[1][0]
    assert not re.search("^(RUN|COPY|ADD|WORKDIR) ", heads[0][2], re.MULTILINE)


def test_a_winner_whose_variant_was_not_made_is_reported(render_to: Render, tmp_path: Path) -> None:
    from orchestrator.render.step import render
    from orchestrator.steps.context import StepContext

    winner("onnx-int8").write(tmp_path)
    context = StepContext({}, {"winner": tmp_path / "winner.json"}, tmp_path, tmp_path, tmp_path)
    with pytest.raises(StepError, match="the winner's variant onnx-int8 is missing"):
        render(context)


def test_tensorflow_serving_has_as_many_threads_as_compose_allows(render_to: Render) -> None:
    folder = render_to("tensorflow-serving", cpus=64.0)
    (threads,) = re.findall(r"rest_api_num_threads=([0-9]+)", (folder / "serving" / "flags.txt").read_text())
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    assert int(threads) + 4 * 64 < service["pids_limit"]


@pytest.mark.parametrize("name", SERVERS)
def test_every_backend_with_a_server_can_be_rendered(render_to: Render, name: str) -> None:
    folder = render_to(name)
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert values["model"]["backend"] == name
    assert values["probes"]["readyFailures"] == serving_backend(name).server.ready_failures


@pytest.mark.parametrize("backend", ["onnxruntime", "torchserve"])
def test_requests_are_what_was_measured_and_limits_are_the_specs(render_to: Render, backend: str) -> None:
    folder = render_to(backend, memory_request=96 * 2**20, cpu_request=0.375, longest_request=10, target_cpu_percent=60)
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert values["resources"] == {
        "requests": {"cpu": "375m", "memory": "96Mi"},
        "limits": {"cpu": "2", "memory": "2Gi"},
    }
    assert values["replicas"]["targetCpuPercent"] == 60
    assert values["shutdown"]["requestSeconds"] == 10
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    assert (service["mem_reservation"], service["mem_limit"]) == (96 * 2**20, 2**31)
    assert service["stop_grace_period"] == "20s"


def test_a_stopping_server_waits_no_longer_than_a_request_may_take(render_to: Render) -> None:
    folder = render_to("onnxruntime", longest_request=40, limits={"request_timeout": 12.0})
    assert yaml.safe_load((folder / "values.yaml").read_text())["shutdown"]["requestSeconds"] == 12


@pytest.mark.parametrize(
    ("spec", "needed", "rendered"),
    [((1, 1), 4, (4, 4)), ((2, 8), 4, (4, 8)), ((5, 8), 4, (5, 8)), ((1, 3), None, (1, 3))],
)
def test_as_many_replicas_are_rendered_as_the_total_throughput_needs(
    render_to: Render, spec: tuple[int, int], needed: int | None, rendered: tuple[int, int]
) -> None:
    folder = render_to("onnxruntime", min_replicas=spec[0], max_replicas=spec[1], replicas=needed)
    replicas = yaml.safe_load((folder / "values.yaml").read_text())["replicas"]
    assert (replicas["min"], replicas["max"]) == rendered


def test_more_replicas_than_there_may_be_are_refused_with_what_would_fit(render_to: Render) -> None:
    with pytest.raises(StepError) as caught:
        render_to("onnxruntime", replicas=7, proven_rate=398.0, most_replicas=3, limited_by="`serving.replicas.max`")
    diagnostic = caught.value.diagnostic
    assert (diagnostic.code, diagnostic.at) == ("E490", ("slo", "total_throughput"))
    assert diagnostic.message == "`slo.total_throughput` needs 7 replicas, but there may be 3"
    assert diagnostic.cause == "one replica is proven to hold 398/s; `serving.replicas.max` is 3"
    assert diagnostic.remedy.startswith("ask for 1,194/s at most, ")
    render_to("onnxruntime", "less", replicas=math.ceil(1194 / 398), proven_rate=398.0, most_replicas=3)
    assert "allow more replicas" in diagnostic.remedy
    render_to("onnxruntime", "more", replicas=7, proven_rate=398.0, most_replicas=7)


def test_sizes_are_not_in_the_image(render_to: Render) -> None:
    (tag,) = _tags(render_to("onnxruntime", "before"))
    (other,) = _tags(render_to("onnxruntime", "after", memory_request=2**30, cpu_request=2.0, replicas=9))
    assert tag == other
