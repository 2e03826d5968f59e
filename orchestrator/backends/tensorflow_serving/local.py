"""Finds and starts TensorFlow Serving on this machine.

`tensorflow_model_server` on the PATH takes precedence over an image of the Docker Engine. Both are looked up once per process,
with a short timeout, because every plan with a SavedModel does so; nothing is pulled.

`python -m orchestrator.backends.tensorflow_serving.local FOLDER SCRATCH PORT THREADS` starts it. The program replaces that
process, so that it gets signals; a container runs as long as that process, which forwards signals.

The server has no handler for SIGTERM. As a normal process it is ended by the signal itself; as the first process of a
container it would not get the signal from the kernel, so a shell starts it there (`_IN_CONTAINER`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.backends.backend import Program, Unavailable
from orchestrator.backends.folder import write_file
from orchestrator.backends.tensorflow_serving.config import (
    FLAGS_FILE,
    MODELS_FILE,
    REST_PORT,
    TensorFlowServingJson,
    changed_flags,
    flag_values,
    models_config,
    read_models_config,
)
from orchestrator.containers.attached import run_container
from orchestrator.containers.engine import EngineError, NoEngine, image_ids

__all__ = [
    "CONTAINER_FILE",
    "GPU_ENVIRONMENT",
    "IMAGE",
    "PROGRAM",
    "VERSION",
    "container_options",
    "engine_failure",
    "found_program",
    "local_image",
    "missing",
    "program_command",
]

VERSION = "2.20.0"
"""The version that rendered folders are made for."""

PROGRAM = "tensorflow_model_server"
IMAGE = f"tensorflow/serving:{VERSION}"
_GPU = "-gpu"
"""The suffix of the image for GPUs."""

_SECONDS = 2.0
_UNKNOWN = "of an unknown version"
_NOT_SERVERS = ("<none>", "-devel", "-devel-gpu", "mkl")


@dataclass(frozen=True, slots=True)
class _Engine:
    """The state of the Docker Engine.

    Attributes:
        images: name → id, of TensorFlow Serving.
        absence: why there is no engine; None if there is one.
        failure: why it did not list its images; None if it did.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    absence: str | None = None
    failure: str | None = None


def missing(devices: int = 0) -> Unavailable | None:
    """Why no server can be started on this machine with this number of GPUs, and what to do; None if one can."""
    if shutil.which(PROGRAM) is not None:
        return None
    lacking = f"{PROGRAM} is not on the PATH"
    engine = _engine(_host(), _SECONDS)
    if engine.absence is not None:
        return Unavailable(
            f"{lacking}, and there is no Docker Engine to run its image ({engine.absence})", "install one of them"
        )
    if engine.failure is not None:
        return Unavailable(
            f"{lacking}, and the Docker Engine did not list its images: {engine.failure}",
            "fix the Docker Engine; `docker images` shows the same",
        )
    if local_image(devices) is None:
        return Unavailable(f"{lacking}, and the Docker Engine has no image of it", f"docker pull {_rendered(devices)}")
    return None


def found_program(devices: int = 0) -> Program | None:
    """The program or image that is started on this machine with this number of GPUs; None if there is none."""
    program = shutil.which(PROGRAM)
    if program is not None:
        version = _program_version(program)
        number = re.match(r"[0-9]+(\.[0-9]+)*", version)
        return Program(PROGRAM, version, rendered=number is not None and number[0] == VERSION)
    if missing(devices) is not None:
        return None
    image = local_image(devices)
    assert image is not None, "nothing is missing"
    return Program(image, _engine(_host(), _SECONDS).images[image], rendered=image == _rendered(devices))


def engine_failure() -> str | None:
    """Why the Docker Engine did not list its images; None if it did, or if it is not needed or not there."""
    return None if shutil.which(PROGRAM) is not None else _engine(_host(), _SECONDS).failure


def local_image(devices: int = 0, seconds: float = _SECONDS) -> str | None:
    """The image of TensorFlow Serving in the Docker Engine, for CPUs or GPUs; the rendered version takes precedence.

    Args:
        devices: the number of GPUs.
        seconds: the timeout for the engine.

    Raises:
        EngineError: the engine does not respond.
    """
    engine = _engine(_host(), seconds)
    if reason := engine.absence or engine.failure:
        raise EngineError(reason)
    usable = [name for name in engine.images if name.endswith(_GPU) == bool(devices)]
    return _rendered(devices) if _rendered(devices) in usable else next(iter(usable), None)


