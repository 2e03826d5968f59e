"""Images built by the real engine and run as they are deployed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.backends.table import serving_backend
from orchestrator.backends.versions import installed_closure
from orchestrator.containers.engine import connected
from orchestrator.errors import DeployFailed
from orchestrator.images.evidence import read_evidence
from orchestrator.images.packages import bill_of_materials
from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import fetch_wheels
from orchestrator.store.home import Home
from orchestrator.store.state import Image
from orchestrator.store.store import Store
from orchestrator.targets.docker.section import DockerDeploy
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Site
from tests.certificates import certificate
from tests.e2e.docker_engine import BASE
from tests.e2e.images_case import (
    Render,
    ask,
    built,
    docker,
    engine_platform,
    no_container_runs,
    onnx_model,
    rendered,
    require_engine,
    running,
    until_ready,
)
from tests.package_index import tiny_index

pytestmark = [pytest.mark.frameworks, pytest.mark.e2e, pytest.mark.containers, pytest.mark.timeout(900)]

_BODY = b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
_OPENSHIFT = "1000680000:0"
"""As the restricted-v2 profile of OpenShift runs a container: a user of its own choice in group 0."""


@pytest.fixture(autouse=True)
def engine() -> None:
    require_engine()


def _remove(*names: str) -> None:
    docker("rmi", "--force", *names)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """The image of the ONNX model, which the first test that needs it builds."""
    kept = Kept(tmp_path_factory.mktemp("kept") / "home")
    yield kept
    if kept.image is not None:
        _remove(kept.image.name)


class Kept:
    """An image that several tests look at, with what the store knows of it."""

    def __init__(self, home: Path) -> None:
        self.store = Store.open(Home(home))
        self.evidence = self.store.home.images
        self.image: Image | None = None

    def built(self, tree: Path) -> Image:
        if self.image is None:
            self.image = built(tree, self.evidence)
        return self.image


def test_an_onnx_image_serves_unprivileged_from_a_read_only_root(render_to: Render, kept: Kept) -> None:
    tree = rendered(render_to)
    image = kept.built(tree)
    with running(image.name, tree, 8080, _OPENSHIFT) as (other, there), running(image.name, tree, 8080) as (name, port):
        until_ready(other, there, "/v2/health/ready")
        assert ask(there, "POST", "/v2/models/digits/infer", _BODY)[0] == 200
        until_ready(name, port, "/v2/health/ready")
        status, answer = ask(port, "POST", "/v2/models/digits/infer", _BODY)
        assert status == 200
        assert json.loads(answer)["outputs"][0]["data"] == [2.0, 4.0, 6.0]
        until = time.monotonic() + 60
        while docker("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
            assert time.monotonic() < until, "the image's own health check is not content"
            time.sleep(0.2)
        assert docker("exec", name, "id", "-u") == "65532"
        docker("stop", "--time", "30", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"


def test_what_an_image_holds_is_recorded_and_little(render_to: Render, kept: Kept, tmp_path: Path) -> None:
    image = kept.built(rendered(render_to))
    known = read_evidence(kept.evidence, image)
    assert known is not None
    assert 50e6 < known.sizes.above_base <= 220e6, "of ONNX Runtime's image above its base, the model not counted"
    labels = json.loads(docker("inspect", image.name))[0]["Config"]["Labels"]
    sbom = known.sbom.read_bytes()
    assert labels["mlo.sbom"] == f"sha256:{hashlib.sha256(sbom).hexdigest()}"
    assert labels["org.opencontainers.image.base.digest"].startswith("sha256:")
    components = {each["purl"] for each in json.loads(sbom)["components"]}
    version = installed_closure(("onnxruntime",))["onnxruntime"]
    assert f"pkg:pypi/onnxruntime@{version}" in components
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in components)
    assert any("tini@0.19.0" in purl for purl in components)
    assert not any(purl.startswith(("pkg:pypi/pip@", "pkg:pypi/setuptools@")) for purl in components)
    statement = json.loads(known.provenance.read_bytes())
    assert statement["subject"] == [{"name": image.name, "digest": {"sha256": image.id.removeprefix("sha256:")}}]
    said = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert said["context"] == labels["mlo.context-digest"]
    assert said["mlo.model-digest"] == labels["mlo.model-digest"]
    # For another store, and under another name, it is found, and what is known of it is the same.
    killed = docker("create", "--label", f"mlo.started-by={os.uname().nodename} 1/0.00", image.name)
    there = built(rendered(render_to, "there"), tmp_path / "other", repository="images-test/other")
    docker("rmi", there.name)
    found = read_evidence(tmp_path / "other", there)
    assert found is not None
    assert (there.id, found.sizes) == (image.id, known.sizes)
    assert found.sbom.read_bytes() == sbom
    assert json.loads(found.provenance.read_bytes())["predicate"] == statement["predicate"]
    assert killed not in docker("ps", "--all", "--quiet", "--no-trunc"), "what a killed process left is removed"


def test_a_new_model_only_makes_the_last_layer_and_destroy_removes_what_was_never_deployed(
    render_to: Render, kept: Kept
) -> None:
    first, name = kept.built(rendered(render_to, "first")), f"images-test-{uuid.uuid4().hex[:8]}"
    other = built(rendered(render_to, "second", model=onnx_model(3)), kept.evidence, repository=name)
    layers = [json.loads(docker("inspect", image.name))[0]["RootFS"]["Layers"] for image in (first, other)]
    assert layers[0][:-1] == layers[1][:-1]
    assert layers[0][-1] != layers[1][-1]
    said: list[str] = []
    assert built(rendered(render_to, "again"), kept.evidence, said) == first
    assert said == [f"cached: {first.name}"]
    docker("create", "--label", f"mlo.started-by={os.uname().nodename} 1/0.00", other.name)  # by a killed command
    DockerTarget.wanted(DockerDeploy.model_validate({"target": "docker"}), kept.evidence, Site(kept.store, name)).stop()
    assert other.name not in docker("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert first.name in docker("images", "--format", "{{.Repository}}:{{.Tag}}")


def _changed(tree: Path, before: str, instruction: str) -> Path:
    """The tree with one more instruction in its Dockerfile."""
    file = tree / "docker" / "Dockerfile"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, f"{instruction}\n{before}", 1))
    return tree


def test_a_failing_build_shows_the_end_of_its_log_and_leaves_no_container(
    render_to: Render,
    tmp_path: Path,
) -> None:
    marker = uuid.uuid4().hex
    # After what is installed, so that the build that follows installs nothing anew.
    tree = _changed(rendered(render_to), "USER 65532:65532", f"RUN echo {marker}; echo the reason; exit 3")
    with pytest.raises(DeployFailed) as failed:
        built(tree, tmp_path / "images")
    said = failed.value.diagnostics[0]
    assert said.code == "E631"
    assert "the reason" in said.notes
    assert any(f"RUN echo {marker}" in line for line in said.notes)
    assert "returned a non-zero code: 3" in said.cause
    no_container_runs(marker)
    assert "the last lines of its log name the instruction; mend its cause" in said.remedy
    file = tree / "docker" / "Dockerfile"
    file.write_text(file.read_text().replace("exit 3", "exit 0"))
    _remove(built(tree, tmp_path / "images").name)


def test_a_full_disk_is_named(render_to: Render, tmp_path: Path) -> None:
    """The error of a device that is full stands for a full disk, since the machine's own is not to be filled."""
    tree = _changed(rendered(render_to), "# An init", f"RUN cp /etc/os-release /dev/full # {uuid.uuid4().hex}")
    with pytest.raises(DeployFailed) as failed:
        built(tree, tmp_path / "images")
    said = failed.value.diagnostics[0]
    assert (said.code, said.cause) == ("E633", "the engine's disk is full")


