"""TensorFlow Serving on this machine: which one there is, and its start.

`tensorflow_model_server` on the PATH comes first, then an image of the Docker Engine. Both are asked once in a process and for
a short time, since every plan with a SavedModel asks; nothing is pulled.

`python -m orchestrator.backends.tensorflow_serving.local FOLDER SCRATCH PORT THREADS` starts it. The program replaces that
process, so that a signal reaches it; a container runs for as long as that process does, which passes signals on.

The server has no handler for SIGTERM. As a child it is ended by the signal itself; as the first process of a container the
kernel would keep the signal from it, so there a shell stands before it (`_IN_CONTAINER`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.backends.backend import Program
from orchestrator.backends.folder import write_file
from orchestrator.backends.tensorflow_serving.config import (
    FLAGS_FILE,
    MODELS_FILE,
    REST_PORT,
    changed_flags,
    flag_values,
    models_config,
    read_models_config,
)
from orchestrator.containers.engine import EngineError, NoEngine, connected, image_ids

__all__ = [
    "CONTAINER_FILE",
    "GPU_ENVIRONMENT",
    "IMAGE",
    "PROGRAM",
    "VERSION",
    "container_options",
    "engine_silence",
    "found_program",
    "local_image",
    "missing",
    "program_command",
]

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
        absence: why there is none; None where there is one.
        silence: why it does not say which images it has; None where it does.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    absence: str | None = None
    silence: str | None = None


def missing(devices: int = 0) -> str | None:
    """Why no server can be started on this machine, with so many GPUs, with what to do; None if one can."""
    if shutil.which(PROGRAM) is not None:
        return None
    lacking = f"there is no {PROGRAM} on the PATH"
    engine = _engine(_host(), _SECONDS)
    if engine.absence is not None:
        return f"{lacking}, and no Docker Engine that could run its image ({engine.absence}); install one of them"
    if engine.silence is not None:
        return f"{lacking}, and the Docker Engine does not say which images it has: {engine.silence}"
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
    return Program(image, _engine(_host(), _SECONDS).images[image], rendered=image == _rendered(devices))


def engine_silence() -> str | None:
    """Why the Docker Engine, where there is one and it would be asked, does not say which images it has."""
    return None if shutil.which(PROGRAM) is not None else _engine(_host(), _SECONDS).silence


def local_image(devices: int = 0, seconds: float = _SECONDS) -> str | None:
    """The image of TensorFlow Serving, for CPUs or GPUs, that the Docker Engine has; the version that mlo renders comes first.

    Args:
        devices: how many GPUs it is for.
        seconds: how long the engine may take to answer.

    Raises:
        EngineError: the engine does not respond.
    """
    engine = _engine(_host(), seconds)
    if reason := engine.absence or engine.silence:
        raise EngineError(reason)
    usable = [name for name in engine.images if name.endswith(_GPU) == bool(devices)]
    return _rendered(devices) if _rendered(devices) in usable else next(iter(usable), None)


def _rendered(devices: int) -> str:
    return f"{IMAGE}{_GPU}" if devices else IMAGE


def _host() -> str:
    """What tells one engine from another: answers are remembered for a process."""
    return os.environ.get("DOCKER_HOST", "")


@cache
def _engine(host: str, seconds: float) -> _Engine:  # noqa: ARG001 - the key of what is remembered
    try:
        images = image_ids("tensorflow/serving", seconds)
    except NoEngine as error:
        return _Engine(absence=str(error))
    except EngineError as error:
        return _Engine(silence=str(error))
    return _Engine({name: known for name, known in images.items() if not name.endswith(_NOT_SERVERS)})


@cache
def _program_version(program: str) -> str:
    """As the program says it: `TensorFlow ModelServer: 2.20.0+dev.sha.1234567`."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _UNKNOWN
    told = re.search(r"ModelServer: *(\S+)", done.stdout + done.stderr)
    return told[1] if told else _UNKNOWN


GPU_ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
"""GPUs are numbered by the bus, as mlo names them. Their memory grows by what is needed, or it would take all there is; and
float32 is computed as float32, not as TF32."""

CONTAINER_FILE = "container"
"""In the scratch folder: the id of the container, where one serves."""

_ENGINE_SECONDS = 30.0
"""How long the Docker Engine may take to say which image it has: one is known to be there, and the machine may be busy."""

_IN_CONTAINER = """\
exec 3<&0
/usr/bin/tensorflow_model_server "$@" </dev/null 3<&- & server=$!
trap 'kill $server' TERM
cat <&3 >/dev/null & wait -n $server $!
code=$?
kill $server 2>/dev/null
wait $server
exit $code
"""
"""Ends the server on SIGTERM, and when the standard input ends, which it does when nobody is attached any more: a container
is no child of whoever runs it, and would outlive a `docker run` that is killed."""


