"""Wheels and their hashes: from a folder, from an index over HTTPS, and from one that is not there."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import WheelsMissing, fetch_wheels, hashes_in_folder, hashes_in_index
from tests.certificates import certificate
from tests.package_index import tiny_index


def test_wheels_of_a_folder_are_found_by_name_and_version(tmp_path: Path) -> None:
    files = {
        "prometheus_client-0.26.0-py3-none-any.whl": b"a",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl": b"b",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl": b"c",
        "numpy-2.4.5-cp311-cp311-manylinux_2_27_x86_64.whl": b"d",
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": b"e",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pins = ["numpy==2.4.6", "prometheus-client==0.26.0", "torch==2.13.0+cpu", "uvloop==0.23.0"]
    sha256 = {content: hashlib.sha256(content).hexdigest() for content in files.values()}
    assert hashes_in_folder(pins, tmp_path) == {
        "numpy==2.4.6": tuple(sorted((sha256[b"b"], sha256[b"c"]))),
        "prometheus-client==0.26.0": (sha256[b"a"],),
        "torch==2.13.0+cpu": (sha256[b"e"],),
        "uvloop==0.23.0": (),
    }


@pytest.fixture
def bare_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip without what this machine sets for it."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    others = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_PROXY", *others, *map(str.upper, others)):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.processes
@pytest.mark.usefixtures("bare_pip")
def test_an_index_of_an_own_authority_is_trusted_by_its_bundle_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = certificate(tmp_path, "authority")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate(tmp_path, "another")[0]))  # for other programs
    pair = certificate(tmp_path, "index", authority)
    listed, wheels = tmp_path / "requirements.txt", tmp_path / "wheels"
    with tiny_index(tmp_path / "served", pair) as url:
        with pytest.raises(WheelsMissing) as missing:
            hashes_in_index(["tiny==1.0"], BuildSettings("digits", pip_index=url), "linux/amd64")
        assert str(missing.value) == "pip on this machine does not trust the certificate of the package index"
        assert missing.value.untrusted
        settings = BuildSettings("digits", pip_index=url, ca_bundle=authority[0])
        (digest,) = hashes_in_index(["tiny==1.0"], settings, "linux/amd64").values()
        listed.write_text(f"tiny==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
        fetch_wheels(listed, settings, "linux/amd64", wheels)
    assert [path.name for path in wheels.iterdir()] == ["tiny-1.0-py3-none-any.whl"]


@pytest.mark.processes
@pytest.mark.usefixtures("bare_pip")
def test_an_index_is_asked_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
        settings = BuildSettings("digits", pip_index="https://index.example.com/simple")
        with pytest.raises(WheelsMissing):
            hashes_in_index(["tiny==1.0"], settings, "linux/amd64")
        server.shutdown()
        thread.join()
    assert asked[0] == "index.example.com:443"


@pytest.mark.processes
@pytest.mark.usefixtures("bare_pip")
def test_an_index_that_does_not_answer_is_a_reason_and_shows_no_password() -> None:
    settings = BuildSettings("digits", pip_index="http://reader:a-secret@127.0.0.1:9/simple")
    with pytest.raises(WheelsMissing) as missing:
        hashes_in_index(["packaging==26.3"], settings, "linux/amd64")
    assert str(missing.value) == "the package index does not answer"
    assert missing.value.pin == ""