def test_a_base_that_cannot_be_had_is_named_until_the_engine_has_it(render_to: Render, tmp_path: Path) -> None:
    base = f"127.0.0.1:1/team/python:{uuid.uuid4().hex[:12]}"
    tree = rendered(render_to, base=base)
    with pytest.raises(DeployFailed) as failed:
        built(tree, tmp_path / "images")
    said = failed.value.diagnostics[0]
    assert said.code == "E634"
    assert base in said.cause
    assert f"pull or load it (`docker pull {base}`)" in said.remedy
    docker("tag", BASE, base)
    try:
        _remove(built(tree, tmp_path / "images").name)
    finally:
        docker("rmi", base)


def test_packages_that_cannot_be_listed_are_on_a_base_that_is_named(tmp_path: Path) -> None:
    name = f"images-test/without-dpkg:{uuid.uuid4().hex[:12]}"
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\nRUN rm /usr/bin/dpkg-query\nVOLUME /data\n", encoding="utf-8")
    docker("build", "--quiet", "--tag", name, str(tmp_path))
    try:
        with connected(60.0) as client:
            began = int(time.time())
            with pytest.raises(DeployFailed) as failed:
                bill_of_materials(client, name, name, "context", "1")
            happened = list(client.events(since=began, until=int(time.time()) + 1, decode=True))
            made = {each["Actor"]["ID"] for each in happened if each["Actor"]["Attributes"].get("image") == name}
            mounted = {each["Actor"]["ID"] for each in happened if each["Actor"]["Attributes"].get("container") in made}
            assert mounted
            assert not mounted & {each.id for each in client.volumes.list()}, "no volume is left behind"
            said = failed.value.diagnostics[0]
            assert (said.code, said.remedy) == ("E639", "use a Debian or Ubuntu base with dpkg")
            listed = bill_of_materials(client, BASE, BASE, "context", "1")["components"]
    finally:
        docker("rmi", "--force", name)
    assert "dpkg" in {each["name"] for each in listed}


