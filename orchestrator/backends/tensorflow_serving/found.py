"""Which TensorFlow Serving this machine has: `tensorflow_model_server` on the PATH, else an image of the Docker Engine.

Both are asked once in a process and for a short time, since every plan with a SavedModel asks. Nothing is pulled.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from orchestrator.backends.backend import Program

__all__ = ["IMAGE", "PROGRAM", "VERSION", "engine_silence", "found_program", "local_image", "missing"]

VERSION = "2.20.0"
"""What is rendered is made for this one."""

PROGRAM = "tensorflow_model_server"
IMAGE = f"tensorflow/serving:{VERSION}"
_GPU = "-gpu"
"""What the name of the image for GPUs ends with."""

_SECONDS = 2.0
_UNKNOWN = "of an unknown version"
_NOT_SERVERS = ("<none>", "-devel", "-devel-gpu", "mkl")


@dataclass(frozen=True, slots=True)
class _Engine:
    """What the Docker Engine says.

    Attributes:
        images: name → id, of TensorFlow Serving.
        silence: why it does not say which images it has; None where it does.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    silence: str | None = None


def missing(devices: int = 0) -> str | None:
    """Why no server can be started on this machine, with so many GPUs, with what to do; None if one can."""
    if shutil.which(PROGRAM) is not None:
        return None
    lacking = f"there is no {PROGRAM} on the PATH"
    if shutil.which("docker") is None:
        return f"{lacking}, and no docker that could run its image; install one of them"
    if (silence := engine_silence()) is not None:
        return f"{lacking}, and the Docker Engine does not say which images it has: {silence}"
    if local_image(devices) is None:
        return f"{lacking}, and the Docker Engine has no image of it; run: docker pull {_rendered(devices)}"
    return None


def found_program(devices: int = 0) -> Program | None:
    """What is started on this machine, with so many GPUs; None where nothing can be."""
    program = shutil.which(PROGRAM)
    if program is not None:
        version = _program_version(program)
        number = re.match(r"[0-9]+(\.[0-9]+)*", version)
        return Program(PROGRAM, version, rendered=number is not None and number[0] == VERSION)
    if missing(devices) is not None:
        return None
    image = local_image(devices)
    assert image is not None, "it is not missing"
    return Program(image, _engine(_docker(), _SECONDS).images[image], rendered=image == _rendered(devices))


def engine_silence() -> str | None:
    """Why the Docker Engine, where there is one and it would be asked, does not say which images it has."""
    if shutil.which(PROGRAM) is not None or shutil.which("docker") is None:
        return None
    return _engine(_docker(), _SECONDS).silence


def local_image(devices: int = 0, seconds: float = _SECONDS) -> str | None:
    """The image of TensorFlow Serving, for CPUs or GPUs, that the Docker Engine has; the version that mlo renders comes first.

    Args:
        devices: how many GPUs it is for.
        seconds: how long the engine may take to answer.

    Raises:
        ConnectionError: the engine does not answer.
    """
    engine = _engine(_docker(), seconds)
    if engine.silence is not None:
        raise ConnectionError(engine.silence)
    usable = [name for name in engine.images if name.endswith(_GPU) == bool(devices)]
    return _rendered(devices) if _rendered(devices) in usable else next(iter(usable), None)


def _rendered(devices: int) -> str:
    return f"{IMAGE}{_GPU}" if devices else IMAGE


def _docker() -> str:
    return shutil.which("docker") or "docker"


@cache
def _engine(docker: str, seconds: float) -> _Engine:
    argv = [docker, "image", "ls", "--no-trunc", "--filter", "reference=tensorflow/serving"]
    argv += ["--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return _Engine(silence=f"no answer within {seconds:g} s")
    except OSError as error:
        return _Engine(silence=str(error))
    if done.returncode != 0:
        return _Engine(silence=(done.stderr.strip().splitlines() or ["it does not say why"])[-1])
    told = [line.partition(" ") for line in done.stdout.splitlines()]
    return _Engine({name: known.strip() for name, _, known in told if name and not name.endswith(_NOT_SERVERS)})


@cache
def _program_version(program: str) -> str:
    """As the program says it: `TensorFlow ModelServer: 2.20.0+dev.sha.1234567`."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _UNKNOWN
    told = re.search(r"ModelServer: *(\S+)", done.stdout + done.stderr)
    return told[1] if told else _UNKNOWN