def _rendered(devices: int) -> str:
    return f"{IMAGE}{_GPU}" if devices else IMAGE


def _host() -> str:
    """Identifies the engine, because results are cached in the process."""
    return os.environ.get("DOCKER_HOST", "")


@cache
def _engine(host: str, seconds: float) -> _Engine:  # noqa: ARG001 - a key of the cache
    try:
        images = image_ids("tensorflow/serving", seconds)
    except NoEngine as error:
        return _Engine(absence=str(error))
    except EngineError as error:
        return _Engine(failure=str(error))
    return _Engine({name: known for name, known in images.items() if not name.endswith(_NOT_SERVERS)})


@cache
def _program_version(program: str) -> str:
    """As printed by the program: `TensorFlow ModelServer: 2.20.0+dev.sha.1234567`."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _UNKNOWN
    found = re.search(r"ModelServer: *(\S+)", done.stdout + done.stderr)
    return found[1] if found else _UNKNOWN


GPU_ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
"""Number GPUs by bus id, as mlo does; allocate their memory as needed instead of all of it; compute float32 as float32, not
as TF32."""

CONTAINER_FILE = "container"
"""The file in the scratch folder with the container's id, if it runs in one."""

_ENGINE_SECONDS = 30.0
"""The timeout for listing images at the start: the image is known to exist, and the machine may be busy."""

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
"""Ends the server on SIGTERM, and when standard input ends because no process is attached any more: a container is not a child
of the process that runs it, and would survive if that process is killed."""


def program_command(program: str, folder: Path, port: int, threads: int) -> list[str]:
    """The argument list of the program, run in the current folder, which is the scratch folder.

    If the folder was rendered for a container, its models.config has the path in the container, and is rewritten with the
    path on this machine. Otherwise the folder is served directly, so that the server notices changes.
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
    """The options of the container: REST on loopback, only /tmp is writable, and the CPUs that this process may use."""
    from docker.types import DeviceRequest, Mount  # noqa: PLC0415 - an extra, which is installed if there is an engine

    given = (folder / FLAGS_FILE).read_text(encoding="utf-8").splitlines()
    seen_at = str(PurePosixPath(flag_values(given)["model_config_file"]).parent)
    server = TensorFlowServingJson.read(folder)
    memory, devices = server.memory, server.devices
    parallel = [f"--tensorflow_{which}_op_parallelism={threads}" for which in ("intra", "inter")]
    return {
        "entrypoint": ["/bin/bash"],
        "command": ["-c", _IN_CONTAINER, PROGRAM, *given, *parallel],
        "environment": GPU_ENVIRONMENT if devices else {},
        "ports": {f"{REST_PORT}/tcp": ("127.0.0.1", port)},
        "mounts": [Mount(seen_at, str(folder), type="bind", read_only=True)],
        "read_only": True,
        "tmpfs": {"/tmp": "size=64m,mode=1777"},  # noqa: S108 - in the container
        # Never as root; as the current user, it can read the user's files.
        "user": f"{os.getuid()}:{os.getgid()}" if os.getuid() else "65532:65532",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "cpuset_cpus": ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))),
        "mem_limit": memory,
        "memswap_limit": memory,
        "pids_limit": 1024,
        "init": True,
        "auto_remove": True,
        "stdin_open": True,  # ends when no process is attached any more
        "detach": False,
        "device_requests": [DeviceRequest(count=devices, capabilities=[["gpu"]])] if devices else [],
    }


def _main(folder: str, scratch: str, port: str, threads: str) -> None:
    os.chdir(scratch)
    program = shutil.which(PROGRAM)
    if program is not None:
        argv = program_command(program, Path(folder), int(port), int(threads))
        os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
    devices = TensorFlowServingJson.read(Path(folder)).devices
    try:
        image = local_image(devices, _ENGINE_SECONDS)
        if image is None:
            sys.exit(f"{PROGRAM}: {missing(devices)}")
        sys.exit(run_container(image, container_options(Path(folder), int(port), int(threads)), Path(CONTAINER_FILE)))
    except EngineError as error:
        sys.exit(f"{PROGRAM}: the Docker Engine cannot run it: {error}")


if __name__ == "__main__":
    _main(*sys.argv[1:5])