def program_command(program: str, folder: Path, port: int, threads: int) -> list[str]:
    """The argument list of the program itself, run in the current folder, which is the scratch.

    A folder that was rendered for a container says where it lies there. Its models.config is written anew then, with the
    place where it lies here; a folder of this machine is served as it is, so that the server sees it change.
    """
    given = (folder / FLAGS_FILE).read_text(encoding="utf-8").splitlines()
    changes: dict[str, object] = {
        "grpc_socket_path": "grpc.sock",  # relative: the path of a Unix socket ends after 107 bytes
        "rest_api_port": port,
        "tensorflow_intra_op_parallelism": threads,
        "tensorflow_inter_op_parallelism": threads,
    }
    models = read_models_config((folder / MODELS_FILE).read_text(encoding="utf-8"))
    base = str(folder / "models" / models.name)
    if models.base != base:
        write_file(Path(MODELS_FILE), models_config(replace(models, base=base)))
        changes["model_config_file"] = MODELS_FILE
    return [program, *changed_flags(given, PurePosixPath(folder), **changes)]


def container_options(folder: Path, port: int, threads: int) -> dict[str, Any]:
    """How the container is created: REST on loopback, nothing to write but /tmp, the CPUs that this process may use."""
    from docker.types import DeviceRequest, Mount  # noqa: PLC0415 - an extra, which is there where an engine is asked

    given = (folder / FLAGS_FILE).read_text(encoding="utf-8").splitlines()
    seen_at = str(PurePosixPath(flag_values(given)["model_config_file"]).parent)
    server = json.loads((folder / "server.json").read_bytes())
    memory, devices = server["memory"], server["devices"]
    parallel = [f"--tensorflow_{which}_op_parallelism={threads}" for which in ("intra", "inter")]
    return {
        "entrypoint": ["/bin/bash"],
        "command": ["-c", _IN_CONTAINER, PROGRAM, *given, *parallel],
        "environment": GPU_ENVIRONMENT if devices else {},
        "ports": {f"{REST_PORT}/tcp": ("127.0.0.1", port)},
        "mounts": [Mount(seen_at, str(folder), type="bind", read_only=True)],
        "read_only": True,
        "tmpfs": {"/tmp": "size=64m,mode=1777"},  # noqa: S108 - in the container
        # As root it would read what it must not; as oneself it can read what one has made.
        "user": f"{os.getuid()}:{os.getgid()}" if os.getuid() else "65532:65532",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "cpuset_cpus": ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))),
        "mem_limit": memory,
        "memswap_limit": memory,
        "pids_limit": 1024,
        "init": True,
        "auto_remove": True,
        "stdin_open": True,  # ends when nobody is attached any more
        "detach": False,
        "device_requests": [DeviceRequest(count=devices, capabilities=[["gpu"]])] if devices else [],
    }


def _run_container(image: str, options: Mapping[str, Any]) -> int:
    """Run a container to its end with this process's output and signals; returns its exit code."""
    from docker.utils.socket import frames_iter  # noqa: PLC0415 - as above

    with connected(_ENGINE_SECONDS) as client:
        container = client.containers.create(image, **options)
        Path(CONTAINER_FILE).write_text(str(container.id), encoding="ascii")
        ended: list[int] = []
        waiting = threading.Thread(
            target=lambda: ended.append(container.wait(timeout=None, condition="next-exit")["StatusCode"]), daemon=True
        )
        attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        waiting.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: container.kill(signal.SIGTERM))
        container.start()
        for stream, frame in frames_iter(attached, tty=False):  # type: ignore[no-untyped-call]
            os.write(stream, frame)
        waiting.join(_ENGINE_SECONDS)
    return ended[0] if ended else 1


def _main(folder: str, scratch: str, port: str, threads: str) -> None:
    os.chdir(scratch)
    program = shutil.which(PROGRAM)
    if program is not None:
        argv = program_command(program, Path(folder), int(port), int(threads))
        os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
    devices = json.loads((Path(folder) / "server.json").read_bytes())["devices"]
    try:
        image = local_image(devices, _ENGINE_SECONDS)
        if image is None:
            sys.exit(f"{PROGRAM}: {missing(devices)}")
        sys.exit(_run_container(image, container_options(Path(folder), int(port), int(threads))))
    except EngineError as error:
        sys.exit(f"{PROGRAM}: the Docker Engine does not run it: {error}")


if __name__ == "__main__":
    _main(*sys.argv[1:5])
