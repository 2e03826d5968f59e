"""What engines and registries say, collected from real ones, and what users are told to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.images.build import build_image
from orchestrator.images.failures import build_failed, push_failed
from orchestrator.images.settings import BuildSettings
from tests.fake_engine import NO_ENGINE, fake_engine

_PIP = "Step 6/25 : RUN /opt/pip/bin/pip install --requirement /opt/requirements.txt"


@pytest.mark.parametrize(
    ("lines", "error", "code", "remedy"),
    [
        (
            ["Step 3/25 : RUN false"],
            "The command '/bin/sh -c false' returned a non-zero code: 1",
            "E631",
            "the last lines",
        ),
        (
            ["Step 15/25 : COPY --from=build /opt/venv /opt/venv"],
            "write /var/lib/docker/overlay2/x/diff/opt: no space left on device",
            "E633",
            "docker system prune",
        ),
        (
            ["Step 1/1 : FROM example.invalid/base:1"],
            'Get "https://example.invalid/v2/": dial tcp: lookup example.invalid on 10.0.0.2:53: no such host',
            "E634",
            "docker pull example.invalid/base:1",
        ),
        (
            [_PIP, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."],
            "The command '/bin/sh -c pip' returned a non-zero code: 1",
            "E631",
            "image: {build: {python: ...}}",
        ),
        (
            [_PIP, "ERROR: No matching distribution found for torch==2.13.0+cpu"],
            "The command '/bin/sh -c pip' returned a non-zero code: 1",
            "E631",
            "the index or the wheelhouse",
        ),
        (
            [
                _PIP,
                (
                    "WARNING: Retrying (...) after connection broken by 'NewConnectionError('<pip._vendor...>: Failed to establish a new "
                    "connection: [Errno -2] Name or service not known')': /whl/cpu/torch/"
                ),
                "ERROR: No matching distribution found for torch==2.13.0+cpu",
            ],
            "The command '/bin/sh -c pip' returned a non-zero code: 1",
            "E631",
            "image: {build: {wheelhouse: ...}}",
        ),
        (
            [
                "Step 3/25 : RUN apt-get update",
                "Err:1 http://mirror.example.com: Temporary failure resolving 'mirror.example.com'",
            ],
            "The command '/bin/sh -c apt-get update' returned a non-zero code: 100",
            "E631",
            "wheelhouse",
        ),
        (
            [
                _PIP,
                (
                    "WARNING: Retrying (...) after connection broken by 'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] "
                    "certificate verify failed: self-signed certificate in certificate chain (_ssl.c:1016)'))': /simple/tiny/"
                ),
                "ERROR: No matching distribution found for tiny==1.0",
            ],
            "The command '/bin/sh -c pip' returned a non-zero code: 1",
            "E631",
            "image: {build: {ca_bundle: FILE}}",
        ),
        (
            [
                "Step 3/25 : RUN apt-get update",
                (
                    "Err:1 https://mirror.example.com: Certificate verification failed: The certificate is NOT trusted. The certificate "
                    "issuer is unknown."
                ),
            ],
            "The command '/bin/sh -c apt-get update' returned a non-zero code: 100",
            "E631",
            "image: {base: ...}",
        ),
    ],
)
def test_a_failed_build_says_what_to_do(lines: list[str], error: str, code: str, remedy: str) -> None:
    said = build_failed("digits:1", error, lines).diagnostics[0]
    assert said.code == code
    assert remedy in said.remedy
    assert said.notes == tuple(lines)


@pytest.mark.parametrize(
    ("error", "code", "remedy"),
    [
        ("unauthorized: authentication required", "E635", "docker login r.example.com:5000"),
        ("no basic auth credentials", "E635", "docker login r.example.com:5000"),
        ("denied: requested access to the resource is denied", "E636", "as a user who may push there"),
        (
            'Get "https://r.example.com:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused',
            "E637",
            "check that",
        ),
        (
            'Get "https://r.example.com:5000/v2/": http: server gave HTTP response to HTTPS client',
            "E632",
            "insecure-registries",
        ),
        ('Get "https://r.example.com:5000/v2/": x509: certificate signed by unknown authority', "E632", "ca.crt"),
        ("blob upload unknown", "E632", "image.registry"),
        ("received unexpected HTTP status: 403 Forbidden", "E636", "as a user who may push there"),
        ("unexpected status from HEAD request to https://r.example.com:5000/v2/x: 401 ", "E635", "docker login"),
        (
            'Get "http://127.0.0.1:40123/v2/": dial tcp 127.0.0.1:40123: connect: connection refused',
            "E637",
            "check that",
        ),
        (
            'Get "http://127.0.0.1:40301/v2/": dial tcp 127.0.0.1:40301: connect: connection refused',
            "E637",
            "check that",
        ),
        ("dial tcp: lookup denied.example.com on 10.0.0.2:53: no such host", "E637", "check that"),
        ('unexpected answer from "https://r.example.com:5000/v2/4031/401"', "E632", "image.registry"),
    ],
)
def test_a_refused_push_says_what_to_do(error: str, code: str, remedy: str) -> None:
    said = push_failed("r.example.com:5000/team/digits:1", error).diagnostics[0]
    assert said.code == code
    assert remedy in said.remedy


@pytest.mark.parametrize(
    ("said", "code", "remedy"),
    [
        ("write /var/lib/docker/image: no space left on device", "E633", "docker system prune"),
        ("conflict: unable to tag", "E630", "mend what the engine says"),
        ("", "E630", "start the Docker Engine"),
    ],
)
def test_an_engine_that_refuses_is_told_from_one_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: str, remedy: str
) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").write_text('FROM scratch\nLABEL mlo.platform="linux/amd64"\n')
    with fake_engine() as engine:
        engine.refuses = said
        monkeypatch.setenv("DOCKER_HOST", engine.host if said else "unix:///nonexistent/docker.sock")
        with pytest.raises(DeployFailed) as failed:
            build_image(tmp_path, BuildSettings("digits"), tmp_path / "images", lambda _: None)
    found = failed.value.diagnostics[0]
    assert (found.code, remedy in found.remedy) == (code, True)
    assert ("does not answer" in found.message) is not bool(said)
    assert said in found.cause


@pytest.mark.parametrize(("code", "said"), [("E630", ""), ("E633", "write /var/lib/docker: no space left on device")])
def test_an_engine_that_is_chosen_or_has_space_again_is_asked_to_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    """The stand-in is no builder: it refuses for another reason, once it is asked."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").write_text('FROM scratch\nLABEL mlo.platform="linux/amd64"\n')

    def refusal() -> Diagnostic:
        with pytest.raises(DeployFailed) as failed:
            build_image(tmp_path, BuildSettings("digits"), tmp_path / "images", lambda _: None)
        return failed.value.diagnostics[0]

    with fake_engine() as engine:
        engine.refuses = said
        monkeypatch.setenv("DOCKER_HOST", engine.host if said else NO_ENGINE)
        before = refusal()
        assert before.code == code
        assert ("docker system prune" if said else "start the Docker Engine, or choose another one") in before.remedy
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        engine.refuses = "conflict: unable to tag"
        asked = len(engine.asked)
        after = refusal()
    assert len(engine.asked) > asked
    assert (after.code, after.message) != (before.code, before.message)
