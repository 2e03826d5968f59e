"""A real browser (Chromium, headless) asks a rendered server with `serving.cors`, from pages of two origins."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.wire import encode_binary
from tests.render.served import ROW, Served

pytestmark = [pytest.mark.e2e, pytest.mark.frameworks, pytest.mark.processes]

_TOKEN = "one-of-the-tokens"
_PAGE = """\
<!doctype html><title>asks</title><script>
const url = "%(url)s", bytes = Uint8Array.from(atob("%(binary)s"), (each) => each.charCodeAt(0));
async function ask(path, options) {
  try {
    const answer = await fetch(url + path, options);
    const type = answer.headers.get("content-type") || "";
    const body = type.includes("json") ? await answer.json() : (await answer.arrayBuffer()).byteLength;
    return {status: answer.status, body, id: answer.headers.get("x-request-id"),
            header_length: answer.headers.get("inference-header-content-length")};
  } catch (error) { return {error: error.name}; }
}
(async () => {
  const infer = "/v2/models/digits/infer", token = {"Authorization": "Bearer %(token)s"};
  const found = {
    origin: location.origin,
    json: await ask(infer, {method: "POST", headers: {
      ...token, "Content-Type": "application/json", "X-Request-Id": "of-the-page"}, body: %(row)s}),
    binary: await ask(infer, {method: "POST", body: bytes, headers: {
      ...token, "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "%(length)s"}}),
    without_token: await ask(infer, {method: "POST", body: %(row)s}),
    live: await ask("/v2/health/live", {}),
    other_header: await ask("/v2/health/live", {headers: {"X-Other": "1"}}),
  };
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>
"""


@contextlib.contextmanager
def _site() -> Iterator[tuple[str, dict[str, str], Queue[dict[str, Any]]]]:
    """An origin of pages: its URL, where to put the page, and what the page tells it."""
    page: dict[str, str] = {}
    told: Queue[dict[str, Any]] = Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page["html"].encode() if self.path == "/" else b"")

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", page, told
        finally:
            server.shutdown()
            thread.join()


def _browse(url: str, told: Queue[dict[str, Any]]) -> dict[str, Any]:
    """What the page at this URL tells, opened in a new browser."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not on the PATH: no browser asks a server with `serving.cors`")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, (Path(profile) / "log").open("wb") as log:
        # Without its sandbox, which containers forbid: it opens two pages of our own.
        argv = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        argv += ["--disable-background-networking", f"--user-data-dir={profile}/user", "--remote-debugging-port=0", url]
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            return told.get(timeout=120)
        except Empty:
            raise AssertionError((Path(profile) / "log").read_text(errors="replace")) from None
        finally:
            process.terminate()
            process.wait(30)


def test_pages_of_the_allowed_origin_ask_and_those_of_another_are_refused(serve: Callable[..., Served]) -> None:
    x = {"x": np.array([[1, 2, 3]], np.float32)}
    body, headers = encode_binary(x)
    (length,) = (value for name, value in headers.items() if name.lower() == "inference-header-content-length")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, _site() as allowed, _site() as other:
        token = Path(folder) / "token"
        token.write_text(_TOKEN + "\n")
        served = serve(cors_origins=[allowed[0]], auth={"token_file": str(token), "secret": "digits-token"})
        html = _PAGE % {
            "url": served.url,
            "binary": base64.b64encode(body).decode(),
            "token": _TOKEN,
            "row": json.dumps(ROW),
            "length": length,
        }
        found = {}
        for url, page, told in (allowed, other):
            page["html"] = html
            found[url] = _browse(url, told)
    answers = found[allowed[0]]
    assert answers["origin"] == allowed[0]
    assert answers["json"]["status"] == 200
    (output,) = answers["json"]["body"]["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("y", [1, 3], [-1.0, -2.0, -3.0])
    assert answers["json"]["id"] == "of-the-page"
    assert answers["binary"]["status"] == 200
    assert int(answers["binary"]["header_length"]) > 0, "without it, a page cannot read raw tensors"
    assert answers["without_token"]["status"] == 401, "the page sees why"
    assert answers["live"]["status"] == 200
    assert answers["other_header"] == {"error": "TypeError"}, "headers that the server does not name are not sent"

    answers = found[other[0]]
    assert answers.pop("origin") == other[0]
    assert answers == {name: {"error": "TypeError"} for name in answers}
