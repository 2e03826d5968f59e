"""Drives a real browser (Chromium, headless) over its DevTools protocol: what a page does, says and asks the network for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import aiohttp
import pytest

__all__ = ["Page", "browse"]

_KEYS = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "Escape": 27}
_STARTS = 60.0


class Page:
    """A page in a browser of its own.

    Attributes:
        said: errors and warnings of the console, exceptions, and what the Content-Security-Policy has blocked.
        asked: URLs that were requested, but for the file itself and data in URLs.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session = ""
        self._loaded = asyncio.Event()
        self.said: list[str] = []
        self.asked: list[str] = []

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json({**message, **({"sessionId": self._session} if self._session else {})})
        return await asyncio.wait_for(answer, 60)

    async def listen(self) -> None:
        """Take answers and events until the browser ends."""
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                if "error" in event:
                    self._answers.pop(event["id"]).set_exception(RuntimeError(str(event["error"])))
                else:
                    self._answers.pop(event["id"]).set_result(event["result"])
            else:
                self._hear(event["method"], event["params"])

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.said.append(str(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.said.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:")):
                self.asked.append(url)

    async def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page in a new tab of this size, and wait until it is loaded."""
        target = await self.ask("Target.createTarget", url="about:blank")
        self._session = ""
        attached = await self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.ask(f"{domain}.enable")
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.ask("Emulation.setEmulatedMedia", features=features)
        self._loaded.clear()
        await self.ask("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), 60)

    async def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        found = await self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        """Press a key, or type a text."""
        if key not in _KEYS:
            await self.ask("Input.insertText", text=key)
            return
        code = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": _KEYS[key],
            **({"text": "\r"} if key == "Enter" else {}),
        }
        await self.ask("Input.dispatchKeyEvent", type="keyDown", **code)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in code.items() if k != "text"})

    async def move(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window."""
        await self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def picture(self, *, whole: bool = True) -> bytes:
        """The page as a PNG."""
        found = await self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    async def paper(self) -> bytes:
        """The page as a PDF."""
        found = await self.ask("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(found["data"])


def browse(visit: Callable[[Page], Awaitable[None]]) -> None:
    """Start a browser without a network and visit a page with it; skips the test where there is no browser."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not on the PATH: no browser opens the report")
    asyncio.run(_browse(program, visit))


async def _browse(program: str, visit: Callable[[Page], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with (
            _started(program, Path(profile)) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as socket,
        ):
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            try:
                await visit(page)
            finally:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening


@contextlib.asynccontextmanager
async def _started(program: str, profile: Path) -> AsyncIterator[str]:
    """The browser's address, from the file that it writes once it listens."""
    # Without its sandbox, which containers forbid: it opens files of our own. No name resolves, not even of a proxy.
    process = await asyncio.create_subprocess_exec(
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
        "--remote-debugging-port=0", "about:blank", stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    try:
        file, end = profile / "DevToolsActivePort", time.monotonic() + _STARTS
        while not (file.exists() and (found := re.match(r"(\d+)\n(/\S+)", file.read_text(encoding="utf-8")))):
            if time.monotonic() > end or process.returncode is not None:
                raise AssertionError(f"the browser did not start (exit code {process.returncode})")
            await asyncio.sleep(0.05)
        yield f"ws://127.0.0.1:{found[1]}{found[2]}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
