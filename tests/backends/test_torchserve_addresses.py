"""TorchServe listens on both families of addresses, so that its pods become ready in networks of IPv6 alone."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.backends.torchserve import config

pytestmark = pytest.mark.processes


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _status(host: str, port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def test_an_image_answers_over_ipv6_and_ipv4_and_manages_on_loopback_alone(tmp_path: Path) -> None:
    """`0.0.0.0` is all addresses of both families to Java; `[::]` is no address to TorchServe ("Invalid binding address")."""
    java = shutil.which("java")
    spec = find_spec("ts")
    if java is None or spec is None or spec.origin is None:
        pytest.skip("Java or the package torchserve is missing: its addresses are not tried")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6: TorchServe's addresses are not tried")
    package = Path(spec.origin).parent
    addresses = dict(re.findall(r"^(\w+_address)=(.*)$", config._PROPERTIES, re.MULTILINE))
    inference, management, metrics, *grpc = _free_ports(5)
    for name, port in (("inference", inference), ("management", management), ("metrics", metrics)):
        addresses[f"{name}_address"] = re.sub(r":\d+$", f":{port}", addresses[f"{name}_address"])
    lines = [f"{name}={value}" for name, value in addresses.items()]
    lines += [f"grpc_inference_port={grpc[0]}", f"grpc_management_port={grpc[1]}", "disable_token_authorization=true"]
    (tmp_path / "config.properties").write_text("\n".join(lines) + "\n")
    (tmp_path / "store").mkdir()
    argv = [java, f"-Dmodel_server_home={package.parent}", f"-Djava.io.tmpdir={tmp_path}"]
    argv += ["-cp", f"{package / 'frontend'}/*", "org.pytorch.serve.ModelServer"]
    argv += ["-f", str(tmp_path / "config.properties"), "-s", str(tmp_path / "store"), "-ncs"]
    names = ("TEMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION")
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            argv, env=dict.fromkeys(names, str(tmp_path)), cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 90
        while _status("::1", inference, "/ping") != 200:
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log.txt").read_text()
            time.sleep(0.2)
        assert _status("127.0.0.1", inference, "/ping") == 200
        for host in ("::1", "127.0.0.1"):
            assert _status(host, metrics, "/metrics") == 200
        assert _status("127.0.0.1", management, "/models") == 200
        assert _status("::1", management, "/models") is None
    finally:
        process.terminate()
        process.wait(30)
