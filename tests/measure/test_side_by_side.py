"""Two servers that are asked in turns: when the new one is worse beyond doubt, and when it is not."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.measure import side_by_side
from orchestrator.measure.load_connections import http_request
from orchestrator.measure.side_by_side import Allowed, Asked, Compared, Disturbed, compared, measure_side_by_side, worse
from tests.certificates import certificate

EQUAL = Allowed(1.25, 1.25)


def rounds(factor: float, tail: float = 1.0, count: int = 12, each: int = 60) -> Compared:
    """What two servers answered of which the new one takes `factor` times as long, and `tail` times in one of twenty calls."""
    chance = random.Random(1)

    def segment(slow: float, slow_tail: float) -> list[float]:
        times = [0.003 * slow * chance.uniform(0.9, 1.3) for _ in range(each)]
        return [each * slow_tail if chance.random() < 0.05 else each for each in times]

    return compared([(segment(factor, tail), segment(1.0, 1.0)) for _ in range(count)], ({}, {}))


@pytest.mark.parametrize(
    ("seen", "allowed", "why"),
    [
        (rounds(1.0), EQUAL, ""),
        (rounds(1.1), EQUAL, ""),
        (rounds(2.0), EQUAL, "its calls take"),
        (
            rounds(2.0, count=5),
            EQUAL,
            "",
        ),  # five rounds prove nothing about medians, nor 300 answers about a tail of twice as much
        (rounds(2.0), Allowed(2.5, 2.5), ""),  # it was slower when it was decided
        (rounds(1.0, tail=8.0), EQUAL, "its p99 is at least"),
        (rounds(1.0, tail=8.0, count=2), EQUAL, ""),
        (rounds(0.5), EQUAL, ""),
    ],
)
def test_a_server_is_worse_only_beyond_doubt(seen: Compared, allowed: Allowed, why: str) -> None:
    found = worse(seen, allowed)
    assert found.startswith(why)
    assert bool(found) is bool(why), found


def test_what_disturbs_one_round_alone_does_not_make_a_server_worse() -> None:
    chance = random.Random(1)
    equal = [tuple([0.003 * chance.uniform(0.9, 1.3) for _ in range(160)] for _ in range(2)) for _ in range(12)]
    (new, old), *others = equal
    disturbed = compared([([4 * each for each in new], old), *((new, old) for new, old in others)], ({}, {}))
    assert worse(disturbed, EQUAL) == ""


def test_a_request_without_an_answer_is_enough() -> None:
    failed = compared([((0.003,), (0.003,))], ({"status 500": 1}, {}))
    assert worse(failed, EQUAL) == "1 of 2 requests failed, such as: status 500"
    both = compared([((0.003,), (0.003,))], ({"broken": 2}, {"broken": 3}))
    assert worse(both, EQUAL).endswith("of the old one's, 3 failed as well")


@contextmanager
def server(
    seconds: float,
    status: int = 200,
    failing: int = 0,
    failed: list[int] | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[int]:
    """A server whose first requests fail, so many as `failing`; `failed` counts them. `tls` are its certificate and key."""
    count = [0] if failed is None else failed

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            fails = count[0] < failing
            count[0] += fails
            self.send_response(503 if fails else status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield serving.server_port
    finally:
        serving.shutdown()
        serving.server_close()


REQUEST = [http_request("/v2/models/digits/infer", {"Content-Type": "application/json"}, b"{}")]


@pytest.mark.processes
def test_real_servers_are_told_apart_and_the_time_that_is_left_is_told(tmp_path: Path) -> None:
    looks, told = [0], list[float]()

    def look() -> None:
        looks[0] += 1
        left = [file for file in tmp_path.rglob("*") if file.is_file() and REQUEST[0] in file.read_bytes()]
        assert left == [], "requests may hold a token"

    with server(0.05) as slow, server(0.001) as fast:
        seen = measure_side_by_side(
            Asked(slow, REQUEST, False),
            Asked(fast, REQUEST, False),
            tmp_path,
            1.0,
            look,
            lambda left, _: told.append(left),
        )
    assert "its calls take" in worse(seen, EQUAL)
    assert seen.call is not None
    assert seen.call.rounds == len(told) == looks[0] >= 6
    assert min(len(seen.new), len(seen.old)) >= 6 * 3
    assert told == sorted(told, reverse=True)


@pytest.mark.processes
def test_servers_over_tls_are_compared_whatever_name_their_certificates_are_for(tmp_path: Path) -> None:
    """As the pods of a canary are: golden requests have checked the certificate on the same way."""
    one, two = (certificate(tmp_path, name) for name in ("one", "two"))
    with server(0.001, tls=one) as new, server(0.001, tls=two) as old, server(0.001) as plain:

        def measured(one: int, other: int) -> Compared:
            first, second = (Asked(port, REQUEST, tls=True) for port in (one, other))
            return measure_side_by_side(first, second, tmp_path / f"{one}", 1.0, lambda: None, lambda *_: None)

        seen = measured(new, old)
        assert (seen.new_failed, seen.old_failed) == ({}, {})
        assert seen.call is not None
        assert seen.call.rounds >= 6
        assert "requests failed" in worse(measured(plain, old), EQUAL)


@pytest.mark.processes
def test_a_server_that_answers_only_once_in_each_round_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_AT_MOST", 0.1)
    with server(0.25) as slow, server(0.001) as fast:
        seen = measure_side_by_side(
            Asked(slow, REQUEST, False), Asked(fast, REQUEST, False), tmp_path, 1.0, lambda: None, lambda *_: None
        )
    assert len(seen.new) >= 6
    assert "its calls take" in worse(seen, EQUAL)


@pytest.mark.processes
def test_rounds_that_are_disturbed_on_the_way_do_not_count_and_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_AT_MOST", 0.2)
    monkeypatch.setattr(side_by_side, "_PAUSE", 0.0)

    def measured(failing: int, *, told: bool) -> Compared:
        failed = [0]
        with server(0.001, failing=failing, failed=failed) as new, server(0.001) as old:
            return measure_side_by_side(
                Asked(new, REQUEST, False),
                Asked(old, REQUEST, False),
                tmp_path / f"{failing} {told}",
                0.5,
                lambda: None,
                lambda *_: None,
                lambda: failed[0] if told else 0,
            )

    seen = measured(2, told=True)
    assert (worse(seen, EQUAL), seen.new_failed) == ("", {})
    assert "503" in worse(measured(2, told=False), EQUAL)
    with pytest.raises(Disturbed, match=r"5 rounds in a row, such as: .*503"):
        measured(10**9, told=True)


@pytest.mark.processes
def test_the_first_failure_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_AT_MOST", 0.2)
    with server(0.001, status=500) as broken, server(0.001) as fast:
        begun = time.monotonic()
        seen = measure_side_by_side(
            Asked(broken, REQUEST, False), Asked(fast, REQUEST, False), tmp_path, 3600.0, lambda: None, lambda *_: None
        )
    assert time.monotonic() - begun < 60
    assert not seen.old_failed
    assert "500" in worse(seen, EQUAL)
