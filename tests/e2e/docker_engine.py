"""A real Docker Engine for tests: small images with a stand-in server, a relay to the engine that can be cut, and what is left."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from docker.errors import APIError

from orchestrator.artifacts.container import ContainerSettings
from orchestrator.containers.engine import EngineError, connected, current_engine
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.home import Home
from orchestrator.store.state import Image
from orchestrator.store.store import Store
from orchestrator.targets.certificate import unverified_context
from orchestrator.targets.docker.front_image import FrontImages
from orchestrator.targets.docker.section import DockerDeploy
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Release, Site

BASE = "python:3.11-slim-bookworm"
"""What mlo's own images are built on."""

_SERVER = """
import asyncio, json, os, signal, ssl, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
say = json.loads(os.environ["BEHAVIOUR"])
print("serving", say["answer"], flush=True)
if say.get("exits"):
    print("RuntimeError: the weights are gone", flush=True)
    sys.exit(say["exits"])
if say.get("megabytes"):
    kept = bytearray(say["megabytes"] << 20)
    for place in range(0, len(kept), 4096):
        kept[place] = 1
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            if head.startswith(b"GET"):
                status, body = (503, b"") if say.get("never_ready") else (200, b"")
            else:
                await asyncio.sleep(say.get("delay", 0.005))
                status, body = 200, str(say["answer"]).encode()
            writer.write(b"HTTP/1.1 %d x\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (status, len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    secure = None
    if say.get("tls"):
        secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        secure.load_cert_chain(say["tls"] + "/tls.crt", say["tls"] + "/tls.key")
    server = await asyncio.start_server(serve, "0.0.0.0", 8080, ssl=secure)
    await server.serve_forever()
asyncio.run(main())
"""


def why_no_engine() -> str | None:
    """Why tests with a real engine cannot run here; None if they can."""
    try:
        with connected(10.0):
            return None
    except EngineError as error:
        return f"no Docker Engine ({error}); containers are not tested"


MISSING = why_no_engine()
ON_ENGINE = (
    pytest.mark.e2e,
    pytest.mark.containers,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
)
"""The marks of what runs on a real engine."""


_SWITCH = """
import sys
from pathlib import Path
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Site
home, name, address, revision = sys.argv[1:]
DockerTarget(Site(Store.open(Home(Path(home))), name), None, None, address, None).switch(int(revision))
"""
"""The switch of a command of its own, which a test can kill."""


@dataclass
class Engine:
    """The engine, and one deployment there.

    Attributes:
        api: docker's API for it.
        name: of the deployment.
        folder: for rendered trees and the store.
        stand_in: the image of the stand-in server, whose behaviour each of the images that are built on it adds.
    """

    api: Any
    name: str
    folder: Path
    stand_in: str = ""
    images: list[str] = field(default_factory=list)

    @property
    def site(self) -> Site:
        return Site(Store.open(Home(self.folder / "home")), self.name)

    def target(self, **keys: Any) -> DockerTarget:
        section = DockerDeploy.model_validate({"target": "docker", **keys})
        return DockerTarget.wanted(section, self.folder, self.site)

    def image(self, base: str = BASE, **behaviour: Any) -> Image:
        """An image whose server behaves like that, and which says that it is built on `base`."""
        assert self.stand_in, "the fixture `stand_in` builds it"
        tag = f"{self.name}:{len(self.images)}"
        said = json.dumps(behaviour)
        dockerfile = f"FROM {self.stand_in}\nLABEL org.opencontainers.image.base.name={base}\nENV BEHAVIOUR='{said}'\n"
        printed = _build(self.api, tag, {"Dockerfile": dockerfile})
        self.images.append(tag)
        facts = self.api.inspect_image(tag)
        assert facts["Id"], printed[-3:]
        return Image(name=tag, id=facts["Id"], platform=f"{facts['Os']}/{facts['Architecture']}")

    def release(
        self,
        revision: int,
        *,
        startup_seconds: int = 30,
        memory: int = 64 * 2**20,
        egress: bool = False,
        tls: str | None = None,
        **behaviour: Any,
    ) -> Release:
        rendered = self.folder / f"rendered-{revision}"
        (rendered / "serving").mkdir(parents=True, exist_ok=True)
        ContainerSettings(
            port=8080,
            grpc_port=None,
            ready_path="/ready",
            user="65532:65532",
            read_only=True,
            tmpfs={"/tmp": "size=64m,mode=1777"},
            cap_drop=("ALL",),
            no_new_privileges=True,
            memory=memory,
            memory_request=memory // 2,
            cpus=1.0,
            processes=64,
            devices=0,
            token_file=None,
            tls_folder=tls,
            egress=egress,
            stop_seconds=3,
            at_once=(),
        ).write(rendered)
        image = self.image(**{"answer": revision, "tls": tls, **behaviour})
        return Release(revision, rendered / "serving", "onnxruntime", self.name, 1, startup_seconds, image)

    def deploy(self, target: DockerTarget, revision: int, **behaviour: Any) -> str:
        """Prepare, start and switch, as a release does; returns the endpoint."""
        endpoint = target.prepare()
        target.start(self.release(revision, **behaviour))
        target.switch(revision)
        return endpoint

    def switching(self, revision: int, address: str, first: str = "", **env: str) -> subprocess.Popen[bytes]:
        """Another process that switches to a revision that was started; `first` are lines of Python that it runs before."""
        script = [sys.executable, "-c", first + _SWITCH, str(self.folder / "home"), self.name, address, str(revision)]
        return subprocess.Popen(script, env={**os.environ, **env})

    def killed_at(self, point: str, revision: int, *, address: str = "127.0.0.1") -> None:
        """The same, killed at a crash point."""
        with self.switching(revision, address, MLO_CRASH_AT=point) as command:
            assert command.wait(120) == -signal.SIGKILL

    def containers(self) -> list[str]:
        rows = self.api.containers(all=True, filters={"label": f"mlo.deployment={self.name}"})
        return sorted(row["Names"][0].removeprefix("/") for row in rows)

    def networks(self) -> list[str]:
        return [row["Name"] for row in self.api.networks(filters={"label": f"mlo.deployment={self.name}"})]

    def clean(self) -> None:
        """Remove everything of the deployment, whatever state it is in."""
        for row in self.api.containers(all=True, filters={"label": f"mlo.deployment={self.name}"}):
            self.api.remove_container(row["Id"], v=True, force=True)
        for name in self.networks():
            self.api.remove_network(name)
        for tag in self.images:
            with suppress(Exception):  # destroyed by the test
                self.api.remove_image(tag, force=True)


