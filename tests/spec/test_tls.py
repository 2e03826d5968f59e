"""What is said of the certificate that a spec names, where a server on this machine would use it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from tests.certificates import certificate
from tests.spec.conftest import BASE, Load

_ELSEWHERE = "deploy: {target: folder, path: out}\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a spec may name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def tls(certificate: Path | str, key: Path | str, more: str = "") -> str:
    return f"{BASE}serving:\n  tls:\n    certificate: {certificate}\n    key: {key}\n{more}"


def refused(load: Load, text: str) -> Diagnostic:
    with pytest.raises(SpecInvalid) as caught:
        load(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.span is not None
    assert diagnostic.remedy
    return diagnostic


def test_a_good_certificate_is_accepted(load: Load, place: Path) -> None:
    made = certificate(place, "server")
    spec = load(tls(*made)).spec.serving.tls
    assert spec is not None
    assert (spec.certificate, spec.key) == (str(made[0]), str(made[1]))


@pytest.mark.parametrize(
    ("begins", "ends", "says"),
    [
        (timedelta(days=-2), timedelta(days=-1), "has expired"),
        (timedelta(days=1), timedelta(days=2), "is not valid yet"),
    ],
)
def test_a_certificate_that_clients_refuse_is_refused(
    load: Load, place: Path, begins: timedelta, ends: timedelta, says: str
) -> None:
    made = certificate(place, "server", begins=begins, ends=ends)
    found = refused(load, tls(*made))
    assert (found.code, found.message) == ("E481", f"the certificate in {made[0]} {says}")
    assert "UTC" in found.cause
    assert load(tls(*made, _ELSEWHERE)).spec.serving.tls is not None, "another machine may have another one"


def test_files_that_do_not_belong_together_or_cannot_be_read_are_refused(load: Load, place: Path) -> None:
    one, two = certificate(place, "one"), certificate(place, "two")
    locked = certificate(place, "locked", password=b"password")
    (place / "empty").write_text("")
    for files, line, says in (
        ((one[0], two[1]), 18, f"the key {two[1]} does not belong to the certificate {one[0]}"),
        ((place / "none.crt", one[1]), 17, f"{place / 'none.crt'} cannot be read"),
        ((one[0], place / "none.key"), 18, f"{place / 'none.key'} cannot be read"),
        ((place / "empty", one[1]), 17, f"{place / 'empty'} holds no certificate"),
        ((one[1], one[0]), 18, f"{one[0]} holds no private key"),
        ((locked[0], locked[1]), 18, f"the key {locked[1]} is encrypted"),
    ):
        found = refused(load, tls(*files))
        assert (found.code, found.message) == ("E481", says)
        assert found.span is not None
        assert found.span.line == line


def test_places_that_a_pod_could_not_mount_are_refused(load: Load) -> None:
    for files, more, says in (
        (("/run/s/m/tls.crt", "/run/s/n/tls.key"), "", "the certificate and its key are not two files of one folder"),
        (("/run/s/m/tls.pem", "/run/s/m/tls.pem"), "", "the certificate and its key are not two files of one folder"),
        (
            ("/run/s/m/tls.crt", "/run/s/m/tls.key"),
            "  auth: {token_file: /run/s/m/token}\n",
            "the tokens and the certificate",
        ),
        (("/run/s/m/tls.crt", "/run/s/m/tls.key"), "  auth: {token_file: /run/s/m/t/token}\n", "the tokens and the"),
    ):
        found = refused(load, tls(*files, more + _ELSEWHERE))
        assert found.code == "E480"
        assert found.message.startswith(says)
    load(tls("/run/s/m/tls.crt", "/run/s/m/tls.key", "  auth: {token_file: /run/s/mine/token}\n" + _ELSEWHERE))
