"""`mlo benchmark` against real servers: what it measures, compares and refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.measure.certificate import make_certificate
from tests.cli.conftest import Mlo, conforms
from tests.server.conftest import Running, add_model, starting

pytestmark = [pytest.mark.frameworks, pytest.mark.processes]

SHORT = ("--duration", "1s", "--connections", "4", "--rate", "100/s")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """Two of z = x + y; the second one asks for a token."""
    folder = tmp_path_factory.mktemp("servers")
    (folder / "tokens").write_text("open-sesame-and-more\n", encoding="ascii")
    with starting() as start:
        plain = start(add_model(tmp_path_factory.mktemp("plain")))
        yield plain, start(add_model(tmp_path_factory.mktemp("token"), token_file=str(folder / "tokens")))


def url(server: Running) -> str:
    return f"http://127.0.0.1:{server.port}/v2/models/m"


def test_the_url_of_a_model_is_told_and_then_measured(mlo: Mlo, servers: tuple[Running, Running]) -> None:
    plain, _ = servers
    refused = mlo("benchmark", f"http://127.0.0.1:{plain.port}", *SHORT, code=64).stderr
    assert "E680" in refused
    told = re.search(r"write it as (\S+)", refused)
    assert told

    done = mlo("benchmark", told[1].replace("NAME", "m"), *SHORT, "--p99", "10s", "--json")

    found = json.loads(done.stdout)
    conforms(found, "benchmark")
    (one,) = found["endpoints"]
    assert (one["open_loop"]["rate"], found["rate"]) == (100.0, 100.0)
    assert one["open_loop"]["p50"] <= one["open_loop"]["p99"] <= 10
    assert one["level"]["p99"]["over"] == 0
    assert one["level"]["p99"]["samples"] == one["open_loop"]["samples"]
    assert one["refused"] == {}
    assert found["comparison"] is None
    assert found["inputs"].startswith("made-up inputs")


def test_two_are_compared_and_a_token_is_sent_but_not_shown(
    mlo: Mlo, servers: tuple[Running, Running], tmp_path: Path
) -> None:
    plain, guarded = servers
    token = tmp_path / "token"
    token.write_text("open-sesame-and-more\n", encoding="ascii")
    without = mlo("benchmark", url(guarded), *SHORT, code=64).stderr
    assert "status 401" in without
    assert "--token-file" in without

    done = mlo("benchmark", url(plain), url(guarded), "--token-file", str(token), *SHORT)

    table, remarks = done.stdout.split("\n\n")[1:3]
    assert [line.split()[0] for line in table.splitlines()] == ["endpoint", url(plain), url(guarded)]
    assert "raw tensors" in remarks or "JSON" in remarks
    assert "the second one's median is" in done.stdout
    assert "open-sesame-and-more" not in done.stdout + done.stderr


def test_a_server_with_tls_must_show_a_certificate_that_is_trusted(mlo: Mlo, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    with starting() as start:
        server = start(add_model(tmp_path, tls={"certificate": made.certificate, "key": made.key}), ready=False)
        address = server.wait_for_log("live")["address"]
        server.wait_for_log("ready")
        there = f"https://localhost:{urlsplit(f'//{address}').port}/v2/models/m"
        refused = mlo("benchmark", there, *SHORT, code=64).stderr
        assert "certificate verify failed" in " ".join(refused.split())

        done = mlo("benchmark", there, "--ca", made.certificate, *SHORT)

    assert there in done.stdout


def test_a_cancelled_benchmark_leaves_no_request_with_its_token(
    servers: tuple[Running, Running], tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "benchmark", url(servers[0])]
    own = {"MLO_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env={**os.environ, **own}, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        until = time.monotonic() + 60
        while not list(tmp_path.glob("mlo-benchmark-*/0/load")) and time.monotonic() < until:
            time.sleep(0.05)
        running.terminate()
        assert b"interrupted" in running.stderr.read()

    assert running.returncode == 130
    assert not list(tmp_path.glob("mlo-benchmark-*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits"], "there is no deployment `digits`"),
        (["http://127.0.0.1:9/v2/models/m"], "Connection refused"),
        (["http://127.0.0.1:9/v2/models/m", "--rate", "fast"], "'fast' is no rate"),
        (["http://127.0.0.1:9/v2/models/m", "--p99", "20"], "20ms"),
        (["http://[::1/v2/models/m"], "Invalid IPv6 URL"),
        (["ftp://models.example.com/v2/models/m"], "not over ftp"),
        (["http://127.0.0.1:99999/v2/models/m"], "Port out of range"),
        (["http://127.0.0.1:9/v2/models/é"], "written as %XX"),
        (["http:///v2/models/m"], "it names no host"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(mlo: Mlo, arguments: list[str], said: str) -> None:
    assert said in mlo("benchmark", *arguments, code=64).stderr


def test_a_password_in_a_url_is_refused_and_not_repeated(mlo: Mlo) -> None:
    refused = mlo("benchmark", "http://me:open-sesame@127.0.0.1:9/v2/models/m", "--json", code=64)

    assert "--token-file" in refused.stderr
    assert "open-sesame" not in refused.stdout + refused.stderr
