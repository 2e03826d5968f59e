"""Starts TorchServe on this machine: `python -m orchestrator.backends.torchserve.start FOLDER SCRATCH PORT`.

Java replaces this process, so that signals to this process reach the server.

The path of a Unix socket is limited to 107 bytes, and `SCRATCH` may be longer than that. `/proc/PID/cwd` is an alias that
is always short and valid as long as the server runs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from orchestrator.backends.torchserve.config import local_properties

__all__ = ["command"]

_TEMPORARY = "tmp"
"""Below the scratch folder: sockets of the workers, links to models, native libraries of the front end."""


def command(folder: Path, scratch: str, port: int, *, java: str) -> tuple[list[str], dict[str, str]]:
    """Write `config.properties` into the current folder, which is the scratch folder; returns the command to run there.

    Args:
        folder: the folder that `TorchServe.write_folder` wrote.
        scratch: a short path of the current folder.
        port: of inference, on 127.0.0.1.
        java: path of the program.

    Returns:
        The argument list, and additional environment variables.

    Raises:
        RuntimeError: the package `torchserve` is missing.
    """
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package torchserve is not installed")
    package = Path(spec.origin).parent
    text = (folder / "config.properties").read_text(encoding="utf-8")
    Path("config.properties").write_text(local_properties(text, port, scratch), encoding="utf-8")
    temporary = f"{scratch}/{_TEMPORARY}"
    Path(_TEMPORARY).mkdir(exist_ok=True)
    argv = [java, f"@{folder / 'jvm.options'}"]
    argv += [f"-Dmodel_server_home={package.parent}", f"-Djava.io.tmpdir={temporary}"]
    argv += [f"-Dlog4j.configurationFile={(folder / 'log4j2.xml').as_uri()}"]
    argv += ["-cp", f"{package / 'frontend'}/*", "org.pytorch.serve.ModelServer", "--python", sys.executable]
    # -ncs: no snapshots of the configuration, the last of which would override the file at the next start.
    argv += ["-f", f"{scratch}/config.properties", "-s", str(folder / "model-store"), "-ncs"]
    env = {
        "TEMP": temporary,
        "TMPDIR": temporary,
        "LOG_LOCATION": f"{scratch}/logs",
        "METRICS_LOCATION": f"{scratch}/logs",
        "TS_CONFIG_FILE": f"{scratch}/config.properties",  # overrides -f, so an inherited value must not stay
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return argv, env


def _main(folder: str, scratch: str, port: str) -> None:
    java = shutil.which("java")
    if java is None:
        sys.exit("torchserve: java is not on the PATH")
    os.chdir(scratch)
    argv, env = command(Path(folder), f"/proc/{os.getpid()}/cwd", int(port), java=java)
    os.execve(java, argv, {**os.environ, **env})  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    _main(*sys.argv[1:4])
