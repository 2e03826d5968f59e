"""`serving.tls` in what is rendered, and a rendered server that speaks TLS, asked by clients of others."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml

from orchestrator.backends.table import serving_backend
from orchestrator.errors import DeployFailed
from orchestrator.release.golden import check_golden
from orchestrator.server.config import load_config
from orchestrator.targets.certificate import first_certificate, in_file
from orchestrator.targets.client import infer
from tests.certificates import certificate
from tests.render.served import READY, SIGNATURE, Served, samples

pytestmark = [pytest.mark.frameworks, pytest.mark.processes]

Render = Callable[..., Path]
_TLS = {
    "certificate": "/run/secrets/digits-tls/tls.crt",
    "key": "/run/secrets/digits-tls/tls.key",
    "secret": "digits-tls",
}
_MONITORS = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")


@pytest.fixture
def files() -> Iterator[dict[str, str]]:
    """`serving.tls` of a certificate at a place that a spec may name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = certificate(Path(folder), "server")
        yield {"certificate": str(made[0]), "key": str(made[1]), "secret": "digits-tls"}


def test_others_clients_verify_the_server_and_plain_http_is_not_answered(
    serve: Callable[..., Served], files: dict[str, str]
) -> None:
    served = serve(grpc=True, tls=files)
    trust = ("--cacert", files["certificate"])
    assert served.status(*trust) == 200
    assert served.status(*trust, path=READY, body=None) == 200
    assert served.status(*trust, path="/metrics", body=None) == 200
    with pytest.raises(AssertionError, match="curl"):
        served.status()  # no authority knows the certificate
    plain = ("--silent", "--max-time", "30", f"http://127.0.0.1:{served.port}/v2")
    with pytest.raises(AssertionError, match="curl"):
        served.run("curl", *plain)

    grpc = pytest.importorskip("grpc")
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub
    known = grpc.ssl_channel_credentials(Path(files["certificate"]).read_bytes())
    with grpc.secure_channel(f"localhost:{served.grpc_port}", known) as channel:
        answer = stub(channel).Check(health.HealthCheckRequest(service="digits"), timeout=30, wait_for_ready=True)
    assert answer.status == health.HealthCheckResponse.SERVING
    with grpc.insecure_channel(f"localhost:{served.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        stub(channel).Check(health.HealthCheckRequest(service="digits"), timeout=5)


def test_mlo_asks_by_the_certificate_that_the_server_has(
    serve: Callable[..., Served], files: dict[str, str], tmp_path: Path
) -> None:
    served = serve(tls=files)
    backend = serving_backend("onnxruntime")
    found = backend.certificate(served.folder / "serving")
    assert found == Path(files["certificate"])
    golden = check_golden(
        served.url, backend, "digits", samples(tmp_path / "i"), {}, precision="fp32", certificate=in_file(found)
    )
    assert golden.rows == 64
    x = {"x": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(
        infer(served.url, backend, "digits", x, signature=SIGNATURE, certificate=in_file(found))["y"], -x["x"]
    )
    # Another server than the one that was deployed: whatever name its certificate is for, nothing is sent to it.
    other, _ = certificate(tmp_path, "server")
    for wrong, says in ((other, "does not show the certificate"), (tmp_path / "none.crt", "cannot be read")):
        with pytest.raises(DeployFailed, match=says) as refused:
            infer(served.url, backend, "digits", x, signature=SIGNATURE, certificate=in_file(wrong))
        assert refused.value.diagnostics[0].code == "E482"
        assert says == "cannot be read" or "look into its log with `mlo logs`" in refused.value.diagnostics[0].remedy
    # Once it can be read, it is compared.
    shutil.copy(files["certificate"], tmp_path / "none.crt")
    infer(served.url, backend, "digits", x, signature=SIGNATURE, certificate=in_file(tmp_path / "none.crt"))


def test_a_renewed_certificate_is_taken_without_a_restart(
    serve: Callable[..., Served], files: dict[str, str], tmp_path: Path
) -> None:
    served = serve(tls=files)
    renewed, key = certificate(tmp_path, "server")
    key.replace(files["key"])
    renewed.replace(files["certificate"])
    # Right away: mlo waits for the server to see it.
    x = {"x": np.ones((1, 3), np.float32)}
    where = Path(files["certificate"])
    infer(served.url, serving_backend("onnxruntime"), "digits", x, signature=SIGNATURE, certificate=in_file(where))
    assert served.status("--cacert", str(where)) == 200
    assert served.process.poll() is None


def test_the_containers_health_check_asks_over_tls(serve: Callable[..., Served], files: dict[str, str]) -> None:
    served = serve(tls=files)
    text = (served.folder / "docker" / "Dockerfile").read_text()
    command = json.loads(text.partition("    CMD ")[2].partition("\n")[0])
    assert command[1] == "-c"
    here = [sys.executable, "-c", command[2].replace("8080", str(served.port))]
    assert subprocess.run(here, check=False).returncode == 0
    served.stop()
    deadline = time.monotonic() + 30
    while (ended := subprocess.run(here, check=False, capture_output=True)).returncode == 0:
        assert time.monotonic() < deadline
    assert ended.returncode == 1


def test_configuration_compose_file_and_values_name_the_files_and_hold_no_key(
    render_to: Render, files: dict[str, str]
) -> None:
    folder = render_to("onnxruntime", tls=files)
    tls = load_config(folder / "serving" / "server.json").tls
    assert tls is not None
    assert (str(tls.certificate), str(tls.key), tls.client_ca) == (files["certificate"], files["key"], None)
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    (volume,) = service["volumes"]
    where = str(Path(files["key"]).parent)
    assert volume == {
        "type": "bind", "source": where, "target": where, "read_only": True, "bind": {"create_host_path": False}
    }  # fmt: skip
    assert yaml.safe_load((folder / "values.yaml").read_text())["tls"] == files
    assert "curl --fail --insecure https://127.0.0.1:8080/" in (folder / "README.md").read_text()
    key = Path(files["key"]).read_text().splitlines()[1]
    for path in folder.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()


def test_tokens_and_certificate_are_mounted_beside_each_other(render_to: Render) -> None:
    auth = {"token_file": "/run/secrets/digits/token", "secret": "digits-token"}
    service = yaml.safe_load((render_to("onnxruntime", auth=auth, tls=_TLS) / "compose.yaml").read_text())
    volumes = service["services"]["model"]["volumes"]
    assert [volume["target"] for volume in volumes] == ["/run/secrets/digits/token", "/run/secrets/digits-tls"]


@pytest.fixture
def template(render_to: Render, run_tool: Callable[..., str]) -> Callable[..., dict[str, dict[str, Any]]]:
    """`template("1.37")`: the chart's documents by kind, with TLS unless the settings say otherwise."""

    def run(kubernetes: str, *more: str, **changes: Any) -> dict[str, dict[str, Any]]:
        folder = render_to("onnxruntime", **({"tls": _TLS, "grpc": True} | changes))
        text = run_tool(
            "helm", "template", "prod", str(folder / "chart"), "--values", str(folder / "values.yaml"),
            "--kube-version", kubernetes, *_MONITORS, *more,
        )  # fmt: skip
        documents = [document for document in yaml.safe_load_all(text) if document]
        for document in documents:
            if document["kind"] != "ServiceMonitor":
                kubernetes_validate.validate(document, kubernetes, strict=True)
        return {document["kind"]: document for document in documents}

    return run


@pytest.mark.parametrize("kubernetes", ["1.25", "1.37"])
def test_the_chart_mounts_the_secret_and_asks_over_tls(template: Callable[..., Any], kubernetes: str) -> None:
    documents = template(kubernetes)
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name": "certificate", "mountPath": "/run/secrets/digits-tls", "readOnly": True} in container[
        "volumeMounts"
    ]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "certificate")
    assert volume["secret"] == {
        "secretName": "digits-tls",
        "defaultMode": 0o444,
        "items": [{"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"}],
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    ports = {port["name"]: port["appProtocol"] for port in documents["Service"]["spec"]["ports"]}
    assert ports == {"http": "https", "grpc": "https"}
    (endpoint,) = documents["ServiceMonitor"]["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"insecureSkipVerify": True})
    named = template(kubernetes, "--set", "tls.serverName=digits.example.com", folder="named")
    (endpoint,) = named["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": "digits-tls", "key": "tls.crt"}},
        "serverName": "digits.example.com",
    }


