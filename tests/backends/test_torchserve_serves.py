"""The real TorchServe on the machine's Java: started, asked, stopped."""

from __future__ import annotations

import concurrent.futures
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.torchserve.backend import TORCHSERVE
from orchestrator.spec.signature import Signature, Tensor
from tests.backends.exposed import missing_metrics

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.e2e,
    pytest.mark.skipif(TORCHSERVE.unavailable() is not None, reason=str(TORCHSERVE.unavailable())),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

_NAME = "tiny-model"
_PATIENCE = 120.0


class Counting(torch.nn.Module):  # type: ignore[misc] # torch comes without types
    """Doubles the first two columns; the third says how many rows went together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[:, 2] = float(x.shape[0])
        return y


class Server:
    """A TorchServe process that answers."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        launch = TORCHSERVE.launch(folder, port=self.port, scratch=scratch, threads=1)
        paths = os.pathsep.join(p for p in (str(Path.cwd()), os.environ.get("PYTHONPATH", "")) if p)
        self._log = (scratch.parent / "log").open("wb")
        self.process = subprocess.Popen(
            launch.argv,
            cwd=launch.cwd,
            env={**os.environ, "PYTHONPATH": paths, "A_SECRET": "s", **launch.env},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait_ready(self) -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            assert self.process.poll() is None, f"it ended: {self.log()}"
            try:
                status, _ = self.ask("GET", TORCHSERVE.ready_path(_NAME))
            except ConnectionError:
                time.sleep(0.05)
                continue
            if status == 200:
                return
        pytest.fail(f"not ready after {_PATIENCE} s: {self.log()}")

    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    base = tmp_path_factory.mktemp("torchserve")
    variant = base / "variant"
    variant.mkdir()
    torch.jit.script(Counting()).save(str(variant / "model.pt"))
    settings = _settings()
    TORCHSERVE.write_folder(settings, variant, base / "serving")
    # Longer than the path of a Unix socket may be.
    scratch = base / ("long" * 30)
    scratch.mkdir()
    running = Server(base / "serving", scratch)
    try:
        running.wait_ready()
        yield running, base
    finally:
        running.stop()


def _settings() -> ServingSettings:
    return ServingSettings(
        name=_NAME, backend="torchserve", variant="torchscript-fp32", format="torchscript", precision="fp32",
        signature=Signature((Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", ("batch", 3)),),
                            {"batch": (1, 64)}, "batch"),
        cpus=1.0, memory=2**31, max_batch_size=8, max_delay=0.5, startup_seconds=120, drain_seconds=5,
        model_digest="a" * 64, decision_digest="c" * 64, tools={},
    )  # fmt: skip


def _infer(server: Server, value: float) -> tuple[int, np.ndarray]:
    body, _ = TORCHSERVE.encode({"x": np.full((1, 3), value, np.float32)}, "json")
    status, answer = server.ask("POST", TORCHSERVE.infer_path(_NAME), body)
    return status, TORCHSERVE.decode(answer, {}, _settings().signature)["y"]


def test_concurrent_requests_are_batched_and_a_bad_one_fails_alone(server: tuple[Server, Path]) -> None:
    running, _ = server
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        good = [pool.submit(_infer, running, float(i)) for i in range(7)]
        bad = pool.submit(running.ask, "POST", TORCHSERVE.infer_path(_NAME), b'{"inputs": 1}')
        assert bad.result()[0] == 400
        together = []
        for i, future in enumerate(good):
            status, y = future.result()
            assert status == 200
            np.testing.assert_array_equal(y[0, :2], [2.0 * i, 2.0 * i])
            together.append(y[0, 2])
    assert max(together) > 1, "with half a second to wait, some of seven went together"


def test_only_loopback_is_listened_on_and_only_inference_has_the_port(server: tuple[Server, Path]) -> None:
    running, _ = server
    tree = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children(recursive=True)]
    listening = [c.laddr for p in tree for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert running.port in {address.port for address in listening}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert not {8081, 8082, 7070, 7071} & {address.port for address in listening}
    assert running.ask("GET", f"/models/{_NAME}")[0] == 404, "management is not on the inference port"


def test_workers_do_not_see_secrets(server: tuple[Server, Path]) -> None:
    running, _ = server
    (worker,) = psutil.Process(running.process.pid).children()
    assert "A_SECRET" not in worker.environ()
    assert worker.environ()["MLO_THREADS"] == "1"


def test_metrics_can_be_scraped(server: tuple[Server, Path]) -> None:
    running, _ = server
    _infer(running, 1.0)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(f"/proc/{running.process.pid}/cwd/metrics.sock")
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        text = answer.read()
    assert b"ts_inference_requests_total{" in text
    missing = missing_metrics(TORCHSERVE.server.metrics, text.decode())
    assert missing <= {
        "Requests4XX",
        "Requests5XX",
    }  # which appear with the first of them; TorchServe's own list has both
    (package,) = importlib.util.find_spec("ts").submodule_search_locations  # type: ignore[union-attr,misc]
    listed = (Path(package) / "configs" / "metrics.yaml").read_text(encoding="utf-8")
    assert all(f"name: {name}\n" in listed for name in missing)


def test_nothing_is_written_beside_the_scratch_folder(server: tuple[Server, Path]) -> None:
    _, base = server
    files = sorted(str(p.relative_to(base / "serving")) for p in (base / "serving").rglob("*") if p.is_file())
    assert not [name for name in files if "__pycache__" in name or "key_file" in name or name.endswith(".log")]
    assert not list(base.rglob("key_file.json"))
    assert len(files) == 8


def test_sigterm_ends_it_with_all_its_workers(server: tuple[Server, Path]) -> None:
    running, _ = server
    tree = psutil.Process(running.process.pid).children(recursive=True)
    assert tree
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=60) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert not alive