@contextmanager
def stand_in_server() -> Iterator[str]:
    """The image of a server that does what `BEHAVIOUR` in its environment says, for the block."""
    tag = f"images-test/stand-in:{os.getpid()}"
    files = {
        "Dockerfile": f'FROM {BASE}\nCOPY server.py /\nUSER 65532\nENTRYPOINT ["python3", "/server.py"]\n',
        "server.py": _SERVER,
    }
    with connected(120.0) as client:
        api = cast("Any", client.api)
        _build(api, tag, files)
        try:
            yield tag
        finally:
            api.remove_image(tag, force=True)


@contextmanager
def front_kept() -> Iterator[None]:
    """For the block, the engine has the front's image, which would otherwise be built anew after each `destroy` that removes it."""
    kept = f"images-test/front:{os.getpid()}"
    with connected(600.0) as client:
        api = cast("Any", client.api)
        image = FrontImages(api).on(BASE, lambda _: None)
        api.tag(image, *kept.split(":"))
        try:
            yield
        finally:
            api.remove_image(kept)
            with suppress(APIError):  # a deployment of somebody else uses it, or tests that run beside these
                api.remove_image(image)


def _build(api: Any, tag: str, files: Mapping[str, str]) -> list[str]:
    """Build an image of a few files; returns what the engine printed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    packed.seek(0)
    return [str(line) for line in api.build(fileobj=packed, custom_context=True, tag=tag, rm=True, decode=True)]


@contextmanager
def engine(name: str, folder: Path, stand_in: str = "") -> Iterator[Engine]:
    """The engine that the environment names, for the block.

    Args:
        name: of the deployment.
        folder: for rendered trees and the store.
        stand_in: what `stand_in_server` gives, for tests that make images of their own.
    """
    with connected(120.0) as client:
        there = Engine(cast("Any", client.api), name, folder, stand_in)
        if not there.api.images(name=BASE):  # for containers of others, which no build pulls it for
            there.api.pull(*BASE.split(":"))
        there.clean()
        try:
            yield there
        finally:
            there.clean()


def ask(endpoint: str, seconds: float = 15.0) -> str:
    """One request on a connection of its own; the answer."""
    where = urlsplit(endpoint)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=seconds)
    if where.scheme == "https":
        connection = HTTPSConnection(where.hostname or "", where.port, timeout=seconds, context=unverified_context())
    try:
        connection.request("POST", "/infer", b"x")
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200, f"{answer.status}: {body}"
    return body


@dataclass
class Relay:
    """A TCP port that leads to the engine until it is cut."""

    port: int
    cut: Callable[[], None]


@contextmanager
def relay(secure: ssl.SSLContext | None = None) -> Iterator[Relay]:
    """A relay to the engine's socket, for the block; cutting it breaks connections, and refuses new ones.

    Args:
        secure: for an engine that asks its clients for certificates; None for one without TLS.
    """
    path = current_engine().host.removeprefix("unix://")
    listener = socket.create_server(("127.0.0.1", 0))
    pairs: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                if secure is not None:
                    try:
                        client = secure.wrap_socket(client, server_side=True)
                    except OSError:  # a client without the right certificate
                        client.close()
                        continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(path)
                pairs.extend((client, server))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def cut() -> None:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in pairs:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        pairs.clear()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield Relay(listener.getsockname()[1], cut)
    finally:
        cut()
        thread.join(5)


def failure(call: Callable[[], object]) -> Diagnostic:
    """Why it could not be deployed, with what to do about it."""
    with pytest.raises(DeployFailed) as caught:
        call()
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.remedy
    return diagnostic


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until it holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it does not become true"
        time.sleep(0.1)