def test_the_charts_test_asks_over_tls(
    template: Callable[..., Any], serve: Callable[..., Served], files: dict[str, str]
) -> None:
    (container,) = template("1.37", folder="chart")["Pod"]["spec"]["containers"]
    assert container["command"] == ["/opt/venv/bin/python", "-c"]
    served = serve(tls=files)
    code, _, _, path, _ = container["args"]
    argv = [sys.executable, "-c", code, "127.0.0.1", str(served.port), path]
    asked = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout) == (0, "200\n")
    assert subprocess.run([*argv[:-1], "/v2/nothing"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("tls.secret=", "tls: certificate, key and secret belong together"),
        ("tls.key=/run/secrets/other/tls.key", "tls: certificate and key are files of one folder"),
    ],
)
def test_half_a_setting_is_refused_by_the_chart(template: Callable[..., Any], wrong: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        template("1.37", "--set", wrong)


def test_without_tls_nothing_speaks_of_it(template: Callable[..., Any], render_to: Render) -> None:
    documents = template("1.37", tls=None, folder="plain")
    text = json.dumps(documents)
    assert "HTTPS" not in text
    assert '"certificate"' not in text
    assert {port.get("appProtocol") for port in documents["Service"]["spec"]["ports"]} == {None, "kubernetes.io/h2c"}
    assert "ssl" not in (render_to("onnxruntime", "no-tls") / "docker" / "Dockerfile").read_text()


def test_the_certificate_is_read_from_the_file_that_pythons_ssl_reads(files: dict[str, str]) -> None:
    """What is compared is the certificate that the server shows: the first in the file."""
    chain = Path(files["certificate"])
    first = first_certificate(chain.read_bytes())
    chain.write_text("the server's own\n" + chain.read_text() * 2)
    assert first_certificate(chain.read_bytes()) == first
    assert ssl.DER_cert_to_PEM_cert(first) in chain.read_text()
