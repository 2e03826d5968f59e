"""A process that stands by while a front takes over a port from another one, and finishes that if the command cannot.

For a moment neither front runs. A command that was killed or stopped (Ctrl-Z) just then would leave the port closed until the next one.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.machine.cpus import package_environment

if TYPE_CHECKING:
    from orchestrator.containers.engine import EngineAddress

__all__ = ["finish_exchange", "standing_by"]

_POLL_SECONDS = 0.5
_WATCH_SECONDS = 20.0
"""How long the engine may take for an order to stop the former front that it had when the command died."""
_SILENT_SECONDS = 10.0
"""After which a command that has not ended the exchange counts as one that was stopped; to do the same as it does no harm."""


@contextmanager
def standing_by(engine: EngineAddress, former: str, successor: str) -> Iterator[None]:
    """Let another process see to it that one of two fronts runs, should this one be killed or stopped in the block.

    It has a session of its own, so neither Ctrl-C nor the end of a terminal reaches it; it ends with the block.

    Args:
        engine: that has both.
        former: id of the front that is to be stopped.
        successor: id of the one that is to be started.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, json.dumps([asdict(engine), former, successor])],
        env=package_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            process.communicate(b"done")  # without this word, it takes the end of its input for the end of the command


def finish_exchange(api: Any, former: str, successor: str) -> None:
    """Start the successor once the former front has stopped, or the former one where the successor cannot be started.

    A successor that was removed was given up, by the command itself or by a later one, which has seen to the port.

    Args:
        api: of the engine.
        former: id of the front that is stopped.
        successor: id of the one that takes its place.
    """
    from docker.errors import APIError, NotFound  # noqa: PLC0415 - an extra, and slow to import

    until = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < until and _runs(api, successor) is False:
        if not _runs(api, former):
            try:
                api.start(successor)
            except NotFound:
                pass
            except APIError:
                api.start(former)
            return
        time.sleep(_POLL_SECONDS)


def _runs(api: Any, front: str) -> bool | None:
    """Whether a front runs; None if it was removed."""
    from docker.errors import NotFound  # noqa: PLC0415 - an extra

    try:
        return bool(api.inspect_container(front)["State"]["Running"])
    except NotFound:
        return None


def _main() -> None:
    engine, former, successor = json.loads(sys.argv[1])
    said, _, _ = select.select([sys.stdin], [], [], _SILENT_SECONDS)
    if said and sys.stdin.buffer.read():
        return
    from orchestrator.containers.engine import EngineAddress, connected  # noqa: PLC0415 - only if it is needed

    with connected(60.0, EngineAddress(**engine)) as client:
        finish_exchange(client.api, former, successor)


if __name__ == "__main__":
    _main()
