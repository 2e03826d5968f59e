"""TorchServe with an instance on each GPU: the real TorchServe, and a stand-in for `nvidia-smi`, by which it counts GPUs."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import torch

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.torchserve.backend import TORCHSERVE
from tests.backends.test_torchserve_handler import Context, _load

SettingsFor = Callable[..., ServingSettings]
Start = Callable[..., "Server"]

e2e = [
    pytest.mark.frameworks,
    pytest.mark.e2e,
    pytest.mark.skipif(TORCHSERVE.unavailable() is not None, reason=str(TORCHSERVE.unavailable())),
]

NVIDIA_SMI = """#!/bin/sh
[ "$*" = "--query-gpu=index --format=csv" ] || exit 9
printf 'index\\n0\\n1\\n'
"""
TELLS_ITS_GPU = """
import json, os, time
def handle(data, context):
    if not data:
        return None
    time.sleep(0.1)  # so that requests meet, and each worker gets some
    told = json.dumps({"gpu": context.system_properties["gpu_id"], "process": os.getpid()}).encode()
    return [told] * len(data)
"""


class Server:
    """A TorchServe process."""

    def __init__(self, folder: Path, scratch: Path, environment: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        launch = TORCHSERVE.launch(folder, port=self.port, scratch=scratch, threads=2)
        self.output = scratch.parent / "log"
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                launch.argv,
                cwd=launch.cwd,
                env={**os.environ, "PYTHONPATH": str(Path.cwd()), **launch.env, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except ConnectionError:
            return 0, b""
        finally:
            connection.close()

    def log(self) -> str:
        return self.output.read_text(errors="replace")


@pytest.fixture
def start(settings_for: SettingsFor, tmp_path: Path) -> Iterator[Start]:
    """Start TorchServe for two GPUs, with another handler if one is given; it is ended afterwards."""
    running: list[Server] = []

    def run(handler: str | None, smi: str | None, **environment: str) -> Server:
        settings = settings_for("torchserve", devices=2, cpus=2.0, max_delay=0.0, max_batch_size=1)
        variant, programs, scratch = (tmp_path / name for name in ("variant", "programs", "scratch"))
        for folder in (variant, programs, scratch):
            folder.mkdir()
        torch.jit.script(torch.nn.Identity()).save(str(variant / "model.pt"))
        TORCHSERVE.write_folder(settings, variant, tmp_path / "serving")
        if handler is not None:
            (tmp_path / "serving" / "model-store" / settings.name / "handler.py").write_text(handler)
        if smi is not None:
            (programs / "nvidia-smi").write_text(smi)
            (programs / "nvidia-smi").chmod(0o755)
        running.append(
            Server(tmp_path / "serving", scratch, {"PATH": f"{programs}:{os.environ['PATH']}", **environment})
        )
        return running[-1]

    yield run
    for server in running:
        tree = psutil.Process(server.process.pid).children(recursive=True) if server.process.poll() is None else []
        server.process.kill()
        server.process.wait()
        psutil.wait_procs(tree, timeout=30)


def until(condition: Callable[[], bool], server: Server) -> None:
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end, server.log()[-4000:]
        time.sleep(0.1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
class TestTheRealTorchServe:
    pytestmark = e2e
    ready = TORCHSERVE.ready_path("tiny-model")

    @pytest.mark.parametrize(
        ("smi", "environment"),
        [(NVIDIA_SMI, {}), (None, {"CUDA_VISIBLE_DEVICES": "3,5"})],
        ids=["nvidia-smi", "chosen"],
    )
    def test_gives_each_worker_its_own_gpu_and_spreads_the_requests(
        self, start: Start, smi: str | None, environment: dict[str, str]
    ) -> None:
        server = start(TELLS_ITS_GPU, smi, **environment)
        until(lambda: server.ask(self.ready)[0] == 200, server)
        told: dict[int, set[int]] = {}

        def ask(_: int) -> dict[str, Any]:
            answer: dict[str, Any] = json.loads(server.ask(self.ready)[1])
            return answer

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for answer in pool.map(ask, range(40)):
                told.setdefault(answer["gpu"], set()).add(answer["process"])
        assert set(told) == {0, 1}
        assert all(len(processes) == 1 for processes in told.values())
        assert told[0] != told[1]

    def test_without_gpus_silently_uses_the_cpu_and_our_handler_does_not(self, start: Start) -> None:
        server = start(None, None)
        until(lambda: "TorchServe gave this worker no GPU" in server.log(), server)
        assert server.ask(self.ready)[0] != 200


@pytest.fixture
def handler(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> Callable[..., tuple[ModuleType, Context]]:
    """The handler's module and context for so many devices."""

    def make(devices: int) -> tuple[ModuleType, Context]:
        TORCHSERVE.write_folder(settings_for("torchserve", devices=devices), placeholder_variant, tmp_path / "serving")
        folder = tmp_path / "serving" / "model-store" / "tiny-model"
        return _load(folder / "handler.py"), Context(folder)

    return make


@pytest.mark.frameworks
def test_the_handler_refuses_to_start_without_its_gpu(handler: Callable[..., Any]) -> None:
    module, context = handler(2)
    with pytest.raises(RuntimeError, match="TorchServe gave this worker no GPU"):
        module.Handler().initialize(context)


@pytest.mark.parametrize(
    ("visible", "reason"),
    [
        (None, "nvidia-smi, with which TorchServe counts GPUs, is not on the PATH; install it with NVIDIA's driver"),
        ("GPU-1fb3", "TorchServe only accepts numbers in CUDA_VISIBLE_DEVICES, but it is 'GPU-1fb3'; set GPU numbers"),
        ("-1", "TorchServe only accepts numbers in CUDA_VISIBLE_DEVICES, but it is '-1'; set GPU numbers"),
        ("0,2", "java is not on the PATH; install a Java runtime, version 17 or later"),
    ],
)
def test_torchserve_is_not_started_if_it_cannot_count_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, reason: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = TORCHSERVE.unavailable(1)
    assert found is not None
    assert f"{found.reason}; {found.remedy}" == reason