_BUILD = """
import sys
from pathlib import Path
from tests.e2e.images_case import built
class Said(list):
    def append(self, line): print(line, flush=True)
built(Path(sys.argv[1]), Path(sys.argv[2]), Said())
"""


def test_an_interrupted_build_leaves_no_container(render_to: Render, tmp_path: Path) -> None:
    marker = uuid.uuid4().hex
    tree = _changed(rendered(render_to), "# An init", f"RUN echo begun {marker}; sleep 600")
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(tree), str(tmp_path / "images")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().endswith(f"begun {marker}") and "RUN" not in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    no_container_runs(marker)


@pytest.fixture
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, threading.Event]]:
    """A socket that leads to the real engine until the event is set; then all connections are closed."""
    folder = Path(f"/tmp/images-cut-{uuid.uuid4().hex[:8]}")  # short, as the path of a socket must be
    folder.mkdir()
    over, open_sockets = threading.Event(), list[socket.socket]()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "docker.sock"))
    listening.listen()
    real = json.loads(docker("context", "inspect"))[0]["Endpoints"]["docker"]["Host"].removeprefix("unix://")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the line was cut

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return  # it was closed
            server = socket.socket(socket.AF_UNIX)
            server.connect(real)
            open_sockets.extend((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    def close() -> None:
        over.wait()
        listening.shutdown(socket.SHUT_RDWR)
        for each in (listening, *open_sockets):
            with contextlib.suppress(OSError):  # it was closed by its other end
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    threads = [threading.Thread(target=target, daemon=True) for target in (accept, close)]
    for thread in threads:
        thread.start()
    yield f"unix://{folder / 'docker.sock'}", over
    over.set()
    for thread in threads:
        thread.join(10)
    shutil.rmtree(folder)


def test_an_engine_that_is_gone_half_way_is_named(
    render_to: Render,
    tmp_path: Path,
    cut: tuple[str, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, over = cut
    marker = uuid.uuid4().hex
    tree = _changed(rendered(render_to), "# An init", f"RUN echo begun {marker}; sleep 600")
    monkeypatch.setenv("DOCKER_HOST", host)

    class Said(list[str]):
        def append(self, line: str) -> None:
            if line.endswith(f"begun {marker}") and "RUN" not in line:
                over.set()

    with pytest.raises(DeployFailed) as failed:
        built(tree, tmp_path / "images", Said())
    assert failed.value.diagnostics[0].code == "E630"
    assert "does not answer" in failed.value.diagnostics[0].message
    monkeypatch.delenv("DOCKER_HOST")
    no_container_runs(marker)


@contextlib.contextmanager
def _private_index(wheels: Path) -> Iterator[tuple[str, list[str]]]:
    """A package index that asks for a password, and what it was asked for with it."""
    asked: list[str] = []
    expected = "Basic " + base64.b64encode(f"reader:{_INDEX_PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic realm=wheels")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked.append(self.path)
            parts = self.path.strip("/").split("/")
            body = (wheels / parts[-1]).read_bytes() if self.path.endswith(".whl") else self._listing(parts[-1])
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _listing(self, package: str) -> bytes:
            named = [path for path in wheels.iterdir() if path.name.split("-")[0].lower().replace("_", "-") == package]
            links = (
                f'<a href="/files/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
                for path in named
            )
            return "<!DOCTYPE html><html><body>{}</body></html>".format("".join(links)).encode()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple", asked
        finally:
            server.shutdown()
            thread.join()


_STAND_IN_INIT = r"printf '#!/bin/sh\necho tini version 0.19.0' >/usr/bin/tini && chmod 755 /usr/bin/tini"
_INDEX_PASSWORD = "a-word-that-no-layer-has"


def test_no_password_of_an_index_gets_into_layers_or_history_and_the_build_needs_no_network(
    render_to: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small package stands for the server's: what is tested is how packages get in."""
    wheels = tmp_path / "index"
    wheels.mkdir()
    pins = {"packaging": installed_closure(("packaging",))["packaging"]}
    listed = tmp_path / "requirements.txt"
    listed.write_text(f"packaging=={pins['packaging']}\n")
    fetch_wheels(listed, BuildSettings("x"), engine_platform(), wheels)
    base = f"images-test/with-tini:{uuid.uuid4().hex[:12]}"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "Dockerfile").write_text(f"FROM {BASE}\nRUN {_STAND_IN_INIT}\n")
    docker("build", "--quiet", "--tag", base, str(tmp_path / "base"))
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login reader password {_INDEX_PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # what else this machine has must not be found first
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    digest = hashlib.sha256(next(wheels.iterdir()).read_bytes()).hexdigest()
    tree = rendered(
        render_to, base=base, wheels=True, tools=pins, hashes={f"packaging=={pins['packaging']}": (digest,)}
    )
    # The unpinned packages of the server are left out.
    (tree / "docker" / "requirements.txt").write_text(f"packaging=={pins['packaging']} --hash=sha256:{digest}\n")
    image = None
    try:
        with _private_index(wheels) as (index, asked):
            image = built(tree, tmp_path / "images", pip_index=index, network="none")
            assert any(path.endswith(".whl") for path in asked), "the wheels came from there"
        assert _INDEX_PASSWORD not in docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.name)
        everything = docker("images", "--all", "--quiet", "--no-trunc", "--filter", f"since={base}").split()
        for each in dict.fromkeys(everything):
            said = subprocess.run(
                ["docker", "history", "--no-trunc", each], capture_output=True, text=True, timeout=60, check=False
            )
            assert _INDEX_PASSWORD not in said.stdout, "neither has what other stages left"
        saved = tmp_path / "image.tar"
        docker("save", "--output", str(saved), image.name)
        found = subprocess.run(
            ["grep", "--count", "--text", _INDEX_PASSWORD, str(saved)], check=False, capture_output=True
        )
        assert found.stdout.strip() == b"0"
        monkeypatch.delenv("NETRC")
        with _private_index(wheels) as (index, _), pytest.raises(DeployFailed) as refused:
            built(_changed(tree, "# An init", f"# {uuid.uuid4().hex}"), tmp_path / "images", pip_index=index)
        # As above it was built, with the credentials.
        assert refused.value.diagnostics[0].code == "E638"
        assert "that pip on this machine has the credentials" in refused.value.diagnostics[0].remedy
    finally:
        _remove(*([] if image is None else [image.name]), base)


def test_a_build_trusts_an_index_of_an_own_authority_by_its_bundle_which_the_image_lacks(
    render_to: Render, tmp_path: Path
) -> None:
    """The index of the base stands for the default one behind a proxy that intercepts TLS."""
    authority = certificate(tmp_path, "authority")
    base = f"images-test/own-index:{uuid.uuid4().hex[:12]}"
    (tmp_path / "base").mkdir()
    image = None
    with tiny_index(tmp_path / "index", certificate(tmp_path, "index", authority)) as url:
        (tmp_path / "base" / "Dockerfile").write_text(
            f"FROM {BASE}\nRUN {_STAND_IN_INIT}\nENV PIP_INDEX_URL={url} PIP_RETRIES=1\n"
        )
        docker("build", "--quiet", "--tag", base, str(tmp_path / "base"))
        (wheel,) = (tmp_path / "index").glob("*.whl")
        listed = f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
        try:
            untrusting = rendered(render_to, "untrusting", base=base)
            (untrusting / "docker" / "requirements.txt").write_text(listed)
            with pytest.raises(DeployFailed) as failed:
                built(untrusting, tmp_path / "images", network="host")
            said = failed.value.diagnostics[0]
            assert (said.code, "does not trust the certificate" in said.cause) == ("E631", True)
            assert "`image: {build: {ca_bundle: FILE}}`" in said.remedy
            tree = rendered(render_to, "trusting", base=base, ca_bundle=True)
            (tree / "docker" / "requirements.txt").write_text(listed)
            image = built(tree, tmp_path / "images", network="host", ca_bundle=authority[0])
            seen = docker(
                "run", "--rm", "--entrypoint", "find", image.name, "/opt", "-name", "*.crt", "-o", "-name", "tiny.py"
            )
            assert [Path(line).name for line in seen.splitlines()] == ["tiny.py"]
            assert "ca-bundle" not in docker("inspect", image.name)
        finally:
            _remove(*([] if image is None else [image.name]), base)


def test_torchserve_is_built_from_a_wheelhouse_and_answers(
    torchserve: tuple[Path, Image, Path], wheelhouse: Path
) -> None:
    tree, image, evidence = torchserve
    assert not [path.name for path in wheelhouse.iterdir() if path.name.startswith("nvidia")]
    known = read_evidence(evidence, image)
    assert known is not None
    assert known.sizes.above_base < 1.8e9, "Java and PyTorch for CPUs, without gigabytes of CUDA"
    with running(image.name, tree, 8080, _OPENSHIFT) as (name, port):
        until_ready(name, port, serving_backend("torchserve").ready_path("digits"), 300)  # Java, then Python
        status, answer = ask(port, "POST", "/v2/models/digits/infer", _BODY)
        assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, [2.0, 4.0, 6.0])
        # Of its places only these can be written to: /tmp is its home, too.
        assert "models" in docker("exec", name, "ls", "/tmp"), "it writes there"
        keys = ("(", "-name", "*token*.json", "-o", "-name", "key_file.json", ")")
        assert docker("exec", name, "find", "/opt", "/tmp", "/dev/shm", *keys) == ""


_SERVING = "tensorflow/serving:2.20.0"


def test_tensorflow_serving_is_built_on_its_own_base(render_to: Render, tmp_path: Path) -> None:
    found = subprocess.run(["docker", "image", "inspect", _SERVING], capture_output=True, timeout=60, check=False)
    if found.returncode:
        pytest.skip(
            f"the Docker Engine has no {_SERVING}: no image of TensorFlow Serving is built on it; docker pull {_SERVING}"
        )
    tree = render_to("tensorflow-serving", registry=None)
    image = built(tree, tmp_path / "images", repository="images-test/tensorflow-serving")
    try:
        assert "TensorFlow ModelServer" in docker(
            "run", "--rm", "--entrypoint", "/usr/bin/tensorflow_model_server", image.name, "--version"
        )
    finally:
        _remove(image.name)


def test_with_a_stand_in_for_tensorflow_serving_the_image_is_healthy_and_stops_at_sigterm(
    render_to: Render, tmp_path: Path
) -> None:
    """The program is a stand-in, for where its base is missing: what is tested is the image around it."""
    base = f"images-test/tensorflow-serving-base:{uuid.uuid4().hex[:12]}"
    context = tmp_path / "base"
    context.mkdir()
    shutil.copyfile(
        Path(__file__).parents[1] / "backends" / "stand_in_image_server.py", context / "tensorflow_model_server"
    )
    (context / "tensorflow_model_server").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM python:3.11-slim-bookworm\nCOPY tensorflow_model_server /usr/bin/tensorflow_model_server\nUSER 1000\n"
    )
    docker("build", "--quiet", "--tag", base, str(context))
    backend = serving_backend("tensorflow-serving")
    tree = render_to("tensorflow-serving", base=base, registry=None, platform=engine_platform())
    image = None
    try:
        image = built(tree, tmp_path / "images", repository="images-test/tensorflow-serving")
        with running(image.name, tree, 8501) as (name, port):
            until_ready(name, port, backend.ready_path("digits"))
            status, answer = ask(port, "POST", backend.infer_path("digits"), b'{"inputs": {"x": [[1, 2, 3]]}}')
            assert (status, json.loads(answer)) == (200, {"outputs": [[2, 4, 6]]})
            until = time.monotonic() + 60
            while docker("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
                assert time.monotonic() < until, "the image's own health check is not content"
                time.sleep(0.2)
            began = time.monotonic()
            docker("stop", "--time", "60", name)
            assert time.monotonic() - began < 30, "SIGTERM reached it"
            assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "143"
    finally:
        _remove(*([] if image is None else [image.name]), base)
