"""A real cluster for tests: namespaces that are removed afterwards, images of its own engine, and what serves in them."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from orchestrator.containers.engine import EngineError, connected
from orchestrator.errors import MloError
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.connection import Cluster, Refused, named_context

__all__ = [
    "TestCluster",
    "built_images",
    "cut_off",
    "derived_image",
    "identity_of",
    "missing",
    "remove_images",
    "rendered",
]

CHART = Path(__file__).resolve().parents[2] / "charts" / "mlo-model"
PYTHON = "python:3.11-slim-bookworm"


def missing() -> str:
    """Why no cluster can be tested with here; empty if one can."""
    if shutil.which("helm") is None:
        return "helm is not on the PATH"
    if "KUBECONFIG" not in os.environ:  # the user's own clusters, of ~/.kube/config, are left alone
        return "there is no cluster: KUBECONFIG is not set"
    try:
        nodes = Cluster(named_context(None).context).get("/api/v1/nodes")["items"]
        runtimes = {each["status"]["nodeInfo"]["containerRuntimeVersion"].partition(":")[0] for each in nodes}
        if runtimes != {"docker"}:
            return "the nodes of this cluster do not use this machine's Docker Engine, and so none of its images"
        with connected(5.0) as client:
            if not cast("Any", client.api).images(name=PYTHON):
                return f"the Docker Engine has no image {PYTHON}"
    except (MloError, Refused, EngineError) as error:
        return f"there is no cluster: {error}".splitlines()[0]
    return ""


@dataclass(frozen=True)
class TestCluster:
    """The cluster of the current context."""

    __test__ = False

    cluster: Cluster
    context: str

    @classmethod
    def current(cls) -> TestCluster:
        context = named_context(None).context
        assert context is not None
        return cls(Cluster(context), context)

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A new namespace with a name of its own; its removal is not waited for."""
        unique = f"{name}-{os.getpid()}"
        self.cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": unique}})
        try:
            yield unique
        finally:
            with suppress(Refused):
                self.cluster.call("DELETE", f"/api/v1/namespaces/{unique}")

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        pods = self.cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def helm(self, namespace: str, *arguments: str) -> str:
        done = subprocess.run(
            ["helm", *arguments, "--namespace", namespace], capture_output=True, text=True, check=True, timeout=120
        )
        return done.stdout

    def start_client(self, namespace: str, image: str, code: str, name: str = "client") -> None:
        """Start a Python program in a pod beside the server's."""
        container = {
            "name": "client",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-u", "-c", code],
        }
        pod = {"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": [container]}}
        self.cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", pod)

    def log_of(self, namespace: str, name: str = "client") -> str:
        """What it has printed."""
        try:
            return self.cluster.raw("GET", f"/api/v1/namespaces/{namespace}/pods/{name}/log").decode()
        except Refused:  # not started yet
            return ""


def _image_of(name: str, code: str) -> Image:
    """An image that runs a Python program instead of a server; built without a network."""
    dockerfile = f'FROM {PYTHON}\nCOPY server.py /server.py\nUSER 65532\nENTRYPOINT ["python", "-u", "/server.py"]\n'
    _build(name, {"Dockerfile": dockerfile.encode(), "server.py": code.encode()})
    return Image(name=name, id=identity_of(name), platform="linux/amd64")


@contextmanager
def derived_image(base: str, name: str, files: Mapping[str, bytes], labels: Mapping[str, str]) -> Iterator[None]:
    """For the block, an image of its own name that differs from another one in these files, by absolute path, and labels."""
    names = {f"file{number}": path for number, path in enumerate(files)}
    copies = "".join(f"COPY {short} {path}\n" for short, path in names.items())
    told = "".join(f'LABEL {key}="{value}"\n' for key, value in labels.items())
    contents = {short: files[path] for short, path in names.items()}
    _build(name, {"Dockerfile": f"FROM {base}\n{copies}{told}".encode(), **contents})
    try:
        yield
    finally:
        with connected(120.0) as client:
            cast("Any", client.api).remove_image(name, force=True)


def remove_images(repository: str, seconds: float = 90.0) -> None:
    """Those that a deployment was built as, which stay when it is destroyed; its last pods may take a while to end."""
    with connected(120.0) as client:
        api = cast("Any", client.api)
        until = time.monotonic() + seconds
        for each in api.images(name=repository):
            while api.containers(filters={"ancestor": each["Id"]}) and time.monotonic() < until:
                time.sleep(0.5)
            api.remove_image(each["Id"], force=True)


@contextmanager
def built_images(repository: str, programs: Mapping[str, str]) -> Iterator[dict[str, Image]]:
    """For the block, an image of each Python program, by its name, which is its tag too.

    Its namespace should be removed before the block ends, so that the pods end meanwhile.
    """
    try:
        yield {tag: _image_of(f"{repository}:{tag}", code) for tag, code in programs.items()}
    finally:
        remove_images(repository)


def identity_of(image: str) -> str:
    """The id of the image that has that name now."""
    with connected(120.0) as client:
        return str(cast("Any", client.api).inspect_image(image)["Id"])


def _build(name: str, files: Mapping[str, bytes]) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    context.seek(0)
    with connected(120.0) as client:
        for message in cast("Any", client.api).build(
            fileobj=context, custom_context=True, tag=name, rm=True, decode=True
        ):
            assert "error" not in message, message


def rendered(folder: Path, name: str, **changes: Any) -> Path:
    """The chart, and values for a small server of that name; returns `serving/` beside them."""
    shutil.copytree(CHART, folder / "chart")
    values: dict[str, Any] = {
        "image": {"repository": "none", "tag": "none"},
        "model": {"name": name, "backend": "onnxruntime", "variant": "onnx-fp32"},
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        },
        "probes": {"startupSeconds": 20},
        "shutdown": {"drainSeconds": 0, "requestSeconds": 1},
    }
    (folder / "values.yaml").write_text(json.dumps(_merged(values, changes)), encoding="utf-8")
    (folder / "serving").mkdir()
    return folder / "serving"


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


@contextmanager
def cut_off(kubeconfig: Path) -> Iterator[tuple[Path, threading.Event]]:
    """A kubeconfig whose cluster is behind a relay, and the event that cuts it."""
    document = yaml.safe_load(kubeconfig.read_text("utf-8"))
    server = document["clusters"][0]["cluster"]["server"]
    host, port = server.removeprefix("https://").rsplit(":", 1)
    cut, open_now = threading.Event(), list[socket.socket]()
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                if cut.is_set():
                    client.close()
                    continue
                far = socket.create_connection((host, int(port)))
                open_now.extend((client, far))
                for ends in ((client, far), (far, client)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    def wait() -> None:
        cut.wait()
        for each in open_now:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    for work in (accept, wait):
        threading.Thread(target=work, daemon=True).start()
    document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{listening.getsockname()[1]}"
    behind = kubeconfig.with_name("behind-a-relay.yaml")
    behind.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        yield behind, cut
    finally:
        cut.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
